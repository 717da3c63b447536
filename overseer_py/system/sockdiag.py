"""The kernel's own list of connections.  sock_diag(7) over netlink, for one connection.

The server's side of a connection has an inode once a process has accepted it, and 0 before.
"""

from __future__ import annotations

import os
import socket
import struct

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_REQUEST = 1  # NLM_F_REQUEST
_ERROR = 2  # NLMSG_ERROR
_HEADER = struct.Struct("=IHHII")
_INET_SOCKET_ID = struct.Struct("!HH16s16s")
_ANYTHING = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # interface; no cookie
_EVERY_STATE = 0xFFFFFFFF
_INET_INODE = 68  # offset of idiag_inode in struct inet_diag_msg
_UNIX_MESSAGE_SIZE = 16  # struct unix_diag_msg
_UNIX_PEER = 4  # UDIAG_SHOW_PEER
_PEER_ATTRIBUTE = 2  # UNIX_DIAG_PEER


def server_inode(client: socket.socket) -> int:
    """Return the inode of the other end of a connection on this machine; 0: not accepted yet."""
    return _unix_inode(client) if client.family == socket.AF_UNIX else _inet_inode(client)


def _inet_inode(client: socket.socket) -> int:
    here, there = client.getsockname(), client.getpeername()
    family, ours, theirs = int(client.family), _packed(here[0]), _packed(there[0])
    # Looked at from the server's side: its own address is the source.
    key = _INET_SOCKET_ID.pack(there[1], here[1], theirs, ours) + _ANYTHING
    body = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, _EVERY_STATE) + key
    answer = _ask(body)
    return int(struct.unpack_from("=I", answer, _INET_INODE)[0]) if answer else 0


def _packed(host: str) -> bytes:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_pton(family, host.partition("%")[0]).ljust(16, b"\0")


def _unix_inode(client: socket.socket) -> int:
    every, cookie = _EVERY_STATE, (0xFFFFFFFF, 0xFFFFFFFF)
    inode = os.fstat(client.fileno()).st_ino
    answer = _ask(struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, every, inode, _UNIX_PEER, *cookie))
    place = _UNIX_MESSAGE_SIZE
    while place + 4 <= len(answer):  # attributes: size, kind, value, padding to 4
        size, kind = struct.unpack_from("=HH", answer, place)
        if kind == _PEER_ATTRIBUTE:
            return int(struct.unpack_from("=I", answer, place + 4)[0])
        place += max(4, (size + 3) & ~3)
    return 0


def _ask(body: bytes) -> bytes:
    """Return the one answer to a request; empty if there is no such socket."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG) as netlink:
        netlink.send(_HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _REQUEST, 1, 0) + body)
        answer = netlink.recv(1 << 16)
    kind = _HEADER.unpack_from(answer)[1]
    return b"" if kind == _ERROR else answer[_HEADER.size :]
