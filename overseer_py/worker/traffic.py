"""What the kernel knows of this process's connections: no server has to count them.  tcp(7)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# struct tcp_info: eight bytes of flags, nine numbers, then milliseconds since data was sent,
# since an acknowledgement was sent (not kept), since data came, since an acknowledgement came.
_TIMES = struct.Struct("=8x36x4I")


def moving(within: float) -> bool:
    """Whether a connection was opened, or bytes came or went on one, in the last seconds.

    Counted are connections to the ports on which this process listens.  Of a unix socket the
    times are not known: it counts as long as it is open.
    """
    descriptors = _descriptors()
    places = set(_listening(descriptors).values())
    return any(_moves(fd, places, within) for fd in descriptors)


def listening() -> list[int]:
    """Return the descriptors on which connections are accepted."""
    return list(_listening(_descriptors()))


def idle_for(connection: socket.socket) -> float | None:
    """Return for how many seconds nothing has come or gone; None: not known."""
    times = _times(connection)
    return None if times is None else min(times)


def unanswered(connection: socket.socket) -> bool:
    """Whether something has come after the last thing that was sent."""
    times = _times(connection)
    return times is not None and times[1] < times[0]


def _times(connection: socket.socket) -> tuple[float, float, float] | None:
    """Return the seconds since data was sent, came, and was acknowledged."""
    if connection.family == socket.AF_UNIX:
        return None
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TIMES.size)
    sent, _, came, acknowledged = _TIMES.unpack(info)
    return sent / 1000, came / 1000, acknowledged / 1000


def _listening(descriptors: list[int]) -> dict[int, object]:
    found = {}
    for fd in descriptors:
        with _look_at(fd) as socket_:
            if socket_ and socket_.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                found[fd] = _place(socket_)
    return found


def _descriptors() -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed meanwhile
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                found.append(int(name))
    return found


def _moves(fd: int, places: set[object], within: float) -> bool:
    with _look_at(fd) as found:
        if found is None or _place(found) not in places:
            return False
        if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return False
        found.getpeername()  # or it is closed: OSError
        idle = idle_for(found)
        return idle is None or idle < within
    return False


@contextmanager
def _look_at(fd: int) -> Iterator[socket.socket | None]:
    """Give the stream socket behind a descriptor that is somebody else's: it is not closed here.

    Not a duplicate: that would keep open what its owner closes.
    """
    try:
        borrowed = socket.socket(fileno=fd)
    except OSError:  # closed meanwhile, or another file's by now
        yield None
        return
    try:
        with suppress(OSError):
            yield borrowed if borrowed.type == socket.SOCK_STREAM else None
    finally:
        borrowed.detach()


def _place(found: socket.socket) -> object:
    name = found.getsockname()
    return name[1] if isinstance(name, tuple) else name  # the host of a listener may be any
