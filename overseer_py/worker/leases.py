"""Once per service, not per worker: what exactly one worker does, over all slots and generations.

A lease is a lock on one byte of a file that all workers of a service share, and that lies in
memory (fcntl(2), F_SETLK).  So the kernel frees it when its holder dies, however that dies, and
knows who has it.  The old generation gives it up when it drains; then the new one gets it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from typing import Self

from overseer_py.worker.asking import ask

_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid
_ANSWER = 10.0  # seconds for a busy master
_LOOK = 0.2  # seconds between two tries, where waiting must be able to end: F_SETLKW knows no time

_file = -1
_taken: dict[str, threading.Lock] = {}  # in this process, where the kernel knows no rivals
_at_once = threading.Lock()


class Lease:
    """A right that one worker of the service has at a time.

    >>> import os
    >>> from overseer_py import worker
    >>> with worker.lease("reports") as lease:
    ...     print(lease.held, lease.holder() == os.getpid())
    True True
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._owner = 0  # the pid: a child that was forked has the object, but not the lock
        self._place = int.from_bytes(blake2b(name.encode(), digest_size=7).digest(), "little")

    @property
    def held(self) -> bool:
        """Whether this process has it, by this object."""
        return self._owner == os.getpid()

    def acquire(self, timeout: float | None = None) -> bool:
        """Wait until it is ours; False after ``timeout`` seconds.  None waits for ever."""
        deadline = None if timeout is None else time.monotonic() + timeout
        file, mine = _shared_file(), _taken.setdefault(self.name, threading.Lock())
        if not mine.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
            return False
        locked = False
        try:
            locked = self._lock(file, deadline)
        finally:
            if locked:
                self._owner = os.getpid()
            else:
                mine.release()
        return locked

    def release(self) -> None:
        """Give it up; whoever waits longest has it next."""
        if self.held:
            self._owner = 0
            fcntl.lockf(_shared_file(), fcntl.LOCK_UN, 1, self._place)
            _taken[self.name].release()

    def holder(self) -> int | None:
        """Return the pid of whoever has it; None if nobody does."""
        if (own := _taken.get(self.name)) and own.locked():
            return os.getpid()
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, self._place, 1, 0)
        kind, *_, pid = _FLOCK.unpack(fcntl.fcntl(_shared_file(), fcntl.F_GETLK, asked))
        return None if kind == fcntl.F_UNLCK else pid

    def every(self, seconds: float) -> Iterator[None]:
        """Yield every so many seconds while it is ours; wait for it first, and end at the drain.

        What is done for one turn is never cut short: the lease is given up behind it.

        >>> from overseer_py import worker
        >>> for _ in worker.lease("cleanup").every(3600):
        ...     print("cleaning up")
        ...     break
        cleaning up
        """
        from overseer_py.worker.departure import draining  # noqa: PLC0415 - for this alone

        while not draining.is_set():
            if not self.acquire(_LOOK):
                continue
            try:
                while not draining.is_set():
                    yield
                    draining.wait(seconds)
            finally:
                self.release()

    def _lock(self, file: int, deadline: float | None) -> bool:
        if deadline is None:
            fcntl.lockf(file, fcntl.LOCK_EX, 1, self._place)
            return True
        while True:
            with suppress(BlockingIOError, PermissionError):
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._place)
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(_LOOK, left))

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        import asyncio  # noqa: PLC0415 - slow to load, and there already where it is needed

        while not self.acquire(0):  # noqa: ASYNC110 - another process has it
            await asyncio.sleep(_LOOK)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()


def lease(name: str) -> Lease:
    """Return the lease of this name, which is nobody's yet or somebody else's.

    Every worker of the service that asks for the same name competes for it.  Without a master a
    process has every lease to itself.

    >>> from overseer_py import worker
    >>> with worker.lease("migrations"):
    ...     pass  # in one worker at a time
    """
    return Lease(name)


def _shared_file() -> int:
    """Return the file that all workers share, which the master has made."""
    global _file  # noqa: PLW0603 - one for the process: closing another one would free its locks
    with _at_once:
        if _file < 0:
            shared = ask("X_OVERSEER_LEASES=1", _ANSWER)
            if shared is None and os.environ.get("OVERSEER_PID"):
                raise TimeoutError("the master does not answer; is this still its worker?")
            _file = os.memfd_create("leases") if shared is None else shared
        return _file


def _forget() -> None:
    """Begin anew in a child that was forked: its parent's locks are not its own."""
    global _at_once  # noqa: PLW0603 - another thread of the parent's may have had it
    _at_once = threading.Lock()
    _taken.clear()


os.register_at_fork(after_in_child=_forget)
