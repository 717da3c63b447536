"""An aiohttp server on the inherited socket: answers its generation, bytes received, its pid."""

import asyncio
import os
import socket

from aiohttp import web


async def answer(request):
    if request.path == "/slow":
        await asyncio.sleep(0.2)
    size = 0
    async for part in request.content.iter_any():
        size += len(part)
    return web.Response(text=f"{os.environ['OVERSEER_GENERATION']} {size} {os.getpid()}\n")


app = web.Application()
app.router.add_route("*", "/{path:.*}", answer)
web.run_app(app, sock=socket.socket(fileno=3), print=None, access_log=None)
