"""What one worker leaves for another: descriptors and pieces of data, kept by the master.

A worker that drains can leave an upgraded WebSocket, an upload that is going on, or a warm cache;
the next generation takes it.  What nobody has taken when the generation after that one has begun is
closed.  A service has room for 64, those in memory of 64 MiB each at most; names have up to 64
letters.
"""

from __future__ import annotations

import fcntl
import os
from typing import Protocol

from overseer_py.worker.asking import ask, tell

_DATA = "overseer-data"  # the name of a file that holds a piece of data
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_ANSWER = 10.0  # seconds for a busy master to say that there is none
_LONGEST = 64
_LARGEST = 64 << 20


class HasFileno(Protocol):
    """A socket, a file, or whatever else has a descriptor."""

    def fileno(self) -> int:
        """Return the descriptor."""


def store(name: str, what: HasFileno | int | bytes) -> bool:
    """Leave a descriptor, or a piece of data, under a name; False where there is no master.

    The caller's own descriptor stays open, and can be closed at once.  Several can be left under
    one name: each is taken once, the oldest first.

    >>> from overseer_py import worker
    >>> worker.store("cache", b"warm") and worker.take("cache")
    b'warm'
    """
    _check(name)
    if isinstance(what, bytes):
        if len(what) > _LARGEST:
            raise ValueError(f"{name}: {len(what)} bytes; there is room for {_LARGEST >> 20} MiB")
        fd = _file_of(what)
        try:
            return tell(f"FDSTORE=1\nFDNAME={name}", [fd])
        finally:
            os.close(fd)
    fd = what if isinstance(what, int) else what.fileno()
    return tell(f"FDSTORE=1\nFDNAME={name}", [fd])


def take(name: str, timeout: float | None = 0.0) -> int | bytes | None:
    """Take what was left longest under a name: data as bytes, all else as a descriptor.

    None if there is nothing.  A descriptor is the caller's, to be closed.  ``timeout`` is in
    seconds: so long it waits for something to be left; None waits for ever.

    >>> from overseer_py import worker
    >>> worker.take("cache") is None
    True
    """
    _check(name)
    if timeout == 0.0:
        fd = ask(f"X_OVERSEER_TAKE={name}", _ANSWER)
    else:
        fd = ask(f"X_OVERSEER_TAKE={name}\nX_OVERSEER_WAIT=1", timeout)
    return fd if fd is None or not _is_data(fd) else _data_of(fd)


def _check(name: str) -> None:
    if not name or len(name) > _LONGEST or not name.isprintable():
        raise ValueError(f"{name!r}: a name has 1 to {_LONGEST} letters, and no line break")


def _file_of(data: bytes) -> int:
    fd = os.memfd_create(_DATA, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)  # nobody changes it while it is kept
    except OSError:
        os.close(fd)
        raise
    return fd


def _is_data(fd: int) -> bool:
    return os.readlink(f"/proc/self/fd/{fd}").startswith(f"/memfd:{_DATA}")


def _data_of(fd: int) -> bytes:
    with open(fd, "rb") as file:
        file.seek(0)
        return file.read()
