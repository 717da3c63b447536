"""A broken version: it never gets as far as to serve, and does not stop when asked."""

import signal

signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("waiting for a lock that nobody frees", flush=True)
while True:
    signal.pause()
