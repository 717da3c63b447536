"""The program that every supervisor here runs: as small as a web server in Python can be.

gunicorn tiny:app           brings its own server
tiny.py PORT                binds the port itself
tiny.py                     serves on the socket at fd 3
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterable
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment


def app(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer every request."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
    return [b"hello\n"]


class Quiet(WSGIRequestHandler):
    """Logs nothing."""

    log_message: Callable[..., None] = lambda *_: None


def main() -> None:
    """Serve for ever."""
    if len(sys.argv) > 1:
        server = WSGIServer(("127.0.0.1", int(sys.argv[1])), Quiet)
    else:
        server = WSGIServer(("", 0), Quiet, bind_and_activate=False)
        server.socket.close()
        server.socket = socket.socket(fileno=3)
        server.server_name, server.server_port = server.socket.getsockname()[:2]
        server.setup_environ()
    server.set_app(app)
    server.serve_forever()


if __name__ == "__main__":
    main()
