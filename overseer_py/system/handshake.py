"""A handshake with ourselves: a client of the master's own, which proves where it is led to."""

from __future__ import annotations

import errno
import select
import socket
import struct
from contextlib import suppress

from overseer_py.system.group import Entrance, way_to

_PATIENCE = 500  # milliseconds
_AT_ONCE = struct.pack("ii", 1, 0)  # struct linger: a close leaves nothing behind


def greet(client: socket.socket, entrance: Entrance) -> bool:
    """Connect (UDP: send) without waiting for long; tell whether anybody was there."""
    client.setblocking(False)
    if client.type == socket.SOCK_DGRAM:
        with suppress(OSError):
            client.sendto(b"", entrance.place)
            return True
        return False
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    if client.connect_ex(entrance.place) not in (0, errno.EINPROGRESS):
        return False
    if not is_ready(client, select.POLLOUT):
        return False
    if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        return False
    client.send(b"\n")  # with TCP_DEFER_ACCEPT it is nobody's before its first byte
    return True


def is_ready(sock: socket.socket, events: int) -> bool:
    """Wait, not for long, until one of the events is there."""
    poll = select.poll()
    poll.register(sock, events)
    return bool(poll.poll(_PATIENCE))


def take_one(member: socket.socket) -> None:
    """Take what has arrived there, and let go of it."""
    if member.type == socket.SOCK_DGRAM:
        member.recv(1, socket.MSG_DONTWAIT)
    else:
        member.accept()[0].close()


def bound_beside(member: socket.socket) -> socket.socket:
    """Return a socket bound to the address of the member: nobody else comes from there."""
    family, place = way_to(member)
    client = socket.socket(family, member.type)
    try:
        client.bind((place[0], 0, *place[2:]))
    except OSError:
        client.close()
        raise
    return client
