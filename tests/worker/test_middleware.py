"""What the middlewares say to servers, whatever server that is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from overseer_py.worker import asgi, wsgi
from overseer_py.worker.departure import Draining


@pytest.fixture
def draining(monkeypatch: pytest.MonkeyPatch) -> Iterator[Draining]:
    """Give the middlewares a drain of their own, that has begun."""
    mine = Draining()
    for module in (asgi, wsgi):
        monkeypatch.setattr(module, "draining", mine)
    monkeypatch.setattr(mine, "watch", lambda: None)
    monkeypatch.setattr(mine, "linger", lambda _: None)
    mine.begin()
    yield mine
    mine.wait()


class Response:
    """What gunicorn's response is to an application."""

    def __init__(self) -> None:
        self.closes = False

    def force_close(self) -> None:
        """Close the connection after the answer, and say so."""
        self.closes = True

    def start(self, *_: object) -> None:
        """Be start_response."""


class Channel:
    """What a connection of waitress is to an application."""

    def __init__(self) -> None:
        self.requests = [self]
        self.headers: dict[str, str] = {}

    def check_client_disconnected(self) -> bool:
        """Be in the environ."""
        return False


def hello(_: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer; the head must not say Connection."""
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]


@pytest.mark.usefixtures("draining")
def test_gunicorn_is_asked_to_close() -> None:
    """By the response that start_response belongs to."""
    response = Response()
    wsgi.DrainingMiddleware(hello)({}, response.start)
    assert response.closes


@pytest.mark.usefixtures("draining")
def test_waitress_is_asked_to_close() -> None:
    """As if the client had."""
    channel = Channel()
    environ = {"waitress.client_disconnected": channel.check_client_disconnected}
    wsgi.DrainingMiddleware(hello)(environ, lambda *_: None)
    assert channel.headers == {"CONNECTION": "close"}


@pytest.mark.usefixtures("draining")
def test_another_server_is_left_alone() -> None:
    """PEP 3333 forbids the header; the answer is what it was."""
    heads: list[tuple[Any, ...]] = []
    body = wsgi.DrainingMiddleware(hello)({}, lambda *head: heads.append(head))
    assert body == [b"hello"]
    assert heads == [("200 OK", [("Content-Length", "5")], None)]


def test_nobody_is_asked_before_it_is_time() -> None:
    """The connection is kept."""
    response, channel = Response(), Channel()
    environ = {"waitress.client_disconnected": channel.check_client_disconnected}
    wsgi.DrainingMiddleware(hello)(environ, response.start)
    assert not response.closes
    assert not channel.headers


class Streamed:
    """A body that is made while it is sent."""

    closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"he", b"llo"])

    def close(self) -> None:
        """Count."""
        self.closed += 1


@pytest.mark.usefixtures("draining")
def test_a_body_counts_until_it_is_closed() -> None:
    """A request is under way as long as its body is sent; its own close() is called."""
    streamed = Streamed()
    middleware = wsgi.DrainingMiddleware(lambda *_: streamed)
    body = middleware({}, lambda *_: None)
    assert b"".join(body) == b"hello"
    assert not middleware._all_answered()  # noqa: SLF001
    for _ in range(2):
        body.close()  # type: ignore[attr-defined]
    assert middleware._all_answered()  # noqa: SLF001
    assert streamed.closed == 2


@pytest.mark.usefixtures("draining")
def test_a_failing_application_does_not_count() -> None:
    """Its server has answered."""

    def fails(*_: object) -> list[bytes]:
        raise ValueError("of the application")

    middleware = wsgi.DrainingMiddleware(fails)
    with pytest.raises(ValueError, match="of the application"):
        middleware({}, lambda *_: None)
    assert middleware._all_answered()  # noqa: SLF001


@pytest.mark.usefixtures("draining")
def test_a_file_is_the_servers_to_send() -> None:
    """It looks at the type; a wrapper around it would hide that."""

    class FileWrapper(Streamed):
        pass

    file = FileWrapper()
    environ = {"wsgi.file_wrapper": FileWrapper}
    assert wsgi.DrainingMiddleware(lambda *_: file)(environ, lambda *_: None) is file


def head(version: str, *headers: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Return the headers of an ASGI application's answer, as the server gets them."""
    sent: list[Any] = []

    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    scope = {"type": "http", "http_version": version}
    asyncio.run(asgi.DrainingMiddleware(app)(scope, receive, send))
    found: list[tuple[bytes, bytes]] = sent[0]["headers"]
    return found


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.usefixtures("draining")
def test_an_answer_says_close(version: str) -> None:
    """Whatever the application says of the connection."""
    kept = (b"x-kept", b"1")
    assert head(version, (b"Connection", b"keep-alive"), kept) == [kept, (b"connection", b"close")]


@pytest.mark.parametrize("version", ["2", "3"])
@pytest.mark.usefixtures("draining")
def test_http_2_has_no_such_header(version: str) -> None:
    """It is forbidden there (RFC 9113, 8.2.2)."""
    assert head(version, (b"x-kept", b"1")) == [(b"x-kept", b"1")]


def test_an_answer_says_nothing_before_it_is_time() -> None:
    """The connection is kept."""
    assert head("1.1") == []
