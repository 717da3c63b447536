"""Serves, and leaves a grandchild behind that called setsid twice, holds the socket, ignores TERM."""

import os
import signal
import sys

sys.path.insert(0, os.environ["EXAMPLES"])

import hello

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setpgid(0, 0)
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            print(f"stray {os.getpid()}", file=sys.stderr, flush=True)
            while True:
                signal.pause()
        os._exit(0)
    os._exit(0)
os.wait()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "stubborn" in sys.argv:
    signal.signal = lambda *_: None  # hello's handler for TERM is not installed either
hello.main()
