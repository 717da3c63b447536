"""Serves, and leaves a grandchild behind that called setsid twice and ignores TERM."""

import os
import signal
import sys
import threading

sys.path.insert(0, os.environ["EXAMPLES"])

import hello


def stay():
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stderr.write(f"stray {os.getpid()}\n")
    sys.stderr.flush()
    while True:
        signal.pause()


if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        if os.fork() == 0:
            stay()
        os._exit(0)
    os._exit(0)
os.wait()
if "stubborn" in sys.argv:
    signal.sigwait = lambda _: threading.Event().wait()
hello.main()
