"""A worker without listeners: it writes down each signal that it gets, and ends on TERM."""

import os
import signal
import sys

with open(sys.argv[1], "a", buffering=1) as notes:

    def note(number: int, _: object) -> None:
        notes.write(f"{os.getpid()} {signal.Signals(number).name}\n")
        if number == signal.SIGTERM:
            sys.exit(0)

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH):
        signal.signal(number, note)
    notes.write(f"{os.getpid()} up\n")
    while True:
        signal.pause()
