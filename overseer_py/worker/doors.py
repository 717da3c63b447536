"""The doors of an asyncio server: shut before the server itself shuts them.

A server that is told to stop closes what it has accepted and not yet read (uvicorn, hypercorn).
With one socket for all generations clients come until that moment.  So the loop stops accepting a
little before; whoever comes then is accepted by the new generation.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from overseer_py.worker import traffic

_MOMENT = 0.1  # seconds: nothing has moved for so long, so whoever was let in has been served
_LONGEST = 1.0


class Doors:
    """The listening sockets that the running event loop watches."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._shut_at: float | None = None

    def look(self) -> None:
        """Note which loop serves; costs little."""
        self._loop = asyncio._get_running_loop()  # noqa: SLF001 - None with trio

    def shut(self) -> bool:
        """Shut them, and return whether all who were let in have been served."""
        if self._loop is None:
            return True
        if self._shut_at is None:
            self._shut_at = time.monotonic()
            with suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._accept_nobody, self._loop)
            return False
        shut_for = time.monotonic() - self._shut_at
        return shut_for >= _LONGEST or (shut_for >= _MOMENT and not traffic.moving(_MOMENT))

    def _accept_nobody(self, loop: asyncio.AbstractEventLoop) -> None:
        for fd in traffic.listening():
            with suppress(NotImplementedError):
                loop.remove_reader(fd)  # the server's own close() finds it removed, and goes on
