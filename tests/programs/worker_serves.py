"""A server of lines: ``hang`` is never answered, ``cling`` not even when it is cancelled.

Lingers for as many seconds as it was told.
"""

import asyncio
import contextlib
import socket
import sys

from overseer_py import worker


async def answer(reader, writer):
    while line := await reader.readline():
        if line == b"hang\n":
            await asyncio.sleep(600)
        if line == b"cling\n":
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(600)
            await asyncio.sleep(600)
        if line == b"until the drain\n":
            await worker.draining
        writer.write(line)


async def main():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        late = await worker.serve(
            answer,
            listeners=[listener],
            linger=float(sys.argv[1]),
            stop_timeout=2.0,
            kill_timeout=2.2,
        )
    print("late", late, flush=True)


asyncio.run(main())
