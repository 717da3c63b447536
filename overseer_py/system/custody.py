"""What a master leaves with its guard: its state and its descriptors, for the master after it.

After each change the master deposits all of it anew, over a socket pair.  When the master is dead
the guard waits at an abstract address (unix(7)) for an heir of the same user, and hands it over.
The descriptors get the numbers again that they had, so that what is written of them stays true.
"""

from __future__ import annotations

import errno
import hashlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
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
    """Return where the guard of an instance waits; ``name`` is the path that it is known by.

    Abstract addresses are the network namespace's, and containers may share one: another one's
    instance has the same path, but its pids mean nothing here (pid_namespaces(7)).
    """
    pids = os.readlink("/proc/self/ns/pid")
    digest = hashlib.sha256(f"{os.geteuid()} {pids} {os.path.abspath(name)}".encode()).hexdigest()
    return f"\0overseer-orphans-{digest[:32]}"


class Custody:
    """The master's side."""

    def __init__(self, kept: int | None = None) -> None:
        """``kept`` is our end, of an earlier image; the guard has the other one."""
        self._theirs: socket.socket | None = None
        self.stale = kept is None  # the guard has nothing, or not the last
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

    def deposit(self, data: bytes, fds: Iterable[int]) -> None:
        """Leave this instead of what was left before; ``stale`` if the guard does not take it."""
        self.stale = True
        state = write_down(data)
        with suppress(OSError):
            _send(self._ours, [state, *dict.fromkeys(fd for fd in fds if fd >= 0)])
            self.stale = False
        os.close(state)

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
        self._kept_on: socket.socket | None = None

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
        try:
            before, total, coming = _receive(self._end)
        except OSError:  # there is no room for all: better the last one than none
            return True
        if not coming:
            return False
        if not before:
            _close(self._coming)
            self._coming = []
        elif before != len(self._coming):  # of one whose beginning did not come
            _close(coming)
            return True
        self._coming += coming
        if len(self._coming) == total:
            _close(self._whole)
            self._whole, self._coming = self._coming, []
        return True

    def wait(self, patience: float, workers: Iterable[int], found: Callable[[], None]) -> bool:
        """Wait for an heir, as long as any worker (a pidfd) lives; whether it has taken all.

        ``found`` is called when we can be: then whoever has the name is the heir, and one alone.
        """
        self._catch_up()
        if not self._whole:
            return False
        give_up_at = time.monotonic() + patience
        while (left := give_up_at - time.monotonic()) > 0:
            try:
                self._listener.bind(self._address)
                break
            except OSError:  # an earlier guard's, which is about to end
                time.sleep(min(0.05, left))
        else:  # anybody can take an abstract address, and keep it
            return False
        self._listener.listen()
        found()
        listener, alive = self._listener.fileno(), set(workers)
        while alive and (left := give_up_at - time.monotonic()) > 0:
            ready, _, _ = select.select([listener, *alive], [], [], left)
            alive -= set(ready)
            if listener in ready and (heard := self._serve()) is not None:
                return heard
        return False

    def _catch_up(self) -> None:
        """Take all that has come: we may not have run for a while before the master died."""
        while select.select([self._end], [], [], 0)[0] and self.hear():
            pass

    def let_go(self) -> None:
        """Close what nobody wants: before the heir hears that we have ended, its ports are free."""
        _close([*self._whole, *self._coming])

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
                    heir.settimeout(None)  # it lets go of us when it ends
                    answer = heir.recv(len(_DONE))
                    self._kept_on = heir.dup()  # closed when we have cleaned up, and ended
                    return {_DONE: True, _END: False}.get(answer)
                case b"end!":
                    self._kept_on = heir.dup()  # closed when we have cleaned up, and ended
                    return False
        return None


class Legacy:
    """What a dead master has left.  Until all is done with it the guard has it, too."""

    def __init__(self, heir: socket.socket) -> None:
        """Take all of it from the guard; raise OSError."""
        self._heir = heir
        self._received: list[tuple[int, int]] = []
        heir.sendall(_TAKE)
        total = 1
        while len(self._received) < total:
            _, total, coming = _receive(heir)
            if not coming:
                raise ConnectionResetError
            self._received += coming
        (_, state), *self._received = self._received
        self.state = read_back(state)

    def accept(self) -> None:
        """Have the descriptors open with the numbers that are written in the state."""
        above = 1 + max((number for number, _ in self._received), default=0)
        ours = fcntl(self._heir.fileno(), F_DUPFD_CLOEXEC, above)  # out of their way
        self._heir.close()
        self._heir = socket.socket(fileno=ours)
        _put_in_place(self._received)

    def settle(self) -> None:
        """Let the guard go: another one knows of all by now."""
        self._answer(_DONE)

    def refuse(self) -> None:
        """Have the guard end what is left, and wait until it has."""
        _close(self._received)
        with suppress(OSError):
            self._heir.sendall(_END)
            self._heir.recv(1)
        self._heir.close()

    def _answer(self, word: bytes) -> None:
        with self._heir, suppress(OSError):
            self._heir.sendall(word)


def inherit(name: str) -> Legacy | None:
    """Return what a dead master of this name has left; None if none has."""
    if heir := _visit(name):
        try:
            return Legacy(heir)
        except OSError:  # another heir was first
            heir.close()
    return None


def disinherit(name: str) -> None:
    """Have the guard of a dead master of this name end what is left of it; wait until it has."""
    if heir := _visit(name):
        with heir, suppress(OSError):
            heir.sendall(_END)
            heir.recv(1)


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
    pairs = list(zip(numbers, fds, strict=False))
    if len(fds) < len(numbers):  # MSG_CTRUNC: there is no room for more descriptors
        _close(pairs)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return before, total, pairs


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
