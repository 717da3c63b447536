"""An aiohttp server whose kept-alive clients lose nothing in a restart.

overseer run --listen :8000 -- python3 examples/aiohttp_app.py
"""

from __future__ import annotations

import os

from aiohttp import web

from overseer_py import worker


async def hello(_: web.Request) -> web.Response:
    """Answer every request."""
    return web.Response(text=f"hello from {os.getpid()}\n")


async def linger(_: web.Application) -> None:
    """Have aiohttp's own handler called when clients have gone; it must be there already."""
    worker.draining.linger()


async def last_words(_: web.Request, response: web.StreamResponse) -> None:
    """Tell clients to go."""
    if worker.draining.begun:
        response.headers["Connection"] = "close"
        response.force_close()


app = web.Application()
app.router.add_get("/", hello)
app.on_startup.append(linger)
app.on_response_prepare.append(last_words)

if __name__ == "__main__":
    web.run_app(app, sock=list(worker.listeners()), print=None)
