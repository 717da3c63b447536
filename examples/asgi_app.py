"""An ASGI application whose kept-alive clients and WebSockets lose nothing in a restart.

overseer run --listen :8000 --chdir examples -- uvicorn --fd {fd} asgi_app:app
overseer run --listen :8000 --chdir examples -- hypercorn -b fd://{fd} -w 0 asgi_app:app
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from overseer_py.worker.asgi import DrainingMiddleware

Message = dict[str, Any]


async def hello(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[..., Awaitable[None]]
) -> None:
    """Answer every request; echo what comes by WebSocket."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message.get("text") or ""})
    elif scope["type"] == "http":
        body = f"hello from {os.getpid()}\n".encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


app = DrainingMiddleware(hello)
