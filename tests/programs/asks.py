"""Evaluates the lines that come by the FIFO PLACE/GENERATION-SLOT; says what came of each."""

import asyncio  # noqa: F401 - for what it is told
import os
import queue
import socket
import sys
import tempfile
import threading
from collections.abc import Callable

from overseer_py.worker.asking import tell
from overseer_py.worker.deposits import store, take  # noqa: F401 - for what it is told
from overseer_py.worker.leases import Lease, lease  # noqa: F401

listener = socket.socket(fileno=3)
connections: list[socket.socket] = []
ends: list[socket.socket] = []
leases: list[Lease] = []
results: queue.Queue[object] = queue.Queue()
big = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the worker lives


def accept() -> None:
    connections.append(listener.accept()[0])


def begin(call: Callable[[], object]) -> None:
    threading.Thread(target=lambda: results.put(call()), daemon=True).start()


def ended() -> object:
    return results.get(timeout=60)


def forked(call: Callable[[], object]) -> object:
    """Return what a call in a child returns."""
    read_end, write_end = os.pipe()
    if not os.fork():
        os.write(write_end, repr(call()).encode())
        os._exit(0)
    os.wait()
    return eval(os.read(read_end, 4096))


async def within(wanted: Lease) -> bool:
    async with wanted as held:
        return held.held


path = f"{os.environ['PLACE']}/{os.environ['OVERSEER_GENERATION']}-{os.environ['OVERSEER_SLOT']}"
os.mkfifo(path)
tell("READY=1")
# For writing, too, fifo(7): it never ends, so no line comes while it is closed and opened again.
with open(os.open(path, os.O_RDWR)) as fifo:
    for line in fifo:
        number, _, text = line.partition(" ")
        try:
            answer = repr(eval(text))
        except Exception as error:  # noqa: BLE001 - an answer, too
            answer = repr(error)
        sys.stderr.write(f"answer {number}: {answer}\n")
