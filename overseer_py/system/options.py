"""What a program has set on a socket of its own, carried over to the one that takes its place."""

from __future__ import annotations

import socket
from contextlib import suppress

_CONGESTION_NAME = 16  # TCP_CA_NAME_MAX
_NUMBERS = (
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
    """Set on the target what was set on the source: what differs there from a fresh socket."""
    with socket.socket(source.family, source.type) as fresh:
        for level, option in _NUMBERS:
            with suppress(OSError):  # not one of this family
                value = source.getsockopt(level, option)
                if value != fresh.getsockopt(level, option):
                    doubled = level == socket.SOL_SOCKET and option in _DOUBLED
                    target.setsockopt(level, option, value // 2 if doubled else value)
        with suppress(OSError):
            _carry_congestion(source, target, fresh)


def _carry_congestion(source: socket.socket, target: socket.socket, fresh: socket.socket) -> None:
    option = socket.IPPROTO_TCP, socket.TCP_CONGESTION
    name = source.getsockopt(*option, _CONGESTION_NAME)
    if name != fresh.getsockopt(*option, _CONGESTION_NAME):
        target.setsockopt(*option, name.rstrip(b"\0"))
