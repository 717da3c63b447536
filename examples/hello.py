"""A server that knows nothing of overseer: it serves HTTP on the socket it finds at fd 3.

    overseer run --listen :8000 -- python3 examples/hello.py

Standard library only.  Run by hand, without a socket at fd 3, it says what to do.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STOP = {signal.SIGTERM, signal.SIGINT}


class Hello(BaseHTTPRequestHandler):
    """Answers every GET with the pid of the process that serves it."""

    def do_GET(self) -> None:
        """Answer."""
        body = f"hello from {os.getpid()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


class Server(ThreadingHTTPServer):
    """Takes the listening socket that it is given, and finishes what it has when asked to stop."""

    daemon_threads = False  # so that server_close() waits for the requests in progress

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(("", 0), Hello, bind_and_activate=False)
        self.socket.close()
        self.socket = listener


def main() -> None:
    """Serve until SIGTERM, then finish what was begun."""
    try:
        listener = socket.socket(fileno=3)
    except OSError:
        sys.exit("no socket at fd 3; try: overseer run --listen :8000 -- python3 examples/hello.py")
    listener.setblocking(False)  # another worker may take the connection that woke this one
    server = Server(listener)
    # Waited for, not handled: a handler that calls shutdown() can meet a lock that it interrupted.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    threading.Thread(target=server.serve_forever, args=[0.05]).start()
    signal.sigwait(STOP)
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    main()
