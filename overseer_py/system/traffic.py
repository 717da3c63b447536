"""Who waits for connections on which socket, or has accepted one.

No cooperation is needed: the kernel shows which sockets an epoll set watches (fdinfo of the
epoll descriptor, proc(5)), and the system call that a thread is blocked in with its arguments
(/proc/PID/task/TID/syscall): accept, poll or select on the socket.  One look at one process
costs about 0.3 ms.  Not to be seen: io_uring.
"""

from __future__ import annotations

import os
import platform
import re
import signal
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NoReturn

from overseer_py.system import libc, procfs
from overseer_py.system.launch import Identity, change_identity, die_with

_TFD = re.compile(rb"^tfd:\s*\d+ events:\s*([0-9a-f]+).*? ino:([0-9a-f]+)", re.MULTILINE)
_EPOLLIN = 0x1
_POLLFD = struct.Struct("=ihh")
_MOST_POLLED = 4096
_MOST_HELD = 64  # sockets of one process that a look takes in

# System calls that wait, by their number: the first argument is the socket, an array of pollfd,
# or the highest descriptor of a set.
_CALLS = {
    "x86_64": {43: "accept", 288: "accept", 45: "accept", 47: "accept", 299: "accept"}
    | {0: "accept", 7: "poll", 271: "poll", 23: "select", 270: "select"},
    "aarch64": {202: "accept", 242: "accept", 207: "accept", 212: "accept", 243: "accept"}
    | {63: "accept", 73: "poll", 72: "select"},
}.get(platform.machine(), {})


def waiting(pids: Iterable[int], inodes: set[int]) -> set[int]:
    """Return which of these sockets (by inode) some of these processes wait on."""
    found: set[int] = set()
    for pid in pids:
        if found >= inodes:
            break
        found |= _watched(pid) & inodes
        if not found >= inodes and (open_here := _descriptors(pid, inodes)):
            found |= {open_here[fd] for fd in _blocked_on(pid) if fd in open_here}
    return found


def serving(pids: Iterable[int], listener: socket.socket) -> bool:
    """Whether one of these processes holds a connection that was accepted on this listener.

    A server that accepts until nobody is left (gunicorn's sync worker) is never seen to wait while
    it is busy.  Needs pidfd_getfd(2); where that is missing or forbidden the answer is False.
    """
    return any(_accepted(held, listener) for pid in pids for held in _held(pid))


def missing(worker: int, listeners: Mapping[str, socket.socket]) -> list[str]:
    """Return the names of the listeners that nobody in the worker's process tree serves."""
    pids = procfs.tree([worker])
    inodes = {os.fstat(o.fileno()).st_ino: name for name, o in listeners.items()}
    waited_on = {inodes[inode] for inode in waiting(pids, set(inodes))}
    others = [(name, o) for name, o in listeners.items() if name not in waited_on]
    return [name for name, o in others if o.type != socket.SOCK_STREAM or not serving(pids, o)]


def hang_up(pids: Iterable[int], inodes: set[int]) -> None:
    """Let these connections of a program end: it reads the end of the file, as from the client.

    Needs pidfd_getfd(2); nothing happens where that is missing or forbidden.
    """
    for pid in pids:
        held = {fds[0]: inode for inode, fds in procfs.sockets(pid).items() if inode in inodes}
        with suppress(OSError), _pidfd(pid) as pidfd:
            for fd, inode in held.items():
                if borrowed := _borrow(pidfd, fd):
                    with borrowed:
                        if os.fstat(borrowed.fileno()).st_ino == inode:
                            borrowed.shutdown(socket.SHUT_RD)


def unserved(names: Iterable[str]) -> str:
    """Return the sentence for listeners that nobody serves."""
    return f"nobody in the worker's process tree waits for connections on {', '.join(names)}"


