"""socketserver and http.server that drain."""

from __future__ import annotations

import socket
from http.server import BaseHTTPRequestHandler
from socketserver import BaseRequestHandler, TCPServer
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from overseer_py.worker.connections import Connections
from overseer_py.worker.departure import LINGER, draining
from overseer_py.worker.notices import ready

_POLL = 0.05  # seconds until serve_forever() sees that it is to end
_RESERVE = 1.0  # seconds of the time for a drain that are kept for what comes after serving

if TYPE_CHECKING:
    _Server: TypeAlias = TCPServer
    _Handler: TypeAlias = BaseHTTPRequestHandler
else:  # mixed into servers of all kinds
    _Server = _Handler = object


class DrainingMixIn(_Server):
    """Counts a threaded server's connections and lets them end when the worker is to finish.

    >>> import socketserver
    >>> from overseer_py import worker
    >>> class Echo(socketserver.StreamRequestHandler):
    ...     def handle(self):
    ...         for line in self.rfile:
    ...             self.wfile.write(line)
    >>> class Server(worker.DrainingMixIn, socketserver.ThreadingTCPServer):
    ...     pass
    >>> for listener in worker.listeners():
    ...     Server.on(listener, Echo).serve_until_drained()
    """

    linger = LINGER  # seconds that clients have to come once more and be told
    daemon_threads = True  # what has not ended by the deadline is cut off

    @classmethod
    def on(cls, listener: socket.socket, handler: type[BaseRequestHandler]) -> Self:
        """Make a server on a socket that listens already."""
        server = cls(listener.getsockname(), handler, bind_and_activate=False)
        server.socket.close()
        listener.setblocking(False)  # another worker may take what woke this one
        server.socket = listener
        return server

    def __init__(self, *arguments: Any, **more: Any) -> None:  # noqa: ANN401 - any server's
        self.connections = Connections()
        super().__init__(*arguments, **more)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        return self.connections.accept(self.socket)

    def serve_until_drained(self) -> int:
        """Say that the worker is ready, serve, drain, close; return how many were cut off.

        To be called in the main thread, as it takes the drain signal.
        """
        draining.call(self._stop)
        ready()
        self.serve_forever(_POLL)
        left = draining.left
        cut = self.connections.finish(None if left is None else max(left - _RESERVE, 0))
        self.server_close()
        return cut

    def _stop(self) -> None:
        self.connections.linger(self.linger)
        self.shutdown()


class DrainingHandlerMixIn(_Handler):
    r"""Answers with ``Connection: close`` once the worker is to finish.

    >>> from http.server import BaseHTTPRequestHandler
    >>> from overseer_py import worker
    >>> class Hello(worker.DrainingHandlerMixIn, BaseHTTPRequestHandler):
    ...     protocol_version = "HTTP/1.1"
    ...     def do_GET(self):
    ...         self.send_response(200)
    ...         self.send_header("Content-Length", "6")
    ...         self.end_headers()
    ...         self.wfile.write(b"hello\n")
    """

    def end_headers(self) -> None:
        """Send them, with one more while draining."""
        if draining.begun and self.request_version != "HTTP/0.9":
            self.send_header("Connection", "close")  # and http.server does as it says
        super().end_headers()
