"""An aiohttp server that tells its clients to go."""

import os

from aiohttp import web

from overseer_py import worker


async def answer(_):
    return web.Response(text=f"{os.environ['OVERSEER_GENERATION']} 0 {os.getpid()}\n")


async def last_words(_, response):
    worker.draining.watch()
    if worker.draining.begun:
        response.headers["Connection"] = "close"
        response.force_close()


async def linger(_):
    worker.draining.linger()


app = web.Application()
app.router.add_get("/", answer)
app.on_startup.append(linger)
app.on_response_prepare.append(last_words)
web.run_app(app, sock=list(worker.listeners()), print=None, access_log=None)
