"""What a generation still has to do: connections in its queues, half open, or in a request.

Nobody is asked.  TCP_INFO (tcp(7)) of a listening socket counts what waits to be accepted, and
sock_diag(7) lists the connections; of a server's it tells when data last came and last went, in
milliseconds, but with the grain of a jiffy, so that ties are common.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from overseer_py.system import sockdiag
from overseer_py.system.sockdiag import Entry, State

STILL = 1000  # milliseconds without a byte after which a connection is between two requests

_OPEN = (State.ESTABLISHED, State.CLOSE_WAIT)
_HALF_OPEN = (State.SYN_RECEIVED, State.NEW_SYN_RECEIVED)
_TCP_INFO_SIZE = 104
_UNACKNOWLEDGED = 24  # offset of tcpi_unacked: of a listener, the connections that wait
_LAST_TIMES = struct.Struct("=III")  # tcpi_last_data_sent, _ack_sent (never set), _data_recv
_LAST_TIMES_AT = 44
_BYTES_RECEIVED = 128
_SEGMENTS_SENT = 156  # tcpi_data_segs_out
_WHOLE = 160  # bytes of tcp_info that are looked at; Linux 4.6 has them


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What keeps a worker from being quiet; false if it is nothing."""

    queued: int = 0
    half_open: int = 0
    requests: int = 0

    def __bool__(self) -> bool:
        return bool(self.queued or self.half_open or self.requests)

    def __str__(self) -> str:
        parts = {
            "in the queue": self.queued,
            "half open": self.half_open,
            "in a request": self.requests,
        }
        return "connections " + ", ".join(f"{what}: {n}" for what, n in parts.items() if n)


def waiting(listener: socket.socket) -> int:
    """Return how many connections (UDP: whether datagrams) wait on a socket for its worker."""
    if listener.family == socket.AF_UNIX:
        return sockdiag.unix_queue(listener)
    if listener.type == socket.SOCK_DGRAM:
        return _has_datagram(listener)
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    return int(struct.unpack_from("=I", info, _UNACKNOWLEDGED)[0])


def at_ports(listeners: Iterable[socket.socket]) -> Iterator[Entry]:
    """Yield the connections to the ports of these listeners, whoever has them, in one look.

    A half-open one stays with the socket that got its SYN, whatever is steered meanwhile.
    """
    places = {(o.family, o.getsockname()[1]): o for o in listeners if _is_tcp(o)}
    for listener in places.values():
        yield from _connections(listener, (*_OPEN, *_HALF_OPEN), info=True)


def is_half_open(connection: Entry) -> bool:
    """Whether the handshake is not done yet, so that no queue has the connection."""
    return connection.state in _HALF_OPEN


def accepted(listeners: Iterable[socket.socket], *, closely: bool = False) -> dict[int, float]:
    """Return the connections (by inode) to these listeners that somebody has accepted.

    Each with seconds that it has been open for at least: as long as its last data has come or gone
    (looked at ``closely`` only, since the kernel's list is four times as long then).
    """
    listeners = list(listeners)
    places = {(o.family, o.getsockname()[1]): o for o in listeners if _is_tcp(o)}
    found = {
        c.inode: _open_for(c)
        for o in places.values()
        for c in _connections(o, _OPEN, info=closely)
        if c.inode  # none: it waits in a queue
    }
    return found | dict.fromkeys(open_by_path(listeners), 0.0)


def open_by_path(listeners: Iterable[socket.socket]) -> set[int]:
    """Return the inodes of the connections that were accepted on these unix sockets.

    What goes on in them cannot be seen.
    """
    paths = {o.getsockname() for o in listeners if o.family == socket.AF_UNIX}
    return sockdiag.unix_connections(paths) if paths else set()


def is_busy(connection: Entry) -> bool:
    """Whether a server's connection is, or may be, in the middle of a request.

    It is not when the answer to all that came is out and acknowledged, and nothing has moved for
    a while: what was sent may have been the first part only.  Nor when nothing has come for that
    long on a fresh one.
    """
    if connection.unread or connection.unsent:
        return True
    info = connection.tcp_info
    if len(info) < _WHOLE:
        return True
    sent, _, received = _LAST_TIMES.unpack_from(info, _LAST_TIMES_AT)  # milliseconds ago
    if struct.unpack_from("=Q", info, _BYTES_RECEIVED)[0] == 0:
        return int(received) < STILL  # since it was set up
    if not _segments_sent(info) or received < sent:
        return True
    return int(sent) < (2 * STILL if received == sent else STILL)


def has_answered(connection: Entry) -> bool:
    """Whether the server has sent anything, so that an idle connection is a kept-alive one."""
    return _segments_sent(connection.tcp_info) > 0


def _open_for(connection: Entry) -> float:
    if len(connection.tcp_info) < _WHOLE:
        return 0.0
    sent, _, received = _LAST_TIMES.unpack_from(connection.tcp_info, _LAST_TIMES_AT)
    return float(max(sent, received)) / 1000


def _segments_sent(info: bytes) -> int:
    return int(struct.unpack_from("=I", info, _SEGMENTS_SENT)[0])


def _connections(
    listener: socket.socket, states: Iterable[State], *, info: bool
) -> Iterator[Entry]:
    if _is_tcp(listener):
        port = listener.getsockname()[1]
        for family in {listener.family, socket.AF_INET}:  # IPv6 may be both
            yield from sockdiag.at_port(family, socket.IPPROTO_TCP, port, states, info=info)


def _is_tcp(listener: socket.socket) -> bool:
    return listener.family != socket.AF_UNIX and listener.type == socket.SOCK_STREAM


def _has_datagram(listener: socket.socket) -> int:
    try:
        listener.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return 0
    return 1
