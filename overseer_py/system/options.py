"""Options of a socket (socket(7), tcp(7)), carried over to the one that takes its place."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import suppress

Option = tuple[int, int]  # level, name

_CONGESTION = socket.IPPROTO_TCP, socket.TCP_CONGESTION
_LONGEST_NAME = 16  # TCP_CA_NAME_MAX
_PROGRAMS: tuple[Option, ...] = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.SOL_SOCKET, socket.SO_OOBINLINE),
    (socket.SOL_SOCKET, socket.SO_PRIORITY),
    (socket.SOL_SOCKET, socket.SO_RCVBUF),
    (socket.SOL_SOCKET, socket.SO_SNDBUF),
    (socket.IPPROTO_IP, socket.IP_TOS),
    (socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT),
    (socket.IPPROTO_TCP, socket.TCP_FASTOPEN),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    (socket.IPPROTO_TCP, socket.TCP_MAXSEG),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
)
_DOUBLED = {socket.SO_RCVBUF, socket.SO_SNDBUF}  # the kernel returns twice what was set


def carry(source: socket.socket, target: socket.socket) -> None:
    """Set on the target what a program has set on the source: what is not as on a fresh one."""
    with socket.socket(source.family, source.type) as fresh:
        copy(_PROGRAMS, source, target, fresh)
        with suppress(OSError):
            name = source.getsockopt(*_CONGESTION, _LONGEST_NAME)
            if name != fresh.getsockopt(*_CONGESTION, _LONGEST_NAME):
                target.setsockopt(*_CONGESTION, name.rstrip(b"\0"))


def copy(
    options: Iterable[Option],
    source: socket.socket,
    target: socket.socket,
    fresh: socket.socket | None = None,
) -> None:
    """Set these as they are on the source, where they differ on the target (or a fresh one)."""
    for level, option in options:
        with suppress(OSError):  # not one of this family or type
            value = source.getsockopt(level, option)
            if value != (fresh or target).getsockopt(level, option):
                doubled = level == socket.SOL_SOCKET and option in _DOUBLED
                target.setsockopt(level, option, value // 2 if doubled else value)
