"""HTTP by hand on asyncio's streams, from ready to drained by one call.

overseer run --listen :8000 --ready notify -- python3 examples/asyncio_server.py
"""

from __future__ import annotations

import asyncio
import os

from overseer_py import worker


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests until the client goes, or is told to go."""
    while (await reader.readline()).strip():
        while (await reader.readline()).strip():
            pass  # a header
        last = worker.draining.begun
        body = f"hello from {os.getpid()}\n"
        head = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}"]
        head += ["Connection: close"] if last else []
        writer.write("\r\n".join([*head, "", body]).encode())
        await writer.drain()
        if last:
            return


if __name__ == "__main__":
    asyncio.run(worker.serve(hello))
