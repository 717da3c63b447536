"""HTTP on asyncio's streams: drained by serve(), or as a program does at TERM."""

import asyncio
import os
import sys

from overseer_py import worker

ANSWER = f"{os.environ['OVERSEER_GENERATION']} 0 {os.getpid()}\n"


async def answer(reader, writer):
    while line := await reader.readline():
        while line.strip():
            line = await reader.readline()
        last = worker.draining.begun and sys.argv[1:] != ["plain"]
        how = "close" if last else "keep-alive"
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(ANSWER)}\r\nConnection: {how}\r\n\r\n"
        writer.write(f"{head}{ANSWER}".encode())
        if last:
            break
    writer.close()


class Protocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.data = b""

    def data_received(self, data):
        self.data += data
        while b"\r\n\r\n" in self.data:
            self.data = self.data.partition(b"\r\n\r\n")[2]
            how = "close" if worker.draining.begun else "keep-alive"
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(ANSWER)}\r\nConnection: {how}\r\n\r\n"
            self.transport.write(f"{head}{ANSWER}".encode())
            if how == "close":
                self.transport.close()


async def plain():
    async with await asyncio.start_server(answer, sock=worker.listeners()[0]):
        worker.ready()
        await worker.draining


match sys.argv[1:]:
    case ["plain"]:
        asyncio.run(plain())
    case ["protocol"]:
        asyncio.run(worker.serve(Protocol))
    case _:
        asyncio.run(worker.serve(answer))
