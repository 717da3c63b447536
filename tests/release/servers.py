"""Servers on loopback that do what they are told, also what no server should.

    with Server() as server:
        server.at("/app", body(b"…"))                  # one answer for all requests
        server.at("/app", refusal(500), body(b"…"))    # one after the other, the last for good
        fetch(server.url + "/app")
        assert server.seen[0].headers["Authorization"]

An answer is a function that writes to a request's connection: ``def answer(to: Exchange) -> None``.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Seen:
    """A request that has come."""

    method: str
    path: str
    headers: Message


class Exchange(BaseHTTPRequestHandler):
    """One request, and what is written back."""

    protocol_version = "HTTP/1.1"
    server: _Listener

    def head(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        """Send the status and the headers; the connection ends with this answer."""
        self.send_response(status)
        for name, value in {"Connection": "close", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True

    def pause(self, seconds: float) -> bool:
        """Wait; return False if the server is to end."""
        return not self.server.ending.wait(seconds)

    def do_GET(self) -> None:
        """Answer what the test has laid down for the path."""
        seen = Seen(self.command, self.path, self.headers)
        self.server.seen.append(seen)
        with suppress(ConnectionError, ssl.SSLError):  # the client has had enough
            self.server.answer(self.path.partition("?")[0])(self)

    do_HEAD = do_PUT = do_GET  # noqa: N815 - as http.server calls them

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Be quiet."""


Answer = Callable[[Exchange], None]


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.ending = threading.Event()
        self.seen: list[Seen] = []
        self.answers: dict[str, list[Answer]] = {}
        self._lock = threading.Lock()

    def answer(self, path: str) -> Answer:
        with self._lock:
            answers = self.answers.get(path, [refusal(404)])
            return answers.pop(0) if len(answers) > 1 else answers[0]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that go away are what half of the tests are about."""


class Server:
    """A web server in threads of this process; with a certificate it speaks TLS."""

    def __init__(self, certificate: Path | None = None) -> None:
        self._listener = _Listener()
        self.seen = self._listener.seen
        scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._listener.socket = context.wrap_socket(
                self._listener.socket, server_side=True, do_handshake_on_connect=False
            )
            scheme = "https"
        self.host = f"127.0.0.1:{self._listener.server_port}"
        self.url = f"{scheme}://{self.host}"

    def at(self, path: str, *answers: Answer) -> str:
        """Lay down the answers for a path, and return its URL."""
        self._listener.answers[path] = list(answers)
        return self.url + path

    def __enter__(self) -> Self:
        threading.Thread(
            target=self._listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.ending.set()
        self._listener.shutdown()
        self._listener.server_close()


@contextmanager
def nobody() -> Iterator[str]:
    """Give the URL of a place where nobody listens, nor can: it is bound."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


# -- answers as they should be --------------------------------------------------------------------


def body(content: bytes, status: int = 200, **headers: str) -> Answer:
    """Return the answer that is right; an underscore in a header's name is a hyphen."""

    def answer(to: Exchange) -> None:
        to.head(status, {"Content-Length": str(len(content)), **_named(headers)})
        to.wfile.write(content)

    return answer


def chunked(*chunks: bytes, end: bool = True) -> Answer:
    """Return the answer of a server that does not know the length; without an end it breaks off."""

    def answer(to: Exchange) -> None:
        to.head(200, {"Transfer-Encoding": "chunked"})
        for chunk in chunks:
            to.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        to.wfile.write(b"0\r\n\r\n" if end else b"")

    return answer


def conditional(content: bytes, etag: str, modified: str = "") -> Answer:
    """Return the answer of a server that knows 304."""

    def answer(to: Exchange) -> None:
        headers = {"ETag": etag} | ({"Last-Modified": modified} if modified else {})
        if to.headers.get("If-None-Match") == etag:
            to.head(304, headers)
        else:
            body(content, 200, **headers)(to)

    return answer


def redirect(to_url: str, status: int = 302) -> Answer:
    """Return the answer that sends elsewhere."""
    return body(b"", status, Location=to_url)


def refusal(status: int, **headers: str) -> Answer:
    """Return the answer of a server that will not, or cannot."""
    return body(b"no", status, **headers)


# -- answers as they should not be ----------------------------------------------------------------


def truncated(content: bytes, promised: int) -> Answer:
    """Return an answer whose body ends before its promised length."""

    def answer(to: Exchange) -> None:
        to.head(200, {"Content-Length": str(promised)})
        to.wfile.write(content)

    return answer


def endless(status: int = 200, **headers: str) -> Answer:
    """Return an answer whose body never ends and whose length is not known."""

    def answer(to: Exchange) -> None:
        to.head(status, _named(headers))
        while to.pause(0):
            to.wfile.write(bytes(1 << 16))

    return answer


def trickle(pause: float = 1.0, status: int = 200, **headers: str) -> Answer:
    """Return an answer whose body comes byte by byte, one in so many seconds, for ever."""

    def answer(to: Exchange) -> None:
        to.head(status, _named(headers))
        while to.pause(pause):
            to.wfile.write(b"x")

    return answer


def trickled_headers(pause: float = 1.0) -> Answer:
    """Return an answer whose headers come byte by byte, for ever."""

    def answer(to: Exchange) -> None:
        to.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while to.pause(pause):
            to.wfile.write(b"x")

    return answer


def raw(content: bytes) -> Answer:
    """Return an answer of just these bytes, whether they are HTTP or not."""

    def answer(to: Exchange) -> None:
        to.wfile.write(content)
        to.close_connection = True

    return answer


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
