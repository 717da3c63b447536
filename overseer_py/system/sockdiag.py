"""The kernel's own list of sockets.  sock_diag(7) over netlink; no privilege is needed.

The server's side of a connection has an inode once a process has accepted it, and 0 before.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_REQUEST = 1  # NLM_F_REQUEST
_DUMP = 0x300  # NLM_F_DUMP
_ERROR = 2  # NLMSG_ERROR
_DONE = 3  # NLMSG_DONE
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_INET_SOCKET_ID = struct.Struct("!HH16s16s")
_ANYTHING = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # interface; no cookie
_EVERY_STATE = 0xFFFFFFFF
_INET_MESSAGE = struct.Struct("=xBxx 2x2s16s16s12x 4xII4xI")  # struct inet_diag_msg
_OWN_PORT_AT = 4
_INET_INFO = 2  # INET_DIAG_INFO, as an attribute; as an extension asked for, bit 1
_INET_ONLY_IPV6 = 11  # INET_DIAG_SKV6ONLY: of one that listens, or is bound (UDP)
_UNIX_MESSAGE_SIZE = 16  # struct unix_diag_msg
_UNIX_INODE = struct.Struct("=4xI")
_UNIX_NAME = 1  # UDIAG_SHOW_NAME
_NAME_ATTRIBUTE = 0  # UNIX_DIAG_NAME
_UNIX_FILE = 2  # UDIAG_SHOW_VFS
_FILE_ATTRIBUTE = 1  # UNIX_DIAG_VFS: inode, device
_UNIX_PEER = 4  # UDIAG_SHOW_PEER
_PEER_ATTRIBUTE = 2  # UNIX_DIAG_PEER
_UNIX_QUEUE = 0x10  # UDIAG_SHOW_RQLEN
_QUEUE_ATTRIBUTE = 4  # UNIX_DIAG_RQLEN
_BUFFER = 1 << 18
_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104 - nothing is bound here


class State(IntEnum):
    """States of a TCP socket, as include/net/tcp_states.h numbers them."""

    ESTABLISHED = 1
    SYN_RECEIVED = 3
    CLOSED = 7  # UDP: bound, not connected
    CLOSE_WAIT = 8
    LISTEN = 10
    NEW_SYN_RECEIVED = 12  # a handshake that is half done


class Entry(NamedTuple):
    """One socket, from the kernel's side."""

    state: int
    address: bytes  # its own: 16 bytes, an IPv4 one in the first 4
    peer: tuple[bytes, bytes]  # port, address
    unread: int  # bytes received and not read; a listener's: connections that wait
    unsent: int  # bytes written and not acknowledged
    inode: int
    attributes: bytes

    @property
    def tcp_info(self) -> bytes:
        """The struct tcp_info; empty if it was not asked for."""
        return self._attribute(_INET_INFO)

    @property
    def only_ipv6(self) -> bool:
        """Whether a socket that listens at an IPv6 address takes no IPv4."""
        return any(self._attribute(_INET_ONLY_IPV6))

    def _attribute(self, wanted: int) -> bytes:
        found = (value for kind, value in _attributes(self.attributes, 0) if kind == wanted)
        return next(found, b"")


def server_inode(client: socket.socket) -> int:
    """Return the inode of the other end of a connection on this machine; 0: not accepted yet."""
    return _unix_inode(client) if client.family == socket.AF_UNIX else _inet_inode(client)


def at_port(
    family: int, protocol: int, port: int, states: Iterable[State], *, info: bool = False
) -> Iterator[Entry]:
    """Yield the sockets in these states whose own port this is; raise OSError."""
    mask = sum(1 << state for state in states)
    extension = 1 << (_INET_INFO - 1) if info else 0
    request = struct.pack("=BBBxI", family, protocol, extension, mask)
    request += _INET_SOCKET_ID.pack(port, 0, b"", b"") + _ANYTHING
    for answer in _ask(request, _DUMP):
        state, port_there, address, peer, *counts = _INET_MESSAGE.unpack_from(answer)
        unread, unsent, inode = counts
        rest = answer[_INET_MESSAGE.size :]
        yield Entry(state, address, (port_there, peer), unread, unsent, inode, rest)


def listening_ports(inodes: Collection[int]) -> set[int]:
    """Return the ports at which some of these sockets listen; raise OSError."""
    found: set[int] = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        request = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, 1 << State.LISTEN)
        request += _INET_SOCKET_ID.pack(0, 0, b"", b"") + _ANYTHING
        for answer in _ask(request, _DUMP):
            if _INET_MESSAGE.unpack_from(answer)[-1] in inodes:
                found.add(int(struct.unpack_from("!H", answer, _OWN_PORT_AT)[0]))
    return found


def same_place(sock: socket.socket) -> list[int]:
    """Return the sockets (by inode) at the very address of one, itself included, as they came.

    The kernel lists the newest first, but those of IPv6 last (inet_hash(), udp_lib_get_port()).
    """
    address, only_ipv6 = packed(sock.getsockname()[0]), is_only_ipv6(sock)
    found = [
        entry.inode
        for entry in _beside(sock, sock.family)
        if (entry.address, entry.only_ipv6) == (address, only_ipv6)
    ]
    return found if sock.family == socket.AF_INET6 else found[::-1]


