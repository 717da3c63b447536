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
from overseer_py.worker.departure import draining

_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid
_ANSWER = 10.0  # seconds for a busy master
_LOOK = 0.2  # seconds between two tries: F_SETLKW knows no end, and sees deadlocks of threads

_Place = tuple[int, int]  # device and inode


class _Process:
    """What this process has: one descriptor of the file, since closing another frees its locks."""

    def __init__(self) -> None:
        self.file = -1
        self.place: _Place = (0, 0)
        self.at_once = threading.Lock()
        self.held: set[str] = set()
        self.taken: dict[str, threading.Lock] = {}  # the kernel knows no rivals in one process


_mine = _Process()


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
        """Whether this process has it, by this object.

        Not if it has closed all its descriptors meanwhile, as a program does that daemonizes.
        """
        return self._owner == os.getpid() and _is_open()

    def acquire(self, timeout: float | None = None) -> bool:
        """Wait until it is ours; False after ``timeout`` seconds, and once the drain has begun.

        None waits for as long as that takes.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        file, own = _shared_file(), _mine.taken.setdefault(self.name, threading.Lock())
        while not draining.begun:
            if own.acquire(blocking=False):
                if _lock(file, self._place):
                    self._owner = os.getpid()
                    _mine.held.add(self.name)
                    return True
                own.release()
            left = _LOOK if deadline is None else deadline - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(_LOOK, left))
        return False

    def release(self) -> None:
        """Give it up."""
        if self._owner != os.getpid():
            return
        self._owner = 0
        _mine.held.discard(self.name)
        if _is_open():
            fcntl.lockf(_mine.file, fcntl.LOCK_UN, 1, self._place)
        _mine.taken[self.name].release()

    def holder(self) -> int | None:
        """Return the pid of whoever has it; None if nobody does."""
        if self.name in _mine.held:
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
        while not draining.is_set():
            if not self.acquire(_LOOK):
                continue
            try:
                while not draining.is_set():
                    yield
                    draining.wait(seconds)
            finally:
                self.release()

    def __enter__(self) -> Self:
        if not self.acquire():
            raise _drained(self.name)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        import asyncio  # noqa: PLC0415 - slow to load, and there already where it is needed

        while not self.acquire(0):
            if draining.begun:
                raise _drained(self.name)
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


def _drained(name: str) -> InterruptedError:
    return InterruptedError(f"lease {name}: another worker has it, and this one is to finish")


def _lock(file: int, place: int) -> bool:
    with suppress(BlockingIOError, PermissionError):
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        return True
    return False


def _shared_file() -> int:
    """Return the file that all workers share, which the master has made."""
    with _mine.at_once:
        if not _is_open():
            shared = ask("X_OVERSEER_LEASES=1", _ANSWER)
            if shared is None and os.environ.get("OVERSEER_PID"):
                raise TimeoutError("the master does not answer; is this still its worker?")
            _mine.file = os.memfd_create("leases") if shared is None else shared
            _mine.place = _place_of(_mine.file)
        return _mine.file


def _is_open() -> bool:
    """Whether the descriptor is still that file's, and not closed or another's by now."""
    return _mine.file >= 0 and _place_of(_mine.file) == _mine.place


def _place_of(fd: int) -> _Place:
    try:
        found = os.fstat(fd)
    except OSError:
        return (-1, -1)
    return found.st_dev, found.st_ino


def _forget() -> None:
    """Begin anew in a child that was forked: its parent's locks are not its own."""
    _mine.at_once = threading.Lock()
    _mine.held.clear()
    _mine.taken.clear()


os.register_at_fork(after_in_child=_forget)
