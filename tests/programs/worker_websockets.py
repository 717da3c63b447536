"""An ASGI application that keeps WebSockets open, and says on stderr how each ended."""

import os
import sys

from overseer_py.worker.asgi import DrainingMiddleware


async def plain(scope, receive, send):
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
    await send({"type": "websocket.send", "text": "too late"})  # nobody hears it, nothing breaks
    sys.stderr.write(f"ended with {message['code']}\n")


app = DrainingMiddleware(plain, spread=float(os.environ["SPREAD"]))
