"""Serves fd 3 after a listen(2) of its own, and shuts it down if it is the generation SHUT_DOWN."""

import os
import runpy
import socket
import sys
import threading
from pathlib import Path

abrupt = runpy.run_path(str(Path(__file__).with_name("abrupt.py")), init_globals=None)
listener = socket.socket(fileno=os.dup(3))
listener.listen(5)
if os.environ.get("SHUT_DOWN") == os.environ["OVERSEER_GENERATION"]:
    threading.Timer(0.15, listener.shutdown, [socket.SHUT_RDWR]).start()
while True:
    try:
        abrupt["main"](os.dup(3))
    except OSError:
        sys.stderr.write("shut down\n")
        threading.Event().wait(0.05)
