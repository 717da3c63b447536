"""Serves fds 3, 4 and 5, each as abrupt.py does."""

import os
import sys
import threading

sys.path.insert(0, os.path.dirname(__file__))

import abrupt

for fd in (4, 5):
    threading.Thread(target=abrupt.main, args=[fd], daemon=True).start()
abrupt.main()
