"""The filter that lets a few system calls of a program wait for the master's answer.

seccomp(2), user notification: seccomp_unotify(2).  No privilege is needed: without CAP_SYS_ADMIN
the program gets PR_SET_NO_NEW_PRIVS, so that setuid programs below it stay who they are.  The
filter is a dozen instructions of classic BPF, inherited by every descendant.  What it lets wait are
bind(2) and listen(2), and unlink(2) where a path is to be kept.  Nothing else: a call that waits
costs some 30 µs, any other call some 30 ns.

Not to be seen: programs of a foreign architecture, and io_uring.  Both call past the filter.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import select
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from overseer_py.system import libc, procfs

# Of each machine: its AUDIT_ARCH (linux/audit.h), seccomp(2), and the calls that wait.
_GENERIC = {200: "bind", 201: "listen", 35: "unlinkat"}  # asm-generic/unistd.h
_MACHINES = {
    "x86_64": (0xC000003E, 317, {49: "bind", 50: "listen", 87: "unlink", 263: "unlinkat"}),
    "aarch64": (0xC00000B7, 277, _GENERIC),
    "riscv64": (0xC00000F3, 277, _GENERIC),
    "loongarch64": (0xC0000102, 277, _GENERIC),
}
_ARCHITECTURE, _SECCOMP, _CALLS = _MACHINES.get(platform.machine(), (0, 0, {}))

_SET_MODE_FILTER = 1
_SPEC_ALLOW = 1 << 2  # without it every branch of the program would be slower
_NEW_LISTENER = 1 << 3  # Linux 5.0
_WAIT_KILLABLE = 1 << 5  # Linux 5.19: a signal does not interrupt the wait

# Requests of ioctl(2), and their structures in linux/seccomp.h.
_RECEIVE, _SEND, _IS_VALID, _ADD_FD = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103
_NOTIFICATION = struct.Struct("=QII iI Q6Q")  # id, pid, flags; nr, arch, instruction, arguments
_RESPONSE = struct.Struct("=QqiI")  # id, value, error, flags
_ADDED = struct.Struct("=QIIII")  # id, flags, from, to, flags of the descriptor
_CONTINUE = 1  # Linux 5.5
_SET_FD = 1  # Linux 5.9

# Codes of linux/bpf_common.h, offsets in struct seccomp_data.
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _ARCH, _THIRD_ARGUMENT = 0, 4, 32
_NOTIFY, _ALLOW = 0x7FC00000, 0x7FFF0000
_INSTRUCTION = struct.Struct("=HBBI")
_CAP_SYS_ADMIN = 21
_NETLINK_ADDRESS = 12  # sizeof(struct sockaddr_nl): every getaddrinfo(3) binds one


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class Call(NamedTuple):
    """A system call that waits; ``thread`` is a thread's id, as this process sees it."""

    id: int
    thread: int
    name: str
    arguments: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trap:
    """Where the calls of one process and its descendants arrive; ``fd`` is all there is to it."""

    fd: int

    def receive(self) -> Call | None:
        """Return the call that waits; None if its thread has been killed meanwhile."""
        data = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self.fd, _RECEIVE, data)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        identity, thread, _, number, _, _, *arguments = _NOTIFICATION.unpack(data)
        return Call(identity, thread, _CALLS.get(number, ""), tuple(arguments))

    def is_valid(self, call: Call) -> bool:
        """Whether the call still waits: else its thread's id may be somebody else's by now."""
        try:
            fcntl.ioctl(self.fd, _IS_VALID, struct.pack("=Q", call.id))
        except OSError:
            return False
        return True

    def is_over(self) -> bool:
        """Whether the last process that could call has gone: the whole tree has ended."""
        poll = select.poll()
        poll.register(self.fd, 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    def answer(self, call: Call, error: int = 0) -> None:
        """Let the call return 0, or fail with this errno."""
        self._send(call, error, 0)

    def proceed(self, call: Call) -> None:
        """Let the kernel do what was asked of it."""
        self._send(call, 0, _CONTINUE)

    def put(self, call: Call, source: int, fd: int, *, cloexec: bool) -> None:
        """Put an open file of ours where the caller has that descriptor; raise OSError."""
        flags = os.O_CLOEXEC if cloexec else 0
        fcntl.ioctl(self.fd, _ADD_FD, _ADDED.pack(call.id, _SET_FD, source, fd, flags))

    def _send(self, call: Call, error: int, flags: int) -> None:
        value = -1 if error else 0
        try:
            fcntl.ioctl(self.fd, _SEND, _RESPONSE.pack(call.id, value, -error, flags))
        except OSError as failure:  # it has been killed, or has its answer
            if failure.errno not in (errno.ENOENT, errno.EINPROGRESS):
                raise


def program(*, paths: bool) -> bytes:
    """Return the filter; with ``paths``, unlink(2) waits, too."""
    wanted = [nr for nr, name in _CALLS.items() if paths or not name.startswith("unlink")]
    bind = next(nr for nr, name in _CALLS.items() if name == "bind")
    others = [nr for nr in wanted if nr != bind]
    # Each jump counts the instructions from the next one to its goal.
    tests = [
        _instruction(_IF_EQUAL, number, len(others) - place + 2, 0)
        for place, number in enumerate(others)
    ]
    return b"".join(
        [
            _instruction(_LOAD, _ARCH),
            _instruction(_IF_EQUAL, _ARCHITECTURE, 0, len(others) + 5),  # ours, or allowed
            _instruction(_LOAD, _NUMBER),
            *tests,
            _instruction(_IF_EQUAL, bind, 0, 3),  # this one, or allowed
            _instruction(_LOAD, _THIRD_ARGUMENT),
            _instruction(_IF_EQUAL, _NETLINK_ADDRESS, 1, 0),
            _instruction(_RETURN, _NOTIFY),
            _instruction(_RETURN, _ALLOW),
        ]
    )


def install(*, paths: bool = False) -> int:
    """Let this process's calls wait from now on; return the descriptor where they arrive.

    It cannot be undone: this is for a child that is about to become a program.
    """
    instructions = program(paths=paths)
    given = _Program(len(instructions) // _INSTRUCTION.size, instructions)
    flags, privileged = _SPEC_ALLOW | _NEW_LISTENER | _WAIT_KILLABLE, True
    while True:
        try:
            return libc.syscall(_SECCOMP, _SET_MODE_FILTER, flags, ctypes.byref(given))
        except OSError as error:
            if error.errno == errno.EINVAL and flags & _WAIT_KILLABLE:
                flags &= ~_WAIT_KILLABLE
            elif error.errno == errno.EACCES and privileged:  # no CAP_SYS_ADMIN, seccomp(2)
                privileged = False
                libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
            else:
                raise


def is_for_ever(*, as_another: bool) -> bool:
    """Whether ``install`` means PR_SET_NO_NEW_PRIVS: nobody below gains a privilege by exec."""
    return as_another or _CAP_SYS_ADMIN not in procfs.capabilities()


def gains(path: str) -> bool:
    """Whether a program gains privileges by its file, where it may (execve(2))."""
    with suppress(OSError):
        if os.stat(path).st_mode & (stat.S_ISUID | stat.S_ISGID):
            return True
        return bool(os.getxattr(path, "security.capability"))
    return False


def obstacle() -> str:
    """Return why no program's calls can be made to wait here; empty if they can.

    Tried in a child: a filter cannot be taken off again.
    """
    if not _CALLS:
        return f"the system calls of {platform.machine()} are not known to overseer"
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
        if pid == 0:
            _try(write_end)
        os.close(write_end)
        write_end = -1
        said = os.read(read_end, 64)
        os.waitpid(pid, 0)
    finally:
        os.close(read_end)
        if write_end >= 0:
            os.close(write_end)
    return _why(int(said or b"-1"))


def _try(report: int) -> None:
    """Put the filter on, ask for what is new in Linux 5.9, and say the errno of what failed."""
    number = -1
    try:
        trap = Trap(install())
        try:
            trap.put(Call(0, 0, "", ()), report, 0, cloexec=True)
        except FileNotFoundError:  # known, and there is no such call
            number = 0
    except OSError as error:
        number = error.errno or -1
    finally:
        os.write(report, str(number).encode())
        os._exit(0)


def _why(number: int) -> str:
    match number:
        case 0:
            return ""
        case errno.EBUSY:
            return (
                "a program above has a seccomp listener of its own (a container manager, or another"
                " overseer with --adopt), and the kernel allows one"
            )
        case errno.EINVAL | errno.ENOTTY:
            return "the kernel has no seccomp user notification that adds descriptors (Linux 5.9)"
        case errno.ENOSYS | errno.EPERM | errno.EACCES:
            return "seccomp(2) is forbidden here (in a unit, allow it: SystemCallFilter=seccomp)"
    return f"seccomp(2) failed ({os.strerror(number) if number > 0 else 'for no known reason'})"


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, if_true, if_false, operand)
