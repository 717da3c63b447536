"""Serves; at TERM it goes on for as many seconds as it was told, then ends."""

import os
import signal
import sys
import threading

sys.path.insert(0, os.environ["EXAMPLES"])

import hello

seconds = float(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: threading.Timer(seconds, lambda: os._exit(0)).start())
signal.signal = lambda *_: None  # hello's own handler would end it at once
hello.main()
