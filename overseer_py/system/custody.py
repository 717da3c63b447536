"""What a master leaves with its guard: its state and its descriptors, for the master after it.

After each change the master deposits all of it anew, over a socket pair.  When the master is dead
the guard waits at an abstract address (unix(7)) for an heir of the same user, and hands it over.
The descriptors get the numbers again that they had, so that what is written of them stays true.
"""

from __future__ import annotations

import hashlib
import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from fcntl import F_DUPFD_CLOEXEC, fcntl

from overseer_py.system.reexec import read_back, write_down

_AT_ONCE = 200  # descriptors a message; SCM_MAX_FD is 253
_HEAD = struct.Struct("=II")  # descriptors that have come before in this deposit; and in all
_NUMBER = struct.Struct("=i")
_UCRED = struct.Struct("=iII")
_TAKE, _END, _DONE = b"take", b"end!", b"done"
_PATIENCE = 10.0  # seconds for the other side to do its part


def address_of(name: str) -> str:
    """Return where the guard of an instance waits; ``name`` is the path that it is known by."""
    digest = hashlib.sha256(f"{os.geteuid()} {os.path.abspath(name)}".encode()).hexdigest()
    return f"\0overseer-orphans-{digest[:32]}"


class Custody:
    """The master's side."""

    def __init__(self, kept: int | None = None) -> None:
        """``kept`` is our end, of an earlier image; the guard has the other one."""
        self._theirs: socket.socket | None = None
        if kept is None:
            self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        else:
            self._ours = socket.socket(fileno=kept)
        self._ours.setblocking(False)

    @property
    def fd(self) -> int:
        """Our end."""
        return self._ours.fileno()

    def hand_over(self) -> int:
        """Return the guard's end, for a child that is about to be forked."""
        assert self._theirs
        return self._theirs.fileno()

    def handed_over(self) -> None:
        """Close the end that the guard has now."""
        if self._theirs:
            self._theirs.close()
            self._theirs = None

    def deposit(self, data: bytes, fds: Iterable[int]) -> bool:
        """Leave this instead of what was left before; False if the guard does not take it."""
        state = write_down(data)
        try:
            _send(self._ours, [state, *dict.fromkeys(fd for fd in fds if fd >= 0)])
        except OSError:
            return False
        finally:
            os.close(state)
        return True

    def close(self) -> None:
        """Close our end."""
        self.handed_over()
        self._ours.close()


class Deposit:
    """The guard's side: the last one that has come whole."""

    def __init__(self, end: int, address: str) -> None:
        self._end = socket.socket(fileno=end)
        self._whole: list[tuple[int, int]] = []  # the number at the master's, and ours
        self._coming: list[tuple[int, int]] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._address = address

    @property
    def fds(self) -> list[int]:
        """What is to be kept open."""
        held = [fd for _, fd in (*self._whole, *self._coming)]
        return [self._end.fileno(), self._listener.fileno(), *held]

    def fileno(self) -> int:
        """Return what to wait on."""
        return self._end.fileno()

    def hear(self) -> bool:
        """Take what has come; False at the end."""
        before, total, coming = _receive(self._end)
        if not coming:
            return False
        if not before:
            _close(self._coming)
            self._coming = []
        self._coming += coming
        if len(self._coming) == total:
            _close(self._whole)
            self._whole, self._coming = self._coming, []
        return True

    def wait(self, patience: float, workers: Iterable[int]) -> bool:
        """Wait for an heir, as long as any worker (a pidfd) lives; whether it has taken all."""
        if not self._whole:
            return False
        give_up_at = time.monotonic() + patience
        while (left := give_up_at - time.monotonic()) > 0:
            try:
                self._listener.bind(self._address)
                break
            except OSError:  # an earlier guard's, which is about to end
                time.sleep(min(0.05, left))
        self._listener.listen()
        listener, alive = self._listener.fileno(), set(workers)
        while alive and (left := give_up_at - time.monotonic()) > 0:
            ready, _, _ = select.select([listener, *alive], [], [], left)
            alive -= set(ready)
            if listener in ready and (heard := self._serve()) is not None:
                return heard
        return False

    def _serve(self) -> bool | None:
        """Hand all over if that is wanted; None if nobody has decided anything."""
        with suppress(OSError), self._listener.accept()[0] as heir:
            heir.settimeout(_PATIENCE)
            credentials = heir.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            if _UCRED.unpack(credentials)[1] not in (0, os.geteuid()):
                return None
            match heir.recv(len(_TAKE)):
                case b"take":
                    numbers = [number for number, _ in self._whole]
                    _send(heir, [fd for _, fd in self._whole], numbers)
                    return True if heir.recv(len(_DONE)) == _DONE else None
                case b"end!":
                    return False
        return None


def inherit(name: str) -> bytes | None:
    """Return the state that a dead master of this name has left; None if none has.

    Its descriptors are open then, with the numbers that are written in it.
    """
    heir = _visit(name)
    if heir is None:
        return None
    with heir:
        heir.sendall(_TAKE)
        received: list[tuple[int, int]] = []
        total = 1
        while len(received) < total:
            _, total, coming = _receive(heir)
            if not coming:
                _close(received)
                return None
            received += coming
        heir.sendall(_DONE)
    (_, state), *rest = received
    _put_in_place(rest)
    return read_back(state)


def disinherit(name: str) -> None:
    """Have the guard of a dead master of this name end what is left of it."""
    if heir := _visit(name):
        with heir, suppress(OSError):
            heir.sendall(_END)


def _visit(name: str) -> socket.socket | None:
    heir = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    heir.settimeout(_PATIENCE)
    try:
        heir.connect(address_of(name))
        credentials = heir.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        if _UCRED.unpack(credentials)[1] != os.geteuid():
            raise PermissionError  # anybody can take an abstract address
    except OSError:
        heir.close()
        return None
    return heir


def _send(to: socket.socket, fds: Sequence[int], numbers: Sequence[int] | None = None) -> None:
    """Send descriptors, in order, with the numbers that they have, or had."""
    numbers = numbers or fds
    for start in range(0, len(fds), _AT_ONCE):
        piece = slice(start, start + _AT_ONCE)
        told = b"".join(map(_NUMBER.pack, numbers[piece]))
        socket.send_fds(to, [_HEAD.pack(start, len(fds)) + told], list(fds[piece]))


def _receive(of: socket.socket) -> tuple[int, int, list[tuple[int, int]]]:
    longest = _HEAD.size + _AT_ONCE * _NUMBER.size
    data, fds, _, _ = socket.recv_fds(of, longest, _AT_ONCE, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return 0, 0, []
    before, total = _HEAD.unpack_from(data)
    numbers = [number for (number,) in _NUMBER.iter_unpack(data[_HEAD.size :])]
    return before, total, list(zip(numbers, fds, strict=True))


def _put_in_place(received: Sequence[tuple[int, int]]) -> None:
    """Give descriptors the numbers that they had: first all out of the way, then down."""
    above = 1 + max((number for number, _ in received), default=0)
    copies = [(number, fcntl(fd, F_DUPFD_CLOEXEC, above)) for number, fd in received]
    _close(received)
    for number, copy in copies:
        os.dup2(copy, number, inheritable=False)
    _close(copies)


def _close(pairs: Iterable[tuple[int, int]]) -> None:
    for _, fd in pairs:
        os.close(fd)
