"""An asyncio server on the listeners of the master, from ready to drained."""

from __future__ import annotations

import asyncio
import socket
import ssl as tls
from collections.abc import Iterable
from contextlib import suppress

from overseer_py.worker.conversations import TURNS, Answer, Conversations, Factory
from overseer_py.worker.departure import LINGER, draining
from overseer_py.worker.inherited import listeners as inherited
from overseer_py.worker.notices import ready

_BACKLOG = 4096  # as the master's
_RESERVE = 1.0  # seconds of the time for a drain that are kept for what comes after serving


async def serve(  # noqa: PLR0913 - each has a default that suits a service
    answer: Answer | Factory,
    *,
    listeners: Iterable[socket.socket] | None = None,
    linger: float = LINGER,
    stop_timeout: float | None = None,
    kill_timeout: float | None = None,
    ssl: tls.SSLContext | None = None,
) -> int:
    """Serve on all listeners, say that the worker is ready, and return once it is drained.

    ``answer`` is a coroutine function of a reader and a writer, as for asyncio.start_server(), or
    a factory of protocols.  When the worker is to finish, it serves on until no client is expected
    any more (``linger``, seconds at most), then accepts nobody and closes idle connections.  What
    is active is cancelled after ``stop_timeout`` and cut off after ``kill_timeout``: seconds since
    the end of the linger, by default as the master's time for a drain allows.  How many were
    cancelled or cut off is returned.

    A streams server's connection is idle if it reads after it has written.  Of a protocol's the
    kernel knows: nothing has come after the last answer, or moved within the linger.

    >>> import asyncio
    >>> from overseer_py import worker
    >>> async def echo(reader, writer):
    ...     while line := await reader.readline():
    ...         writer.write(line)
    ...         await writer.drain()
    >>> async def main():
    ...     async with asyncio.timeout(0.01):  # without a master there is nobody to end it
    ...         await worker.serve(echo)
    >>> asyncio.run(main())
    Traceback (most recent call last):
    TimeoutError
    """
    loop = asyncio.get_running_loop()
    conversations = Conversations(answer)
    sockets = [listener.dup() for listener in (inherited() if listeners is None else listeners)]
    servers = [
        await loop.create_server(conversations.begin, sock=one, ssl=ssl, backlog=_BACKLOG)
        for one in sockets
    ]
    try:
        ready()
        await draining
        await conversations.linger(linger)
        await _accept_nobody(loop, sockets)
    finally:
        for server in servers:
            server.close()
    return await conversations.finish(*_timeouts(stop_timeout, kill_timeout))


async def _accept_nobody(loop: asyncio.AbstractEventLoop, sockets: list[socket.socket]) -> None:
    """Stop accepting, and let those in who were accepted: a closed Server would drop them.

    (Server._attach() fails then, and the connection with it.)
    """
    for one in sockets:
        with suppress(NotImplementedError, RuntimeError):  # not of a loop that watches descriptors
            loop.remove_reader(one)
    for _ in range(TURNS):
        await asyncio.sleep(0)


def _timeouts(stop: float | None, kill: float | None) -> tuple[float | None, float | None]:
    left = draining.left
    if kill is None and left is not None:
        kill = max(left - _RESERVE, 0.0)
    if stop is None and kill is not None:
        stop = kill / 2
    return stop, kill
