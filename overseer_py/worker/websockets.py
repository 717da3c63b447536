"""WebSockets of an ASGI application, closed one after the other when the worker is to finish."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from overseer_py.worker.departure import draining

_RESTART = 1012  # "service restart", registered with IANA: the client may connect again
_SHARE = 0.8  # of the time that is left; then the server closes what remains all at once
_UNKNOWN = 10.0  # seconds, where nobody says how long a drain may take

_Message = MutableMapping[str, Any]
_Send = Callable[[_Message], Awaitable[None]]


class _WebSocket:
    """One of them: what the application says goes through here."""

    def __init__(self, send: _Send, accepted: Callable[[_WebSocket], None]) -> None:
        self._send = send
        self._accepted = accepted
        self._closed = False

    async def send(self, message: _Message) -> None:
        """Pass on what the application says; nothing more once we have closed it."""
        if self._closed:
            return
        await self._send(message)
        if message["type"] == "websocket.accept":
            self._accepted(self)

    async def close(self) -> None:
        """Tell the client; the application hears of it as of any disconnection."""
        self._closed = True
        with suppress(Exception):  # servers raise what they like if the client is gone
            await self._send({"type": "websocket.close", "code": _RESTART, "reason": "restart"})


class WebSockets:
    """All that are open in this process."""

    def __init__(self, spread: float | None) -> None:
        self._spread = spread
        self._open: dict[_WebSocket, None] = {}  # in their order
        self._closer: asyncio.Task[None] | None = None

    def all_closed(self) -> bool:
        """Whether none is left to be closed."""
        return not self._open

    async def serve(
        self, app: Callable[..., Awaitable[None]], scope: _Message, receive: object, send: _Send
    ) -> None:
        """Let the application serve one."""
        if asyncio._get_running_loop() is None:  # noqa: SLF001 - trio: left to the server
            await app(scope, receive, send)
            return
        if self._closer is None or self._closer.done():
            self._closer = asyncio.create_task(self._close_all())
        websocket = _WebSocket(send, self._accepted)
        try:
            await app(scope, receive, websocket.send)
        finally:
            self._open.pop(websocket, None)

    def _accepted(self, websocket: _WebSocket) -> None:
        self._open[websocket] = None

    async def _close_all(self) -> None:
        """Close one after the other; those that are opened meanwhile, too."""
        await draining
        end = time.monotonic() + self._window()
        while self._open:
            websocket = next(iter(self._open))
            await websocket.close()
            self._open.pop(websocket, None)
            if count := len(self._open):
                await asyncio.sleep(max(end - time.monotonic(), 0) / count)

    def _window(self) -> float:
        if self._spread is not None:
            return self._spread
        left = draining.left
        return _UNKNOWN if left is None else left * _SHARE
