"""ASGI: clients are told to go, one by one, before the server closes their connections.

For uvicorn, hypercorn, daphne, and gunicorn's workers for them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from overseer_py.worker.departure import LINGER, draining
from overseer_py.worker.doors import Doors
from overseer_py.worker.websockets import WebSockets

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class DrainingMiddleware:
    """Let kept-alive connections and WebSockets end politely when the worker is to finish.

    From the drain signal on, answers carry ``Connection: close``; the server itself gets the signal
    when no client is expected any more that has come within ``linger`` seconds, and after so many
    at the latest.  WebSockets are closed with 1012 (service restart), evenly over ``spread``
    seconds, by default most of the time that the master gives: their clients do not come back all
    at once.

    To be the outermost application.

    >>> from overseer_py.worker.asgi import DrainingMiddleware
    >>> async def hello(scope, receive, send):
    ...     await send({"type": "http.response.start", "status": 200, "headers": []})
    ...     await send({"type": "http.response.body", "body": b"hello"})
    >>> app = DrainingMiddleware(hello)
    """

    def __init__(self, app: App, *, linger: float = LINGER, spread: float | None = None) -> None:
        self.app = app
        self._websockets = WebSockets(spread)
        self._doors = Doors()
        draining.linger(linger)
        draining.hold(self._websockets.all_closed)
        draining.hold(self._doors.shut)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, or the life of the server."""
        draining.watch()  # the server may have installed its handler since
        self._doors.look()
        if scope["type"] == "http" and scope.get("http_version", "1.1") < "2":
            await self.app(scope, receive, _polite(send))
        elif scope["type"] == "websocket":
            await self._websockets.serve(self.app, scope, receive, send)
        else:  # HTTP/2 has no such header; its server says GOAWAY
            await self.app(scope, receive, send)


def _polite(send: Send) -> Send:
    async def polite(message: Message) -> None:
        if draining.begun and message["type"] == "http.response.start":
            headers = [(k, v) for k, v in message.get("headers", ()) if k.lower() != b"connection"]
            message = {**message, "headers": [*headers, (b"connection", b"close")]}
        await send(message)

    return polite
