"""Who made a call that waits, of what, and where: what a bind(2) asks for, read from outside.

The caller is stopped in its call, so its memory and its descriptors are as it left them.  Each look
is for the same user, or for CAP_SYS_PTRACE (ptrace(2), access modes); one that is refused raises
OSError.  Whoever looks asks ``Trap.is_valid`` afterwards: only then was it the caller.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

from overseer_py.system import libc, procfs
from overseer_py.system.seccomp import Call

_FAMILY = struct.Struct("=H")
_LONGEST_ADDRESS = 128  # sizeof(struct sockaddr_storage)
_LONGEST_PATH = 4096
_IPV4_SIZE, _IPV6_SIZE = 16, 28
_AT_FDCWD = -100
_STREAMS = {b"TCP", b"TCPv6", b"MPTCP", b"MPTCPv6", b"UNIX-STREAM"}
_MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Place:
    """What a bind(2) asks for: a host (or a path) and a port, of a family."""

    family: int
    host: str
    port: int = 0

    def __str__(self) -> str:
        if self.family == socket.AF_UNIX:
            return f"unix:{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def descriptor(call: Call) -> int:
    """Return the descriptor that the call is about."""
    return call.arguments[0] & _MASK


def place_of(call: Call) -> Place | None:
    """Return where a bind(2) of a stream socket goes; None for all that cannot be adopted."""
    size = min(call.arguments[2] & _MASK, _LONGEST_ADDRESS)
    raw = memory(call.thread, call.arguments[1], size)
    if len(raw) < _FAMILY.size or protocol(call) not in _STREAMS:
        return None
    family = _FAMILY.unpack_from(raw)[0]
    if family == socket.AF_INET and len(raw) >= _IPV4_SIZE:
        return Place(family, socket.inet_ntop(family, raw[4:8]), _port(raw))
    if family == socket.AF_INET6 and len(raw) >= _IPV6_SIZE:
        return Place(family, socket.inet_ntop(family, raw[8:24]) + _scope(raw), _port(raw))
    if family == socket.AF_UNIX and raw[2:3] not in (b"", b"\0"):  # neither unnamed nor abstract
        path = os.fsdecode(raw[2:].partition(b"\0")[0])
        return Place(family, _whole(call.thread, "cwd", path))
    return None


def path_of(call: Call) -> str:
    """Return the path that an unlink(2) or unlinkat(2) is about."""
    at, address = "cwd", call.arguments[0]
    if call.name == "unlinkat":
        directory = _signed(call.arguments[0])
        at, address = "cwd" if directory == _AT_FDCWD else f"fd/{directory}", call.arguments[1]
    page = os.sysconf("SC_PAGE_SIZE")
    raw = memory(call.thread, address, page - address % page)  # what lies behind may be nothing
    if b"\0" not in raw:
        raw += memory(call.thread, address + len(raw), _LONGEST_PATH)
    return _whole(call.thread, at, os.fsdecode(raw.partition(b"\0")[0]))


def protocol(call: Call) -> bytes:
    """Return the name of its socket's protocol, as the kernel has it (TCP, TCPv6, UDP, …)."""
    name = os.getxattr(_link(call), "system.sockprotoname")
    return name.rstrip(b"\0")


def inode(call: Call) -> int:
    """Return the inode of its socket."""
    return os.stat(_link(call)).st_ino


def flags(call: Call) -> tuple[bool, bool]:
    """Return whether its descriptor is non-blocking, and close-on-exec."""
    for line in procfs.read(f"/proc/{call.thread}/fdinfo/{descriptor(call)}").splitlines():
        if line.startswith(b"flags:"):
            value = int(line.split()[1], 8)
            return bool(value & os.O_NONBLOCK), bool(value & os.O_CLOEXEC)
    return False, False


def is_elsewhere(call: Call) -> bool:
    """Whether the caller is in another network namespace than we."""
    theirs, ours = os.stat(f"/proc/{call.thread}/ns/net"), os.stat("/proc/self/ns/net")
    return not os.path.samestat(theirs, ours)


def is_shared(call: Call) -> bool:
    """Whether its socket is known by more than this one descriptor: to epoll(7), or by a copy.

    Another socket in its place would leave those with the old one.
    """
    wanted = inode(call)
    if len(procfs.sockets(call.thread).get(wanted, [])) > 1:
        return True
    watched = f"ino:{wanted:x} ".encode()
    return any(
        watched in procfs.read(f"/proc/{call.thread}/fdinfo/{name}") + b" "
        for name in procfs.entries(f"/proc/{call.thread}/fd")
        if procfs.link(f"/proc/{call.thread}/fd/{name}") == "anon_inode:[eventpoll]"
    )


def borrow(call: Call) -> socket.socket | None:
    """Return its socket, open here, too; None where pidfd_getfd(2) is missing or forbidden."""
    with suppress(OSError, ValueError):
        pidfd = os.pidfd_open(_process(call.thread))
        try:
            return socket.socket(fileno=libc.pidfd_getfd(pidfd, descriptor(call)))
        finally:
            os.close(pidfd)
    return None


def memory(thread: int, address: int, size: int) -> bytes:
    """Read the memory of the caller."""
    fd = os.open(f"/proc/{thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, size, address)
    except OverflowError:
        return b""
    finally:
        os.close(fd)


def _process(thread: int) -> int:
    for line in procfs.read(f"/proc/{thread}/status").splitlines():
        if line.startswith(b"Tgid:"):
            return int(line.split()[1])
    raise ProcessLookupError


def _whole(thread: int, start: str, path: str) -> str:
    """Return a path from the root, as the caller means it; nothing of it is looked up."""
    begins = "" if path.startswith("/") else os.readlink(f"/proc/{thread}/{start}")
    return os.path.join(begins, path)


def _link(call: Call) -> str:
    return f"/proc/{call.thread}/fd/{descriptor(call)}"


def _port(raw: bytes) -> int:
    return int(struct.unpack_from("!H", raw, 2)[0])


def _scope(raw: bytes) -> str:
    index = int(struct.unpack_from("=I", raw, 24)[0])
    return f"%{socket.if_indextoname(index)}" if index else ""


def _signed(word: int) -> int:
    return (word & _MASK) - (1 << 32) if word & 1 << 31 else word & _MASK
