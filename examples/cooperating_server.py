"""A threaded HTTP server that works together with its master; the standard library alone.

    overseer run --listen web=:8000 --ready notify -- python3 examples/cooperating_server.py

It finds its socket by name, says when it is ready, lets kept-alive connections end without losing
a request, and can ask for its own replacement:  curl -X POST localhost:8000/restart
"""

from __future__ import annotations

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from overseer_py import worker


class Hello(worker.DrainingHandlerMixIn, BaseHTTPRequestHandler):
    """Answers every GET with who it is."""

    protocol_version = "HTTP/1.1"  # connections are kept alive

    def do_GET(self) -> None:
        """Answer."""
        self.answer(f"hello from {os.getpid()}, generation {worker.generation}\n")

    def do_POST(self) -> None:
        """Have the whole service replaced: this worker, too."""
        self.answer("restarting\n" if worker.restart() else "no master\n")

    def answer(self, text: str) -> None:
        """Send it."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


class Server(worker.DrainingMixIn, ThreadingHTTPServer):
    """Knows its connections."""


def main() -> None:
    """Serve until the drain is over."""
    listeners = worker.listeners()
    if "web" not in listeners:
        sys.exit("no socket named web; try: overseer run --listen web=:8000 -- python3 …")
    worker.status("serving")
    cut = Server.on(listeners["web"], Hello).serve_until_drained()
    if cut:
        print(f"{cut} connections were cut off", file=sys.stderr)


if __name__ == "__main__":
    main()