def look_as(
    identity: Identity,
    worker: int,
    listeners: Mapping[str, socket.socket],
    master: int,
    report_fd: int,
) -> NoReturn:
    """Look with the worker's own eyes, in a child of the master: what it may see, so may we.

    For a root without CAP_SYS_PTRACE, as containers have it, whose workers are another user.
    """
    status = 1
    try:
        change_identity(identity)
        die_with(master, signal.SIGKILL)
        names = missing(worker, listeners)
        os.write(report_fd, unserved(names).encode() if names else b"")
        status = 1 if names else 0
    except OSError as error:
        os.write(report_fd, f"cannot look at the worker: {error.strerror}".encode())
    finally:
        os._exit(status)


def _held(pid: int) -> Iterator[socket.socket]:
    """Yield the sockets of a process, each open here only until the next."""
    with suppress(OSError), _pidfd(pid) as pidfd:
        for fds in list(procfs.sockets(pid).values())[:_MOST_HELD]:
            if borrowed := _borrow(pidfd, fds[0]):
                with borrowed:
                    yield borrowed


@contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def _borrow(pidfd: int, fd: int) -> socket.socket | None:
    with suppress(OSError):  # closed meanwhile, or not ours to take
        duplicate = libc.pidfd_getfd(pidfd, fd)
        try:
            return socket.socket(fileno=duplicate)
        except OSError:  # the number is another file's by now
            os.close(duplicate)
    return None


def _accepted(held: socket.socket, listener: socket.socket) -> bool:
    if (held.family, held.type) != (listener.family, listener.type):
        return False
    if held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    here, there = held.getsockname(), listener.getsockname()
    # The host may differ: a listener on every address accepts at one of them.
    return bool(here == there if held.family == socket.AF_UNIX else here[1] == there[1])


def _watched(pid: int) -> set[int]:
    """Return the inodes that the epoll sets of a process watch for input."""
    found: set[int] = set()
    for name in procfs.entries(f"/proc/{pid}/fd"):
        if procfs.link(f"/proc/{pid}/fd/{name}") == "anon_inode:[eventpoll]":
            info = procfs.read(f"/proc/{pid}/fdinfo/{name}")
            found |= {
                int(inode, 16) for events, inode in _TFD.findall(info) if int(events, 16) & _EPOLLIN
            }
    return found


def _descriptors(pid: int, inodes: set[int]) -> dict[int, int]:
    """Return the descriptors under which a process has these sockets open, with their inodes."""
    sockets = procfs.sockets(pid)
    return {fd: inode for inode in inodes & sockets.keys() for fd in sockets[inode]}


def _blocked_on(pid: int) -> set[int]:
    """Return the descriptors that the threads of a process are blocked on."""
    found: set[int] = set()
    for task in procfs.entries(f"/proc/{pid}/task"):
        words = procfs.read(f"/proc/{pid}/task/{task}/syscall").split()
        if len(words) < 7 or not words[0].isdigit():  # noqa: PLR2004 - "running" has no arguments
            continue
        first, second = int(words[1], 16), int(words[2], 16)
        match _CALLS.get(int(words[0])):
            case "accept":
                found.add(first)
            case "poll":
                found |= _polled(_memory(pid, first, min(second, _MOST_POLLED) * _POLLFD.size))
            case "select":
                found |= _selected(_memory(pid, second, min(first, _MOST_POLLED) // 8 + 8))
    return found


def _polled(data: bytes) -> set[int]:
    whole = data[: len(data) // _POLLFD.size * _POLLFD.size]
    return {fd for fd, events, _ in _POLLFD.iter_unpack(whole) if events & _EPOLLIN}


def _selected(data: bytes) -> set[int]:
    return {8 * i + bit for i, byte in enumerate(data) for bit in range(8) if byte >> bit & 1}


def _memory(pid: int, address: int, size: int) -> bytes:
    """Read the memory of a process; a descendant may be read, ptrace_scope 1 included."""
    try:
        fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(fd, size, address)
    except (OSError, OverflowError):
        return b""
    finally:
        os.close(fd)