def overlapping(sock: socket.socket) -> set[int]:
    """Return the sockets (by inode) at the address of one, or at a part of it."""
    host = sock.getsockname()[0]
    found = list(_beside(sock, sock.family))
    if host == "::" and not is_only_ipv6(sock):
        found += _beside(sock, socket.AF_INET)
    if host not in _WILDCARDS:
        found = [entry for entry in found if entry.address == packed(host)]
    return {entry.inode for entry in found}


def is_only_ipv6(sock: socket.socket) -> bool:
    """Whether an IPv6 socket takes no IPv4."""
    if sock.family != socket.AF_INET6:
        return False
    return bool(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def has_connected(sock: socket.socket) -> bool:
    """Whether there is a connected UDP socket at the address of this one.

    The kernel puts what is bound next into the group of that one (udp_reuseport_add_sock()).
    """
    name = sock.getsockname()
    found = at_port(sock.family, socket.IPPROTO_UDP, name[1], [State.ESTABLISHED])
    return any(entry.address == packed(name[0]) for entry in found)


def unix_queue(listener: socket.socket) -> int:
    """Return how many connections wait to be accepted on a unix socket."""
    attributes = _about_unix(listener, _UNIX_QUEUE)
    return _number(attributes.get(_QUEUE_ATTRIBUTE))


def unix_file(sock: socket.socket) -> int:
    """Return the inode of the path that a unix socket is bound to; 0 if it has none."""
    return _number(_about_unix(sock, _UNIX_FILE).get(_FILE_ATTRIBUTE))


def unix_connections(paths: Iterable[str]) -> set[int]:
    """Return the inodes of the connected unix sockets that are bound to one of these paths."""
    request = _unix_request(1 << State.ESTABLISHED, 0, _UNIX_NAME)
    wanted = {os.fsencode(path) + b"\0" for path in paths}  # as the kernel keeps a path
    return {
        _UNIX_INODE.unpack_from(answer)[0]
        for answer in _ask(request, _DUMP)
        if dict(_attributes(answer, _UNIX_MESSAGE_SIZE)).get(_NAME_ATTRIBUTE) in wanted
    }


def packed(host: str) -> bytes:
    """Return an address as the kernel's list has it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_pton(family, host.partition("%")[0]).ljust(16, b"\0")


def _beside(sock: socket.socket, family: int) -> Iterator[Entry]:
    """Yield what listens (UDP: is bound) at the port of a socket, itself included."""
    streams = sock.type == socket.SOCK_STREAM
    protocol = socket.IPPROTO_TCP if streams else socket.IPPROTO_UDP
    state = State.LISTEN if streams else State.CLOSED
    return at_port(family, protocol, sock.getsockname()[1], [state])


def _inet_inode(client: socket.socket) -> int:
    here, there = client.getsockname(), client.getpeername()
    # Looked at from the server's side: its own address is the source.
    key = _INET_SOCKET_ID.pack(there[1], here[1], packed(there[0]), packed(here[0])) + _ANYTHING
    family = int(client.family)
    body = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, _EVERY_STATE) + key
    return next((_INET_MESSAGE.unpack_from(answer)[-1] for answer in _ask(body)), 0)


def _unix_inode(client: socket.socket) -> int:
    return _number(_about_unix(client, _UNIX_PEER).get(_PEER_ATTRIBUTE))


def _number(value: bytes | None) -> int:
    return int(struct.unpack_from("=I", value)[0]) if value else 0


def _about_unix(sock: socket.socket, show: int) -> dict[int, bytes]:
    answers = _ask(_unix_request(_EVERY_STATE, os.fstat(sock.fileno()).st_ino, show))
    return next((dict(_attributes(answer, _UNIX_MESSAGE_SIZE)) for answer in answers), {})


def _unix_request(states: int, inode: int, show: int) -> bytes:
    cookie = 0xFFFFFFFF
    return struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, states, inode, show, cookie, cookie)


def _attributes(message: bytes, place: int) -> Iterator[tuple[int, bytes]]:
    while place + _ATTRIBUTE.size <= len(message):  # size, kind, value, padding to 4
        size, kind = _ATTRIBUTE.unpack_from(message, place)
        yield kind, message[place + _ATTRIBUTE.size : place + size]
        place += max(_ATTRIBUTE.size, (size + 3) & ~3)


def _ask(body: bytes, flags: int = 0) -> Iterator[bytes]:
    """Yield the answers to a request: one at most, or (a dump) as many as there are."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG) as netlink:
        size = _HEADER.size + len(body)
        netlink.send(_HEADER.pack(size, _BY_FAMILY, _REQUEST | flags, 1, 0) + body)
        while True:
            data = netlink.recv(_BUFFER)
            place = 0
            while place < len(data):
                size, kind, *_ = _HEADER.unpack_from(data, place)
                if kind in (_DONE, _ERROR):  # a dump that failed is done, with the error
                    _refused(data[place + _HEADER.size :], dump=bool(flags))
                    return
                yield data[place + _HEADER.size : place + size]
                place += (size + 3) & ~3
            if not flags:
                return


def _refused(error: bytes, *, dump: bool) -> None:
    """Raise what the kernel says; that there is no such socket is an answer."""
    number = -struct.unpack_from("=i", error)[0]
    if dump and number:
        raise OSError(number, f"sock_diag: {os.strerror(number)}")
