"""A server that restarts itself without losing a request: one import, one changed line.

    python3 examples/library_mode.py
    overseer restart library_mode         # or: kill -USR2 PID, of the process that was started

It needs overseer-py installed, and no other command in front.
"""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import overseer_py


class Hello(BaseHTTPRequestHandler):
    """Answers every GET with the worker that serves it."""

    def do_GET(self) -> None:
        """Answer."""
        body = f"hello from {os.environ.get('OVERSEER_GENERATION')}, {os.getpid()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def main(state: overseer_py.State) -> None:
    """Serve until the worker is to end, then finish what was begun."""
    server = ThreadingHTTPServer(("", 0), Hello, bind_and_activate=False)
    server.daemon_threads = False  # so that server_close() waits for them
    server.socket.close()
    server.socket = state.listener
    server.socket.setblocking(False)  # another worker may take the connection that woke this one
    threading.Thread(target=server.serve_forever, args=[0.05]).start()
    state.draining.wait()
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    overseer_py.run(main, listen=[":3000"])  # instead of: main()
