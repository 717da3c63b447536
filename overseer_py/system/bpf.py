"""The program that tells the kernel which socket of a group gets a new connection.  bpf(2).

Classic BPF, attached with SO_ATTACH_REUSEPORT_CBPF (socket(7)), which needs no privilege.  It runs
for each SYN (UDP: each datagram) and returns the index of a socket in its SO_REUSEPORT group.  The
packet's own address is looked at for *doors* alone: connections of the master's that go elsewhere.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_SO_ATTACH_REUSEPORT_CBPF = 51  # Linux 4.5
_SO_REUSEPORT = 15
_IP_MINTTL = 21
_IPV6_MINHOPCOUNT = 73
_ALL_HOPS = 255  # Linux sends with 64

_INSTRUCTION = struct.Struct("=HBBI")
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog

# Codes of linux/bpf_common.h.
_LOAD_BYTE, _LOAD_HALF, _LOAD_WORD = 0x30, 0x28, 0x20
_LOAD_HALF_BEHIND = 0x48  # at X + k
_HEADER_LENGTH = 0xB1  # X = 4 * (byte at k & 15): the length of an IPv4 header
_SHIFT_RIGHT, _MODULO = 0x74, 0x94
_IF_EQUAL, _IF_AT_LEAST, _SKIP = 0x15, 0x35, 0x05
_RETURN = 0x06

_NETWORK = -0x100000  # SKF_NET_OFF: offsets count from the IP header
_RANDOM = -0x1000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM

# Where the source address begins, by the version in the header's first half byte.
_SOURCE = {4: 12, 6: 8}
_IPV6_HEADER = 40


class Door(NamedTuple):
    """A source address and port, and the index of the socket that is reached from there."""

    host: str
    port: int
    to: int


def choose(live: int, doors: Sequence[Door] = (), share: tuple[int, int] | None = None) -> bytes:
    """Return the program: doors to where they lead, all else to ``live``.

    ``share`` is an index and the per cent of new connections that go there instead.
    """
    # By their hosts: a program has room for 4,096 instructions, and some kernels for much less
    # (net.core.optmem_max).
    hosts = dict.fromkeys(door.host for door in doors)
    program = b"".join(_through(host, [o for o in doors if o.host == host]) for host in hosts)
    if share:
        index, percent = share
        program += _instruction(_LOAD_WORD, _RANDOM) + _instruction(_MODULO, 100)
        program += _instruction(_IF_AT_LEAST, percent, 1, 0) + _instruction(_RETURN, index)
    return program + _instruction(_RETURN, live)


def steer(member: socket.socket, program: bytes) -> None:
    """Give the group of this socket a program, at once for every new connection; or raise OSError.

    A socket that does not listen yet (UDP: is not bound) begins a group of its own.
    """
    _attach(member, _SO_ATTACH_REUSEPORT_CBPF, program)


def deafen(sock: socket.socket) -> None:
    """Let nothing in: packets are dropped as if they had been lost.

    TCP: by asking for more hops left than packets have (ip(7), IP_MINTTL), which needs no
    privilege.  UDP does not look at that: by a filter (SO_ATTACH_FILTER), for which Linux 6.18
    wants CAP_NET_ADMIN.
    """
    if sock.type == socket.SOCK_DGRAM:
        _attach(sock, _SO_ATTACH_FILTER, _instruction(_RETURN, 0))
    else:
        _demand_hops(sock, _ALL_HOPS)


def undeafen(sock: socket.socket) -> None:
    """Let all in again."""
    if sock.type == socket.SOCK_DGRAM:
        with suppress(FileNotFoundError):  # it was not deaf
            sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    else:
        _demand_hops(sock, 0)


def _demand_hops(sock: socket.socket, hops: int) -> None:
    sock.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, hops)  # of an IPv6 socket: for IPv4 clients
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MINHOPCOUNT, hops)


def allow_others(sock: socket.socket, allowed: int = 1) -> None:
    """Set SO_REUSEPORT: more sockets of this user may be bound to its address."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_REUSEPORT, allowed)


def _through(host: str, doors: Sequence[Door]) -> bytes:
    """Return the part of the program for the doors of one host; others fall through it."""
    address = ipaddress.ip_address(host.partition("%")[0])
    version, packed = address.version, address.packed
    part = _PORT[version]
    for door in doors:
        part += _instruction(_IF_EQUAL, door.port, 0, 1) + _instruction(_RETURN, door.to)
    for place, word in enumerate(struct.unpack(f"!{len(packed) // 4}I", packed)):
        load = _instruction(_LOAD_WORD, _NETWORK + _SOURCE[version] + 4 * place)
        part = load + _only_if(word, part)
    load = _instruction(_LOAD_BYTE, _NETWORK) + _instruction(_SHIFT_RIGHT, 4)
    return load + _only_if(version, part)


def _only_if(value: int, part: bytes) -> bytes:
    """Skip the part unless the value was loaded; a condition itself skips no more than 255."""
    length = len(part) // _INSTRUCTION.size
    return _instruction(_IF_EQUAL, value, 1, 0) + _instruction(_SKIP, length) + part


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, if_true, if_false, operand & 0xFFFFFFFF)


# Load the source port: behind the header, in which IPv4 may have options.
_PORT = {
    4: _instruction(_HEADER_LENGTH, _NETWORK) + _instruction(_LOAD_HALF_BEHIND, _NETWORK),
    6: _instruction(_LOAD_HALF, _NETWORK + _IPV6_HEADER),
}


def _attach(sock: socket.socket, option: int, program: bytes) -> None:
    buffer = ctypes.create_string_buffer(program, len(program))
    length = len(program) // _INSTRUCTION.size
    value = _PROGRAM.pack(length, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, option, value)
