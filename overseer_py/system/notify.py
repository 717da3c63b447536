"""sd_notify(3), both directions: what workers tell the master, what the master tells systemd.

Workers get an abstract address of the master's own and never see systemd's.  Who sent a message is
what the kernel says (SCM_CREDENTIALS, unix(7)), not what the message says.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

_UCRED = struct.Struct("=iII")  # pid, uid, gid
_LONGEST = 4096
_INT = array("i").itemsize
_MOST_FDS = 253  # SCM_MAX_FD: what there is no room for the kernel would close, and may wait
_NO_LINGER = struct.pack("ii", 0, 0)  # struct linger: off
_ROOM = socket.CMSG_SPACE(_UCRED.size) + socket.CMSG_SPACE(_MOST_FDS * _INT)
_AT_ONCE = 64  # messages read in one turn of the loop
_PATIENCE = struct.pack("ll", 1, 0)  # struct timeval: for systemd to hear


@dataclass(frozen=True, slots=True)
class Message:
    """One datagram of a worker: its sender, and its assignments."""

    pid: int
    fields: Mapping[str, str]
    fds: list[int] = field(default_factory=list)

    def take(self) -> list[int]:
        """Return the descriptors that came with it; they are the caller's."""
        taken = self.fds.copy()
        self.fds.clear()
        return taken

    def close(self) -> None:
        """Close those that nobody took: who sent sd_notify_barrier(3) waits for that."""
        for fd in self.take():
            close_foreign(fd)


class Inbox:
    """Where workers say READY=1."""

    def __init__(self, kept: int | None = None) -> None:
        """``kept`` is the descriptor of an earlier image: workers know the address."""
        if kept is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._socket.bind("")  # autobind: an abstract name that nobody else has
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        else:
            self._socket = socket.socket(fileno=kept)
        self.address = "@" + self._socket.getsockname()[1:].decode()
        self.fd = self._socket.fileno()

    def read(self) -> Iterator[Message]:
        """Yield the messages that have come; at most a few dozen, the rest stays readable.

        Each is to be dealt with before the next is read: a sender may wait until its message has
        been taken (sd_notify_barrier(3)) and end then, and who it was cannot be told any more.
        """
        for _ in range(_AT_ONCE):
            try:
                data, ancillary, *_ = self._socket.recvmsg(_LONGEST, _ROOM, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            told = {kind: value for _, kind, value in ancillary}
            pid = _UCRED.unpack(told[socket.SCM_CREDENTIALS])[0]
            rights = told.get(socket.SCM_RIGHTS, b"")
            fds = array("i", rights[: len(rights) - len(rights) % _INT])
            message = Message(pid, parse(data), list(fds))
            try:
                yield message
            finally:
                message.close()

    def close(self) -> None:
        """Close the socket; its name goes with it."""
        self._socket.close()


def close_foreign(fd: int) -> None:
    """Close a descriptor that another process has sent, without waiting for anything.

    close(2) of a socket waits for what is not sent yet as long as SO_LINGER says (socket(7)), and
    that was the sender's to choose: anybody could hold up the loop.
    """
    try:
        sent = socket.socket(fileno=fd)
    except OSError:  # it is none
        os.close(fd)
        return
    with sent, suppress(OSError):
        sent.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


def parse(data: bytes) -> dict[str, str]:
    """Return the assignments of a datagram; lines that are none are left out."""
    lines = data.decode(errors="replace").split("\n")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def microseconds(text: str) -> float | None:
    """Return seconds from a number of microseconds; None if it is no number."""
    return int(text) / 1e6 if text.isdecimal() and len(text) < 16 else None  # noqa: PLR2004


class ServiceManager:
    """systemd, or whoever set NOTIFY_SOCKET; telling it never fails.

    Nor does it block, but for a second at most where a full queue would lose what systemd waits
    for: it may have room for ten messages only (net.unix.max_dgram_qlen, unix(7)).
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _PATIENCE)
        self.listens = bool(address)
        self.watchdog = _watchdog(environ) if address else None

    def tell(self, **fields: str | int) -> bool:
        """Send assignments, as in ``tell(READY=1)``; False if nobody heard."""
        return self._send(fields, [], socket.MSG_DONTWAIT)

    def insist(self, **fields: str | int) -> bool:
        """Send assignments that must not be lost; waits for room, for a second at most."""
        return self._send(fields, [], 0)

    def hand_over(self, fd: int, **fields: str | int) -> bool:
        """Send assignments with a descriptor; waits for room, for a second at most."""
        return self._send(fields, [fd], 0)

    def wait(self, seconds: float) -> bool:
        """Wait until all that was said has been dealt with (sd_notify_barrier(3)), or so long.

        systemd closes the pipe's end once its turn has come.
        """
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            sent = self.hand_over(write_end, BARRIER=1)
            os.close(write_end)
            return sent and bool(select.select([read_end], [], [], seconds)[0])
        finally:
            os.close(read_end)

    def _send(self, fields: Mapping[str, str | int], fds: Sequence[int], flags: int) -> bool:
        if not self._address:
            return False
        message = "\n".join(f"{name}={value}" for name, value in fields.items()).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([message], rights, flags, self._address)
        except OSError:
            return False
        return True

    def tell_reloading(self) -> None:
        """Say RELOADING=1 with the time that systemd demands with it (253 and later)."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.insist(RELOADING=1, MONOTONIC_USEC=now)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _watchdog(environ: Mapping[str, str]) -> float | None:
    """Return the seconds within which systemd wants a WATCHDOG=1 (sd_watchdog_enabled(3))."""
    interval = microseconds(environ.get("WATCHDOG_USEC", ""))
    meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return interval if interval and meant else None
