"""To the master and back: datagrams on NOTIFY_SOCKET, with descriptors.  sd_notify(3)."""

from __future__ import annotations

import os
import socket
import struct
from array import array
from collections.abc import Sequence

_INT = array("i").itemsize
_PATIENCE = struct.pack("ll", 5, 0)  # struct timeval


def tell(message: str, fds: Sequence[int] = (), *, patient: bool = True) -> bool:
    """Send a message to the master; False if there is none, or it does not hear.

    If its queue is full it waits for room, some seconds at most; or not at all.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    flags = 0 if patient else socket.MSG_DONTWAIT
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _PATIENCE)
            sender.sendmsg([message.encode()], rights, flags, address.replace("@", "\0", 1))
        except OSError:
            return False
    return True


def ask(message: str, seconds: float | None) -> int | None:
    """Return the descriptor with which the master answers; None if there is none so soon.

    ``seconds`` of None wait for ever.  Never both: what the master has sent is taken.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            if not tell(message, [theirs.fileno()]):
                return None
        ours.settimeout(seconds)
        try:
            return _receive(ours)
        except TimeoutError:
            ours.shutdown(socket.SHUT_RD)  # from here on the master keeps what it has
            ours.setblocking(False)
            return _receive(ours)


def _receive(ours: socket.socket) -> int | None:
    room = socket.CMSG_SPACE(_INT)
    try:
        _, ancillary, *_ = ours.recvmsg(1, room, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        return None
    for _, kind, value in ancillary:
        if kind == socket.SCM_RIGHTS:
            return array("i", value)[0]
    return None
