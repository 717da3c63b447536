"""Serves; at TERM it goes on for as many seconds as it was told, or until a FIFO opens; ends."""

import os
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, os.environ["EXAMPLES"])

import hello

asked_to_stop = signal.sigwait


def asked_long_ago(signals):
    asked_to_stop(signals)
    if sys.argv[1].startswith("/"):
        Path(sys.argv[1]).read_bytes()
    else:
        threading.Event().wait(float(sys.argv[1]))


signal.sigwait = asked_long_ago
hello.main()
