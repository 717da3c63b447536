"""What a worker has its master do, asked on NOTIFY_SOCKET beside what sd_notify(3) knows.

``X_OVERSEER_RESTART=1``
    a rollout of the service, asked for by a worker of the current generation.
``FDSTORE=1``, ``FDNAME=…`` with a descriptor
    keep it for whoever takes it; as systemd's own store does.  ``FDSTOREREMOVE=1`` lets go of it.
``X_OVERSEER_TAKE=…`` with one end of a socket pair
    the oldest of that name is sent there, and is the master's no more.  If there is none, the end
    is closed; with ``X_OVERSEER_WAIT=1`` it is sent once there is one.
``X_OVERSEER_LEASES=1`` with one end of a socket pair
    a file that all workers share, for their locks (worker/leases.py).

Messages come from processes of a worker's group alone (crew.py).  Nothing here waits, and nothing
of what is kept is looked into.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from overseer_py.core.fleet import Fleet
from overseer_py.core.messages import Report, WorkerId
from overseer_py.logs import Log
from overseer_py.plain import Fd
from overseer_py.system.notify import Message, close_foreign

_MOST_KEPT = 64  # descriptors of the service
_MOST_WAITING = 64  # workers that wait for one
_LARGEST = 64 << 20  # bytes of a file that is kept, as memfd_create(2) makes it
_NAME = 64  # letters
_QUIET = 10.0  # seconds between two lines about what was refused for the same reason


@dataclass(frozen=True, slots=True)
class _Kept:
    """A descriptor that nobody has taken yet."""

    name: str
    fd: Fd
    commits: int  # how many rollouts had been committed when it came


@dataclass(frozen=True, slots=True)
class KeptErrands:
    """What workers have left and wait for, for the master's next image."""

    left: list[_Kept]
    waiting: list[tuple[str, Fd]]
    commits: int
    leases: Fd


class Errands:
    """The rollouts that workers ask for, and what they leave for each other."""

    def __init__(self, fleet: Fleet, log: Log, restart: Callable[[str], object]) -> None:
        self._fleet = fleet
        self._log = log
        self._restart = restart
        self._kept: deque[_Kept] = deque()
        self._waiting: deque[tuple[str, socket.socket]] = deque()
        self._commits = 0
        self._quiet_until: dict[str, float] = {}  # by the reason of a refusal
        self._leases = -1

    def kept(self) -> KeptErrands:
        """Return what the master's next image must know."""
        waiting = [(name, Fd(reply.fileno())) for name, reply in self._waiting]
        return KeptErrands(list(self._kept), waiting, self._commits, Fd(self._leases))

    def resume(self, kept: KeptErrands) -> None:
        """Go on with what workers have left with an earlier image."""
        self._kept.extend(kept.left)
        self._waiting.extend((name, socket.socket(fileno=int(fd))) for name, fd in kept.waiting)
        self._commits, self._leases = kept.commits, int(kept.leases)

    def hear(self, worker: WorkerId, message: Message) -> None:
        """Do what a worker asks for."""
        fields = message.fields
        if fields.get("X_OVERSEER_RESTART") == "1":
            self._ask_for_rollout(worker)
        elif fields.get("FDSTORE") == "1":
            self._keep(worker, fields.get("FDNAME", "stored"), message.take())
        elif fields.get("FDSTOREREMOVE") == "1":
            self._let_go(lambda kept: kept.name == fields.get("FDNAME"))
        elif name := fields.get("X_OVERSEER_TAKE"):
            self._give(name, message.take(), waits=fields.get("X_OVERSEER_WAIT") == "1")
        elif fields.get("X_OVERSEER_LEASES") == "1":
            self._lend_leases(message.take())

    def __call__(self, report: Report) -> None:
        """Let go of what was left for the next generation, once the one after that has begun."""
        if report.name == "rollout-committed":
            self._commits += 1
            self._let_go(lambda kept: kept.commits < self._commits - 1)

    def close(self) -> None:
        """Let go of all."""
        self._let_go(lambda _: True)
        for _, reply in self._waiting:
            reply.close()
        self._waiting.clear()
        if self._leases >= 0:
            os.close(self._leases)
            self._leases = -1

    def _ask_for_rollout(self, worker: WorkerId) -> None:
        current = self._fleet.roster.current
        if current and worker.generation == current.number:
            self._restart(f"worker {worker}")
        else:
            self._refuse(worker, "restart", "not of the current generation")

    def _keep(self, worker: WorkerId, name: str, fds: list[int]) -> None:
        for fd in fds:
            if not name or len(name) > _NAME:
                why = f"a name has 1 to {_NAME} letters"
            elif len(self._kept) >= _MOST_KEPT:
                why = f"{_MOST_KEPT} are kept already, and nobody takes them"
            elif _memory(fd) > _LARGEST:
                why = f"larger than {_LARGEST >> 20} MiB"
            else:
                self._kept.append(_Kept(name, Fd(fd), self._commits))
                continue
            close_foreign(fd)
            shown = "".join(letter if letter.isprintable() else "?" for letter in name[:_NAME])
            self._refuse(worker, "store", why, name=shown)
        self._serve(name)

    def _give(self, name: str, fds: list[int], *, waits: bool) -> None:
        for each in [each for each in self._waiting if _has_gone(each[1])]:
            self._waiting.remove(each)
            each[1].close()
        for reply in filter(None, map(_reply, fds)):
            with_it = self._hand_over(name, reply)
            if with_it or not waits or len(self._waiting) >= _MOST_WAITING:
                reply.close()  # which is an answer, too
            else:
                self._waiting.append((name, reply))

    def _serve(self, name: str) -> None:
        """Bring together what is kept and who waits for it, the oldest first."""
        for waiting in [each for each in self._waiting if each[0] == name]:
            if any(kept.name == name for kept in self._kept):
                self._waiting.remove(waiting)
                with waiting[1]:
                    self._hand_over(name, waiting[1])

    def _hand_over(self, name: str, reply: socket.socket) -> bool:
        """Send the oldest of this name; False if there is none, or nobody waits any more."""
        kept = next((each for each in self._kept if each.name == name), None)
        if kept is None or not _send(reply, kept.fd):
            return False
        self._kept.remove(kept)
        close_foreign(kept.fd)
        return True

    def _lend_leases(self, fds: list[int]) -> None:
        if self._leases < 0:
            self._leases = os.memfd_create("overseer-leases", os.MFD_CLOEXEC)
        for fd in fds:
            if reply := _reply(fd):
                with reply:
                    _send(reply, self._leases)

    def _let_go(self, unwanted: Callable[[_Kept], bool]) -> None:
        for kept in [each for each in self._kept if unwanted(each)]:
            self._kept.remove(kept)
            close_foreign(kept.fd)

    def _refuse(self, worker: WorkerId, what: str, reason: str, **facts: str) -> None:
        """Say so; not each time: a worker that floods would fill the log."""
        now = time.monotonic()
        if now >= self._quiet_until.get(reason, 0.0):
            self._quiet_until[reason] = now + _QUIET
            facts |= {"what": what, "reason": reason}
            self._log.warning("errand-refused", worker=str(worker), **facts)


def _memory(fd: int) -> int:
    """Return how much memory a file takes that has no place on a disk (memfd_create(2))."""
    found = os.fstat(fd)
    return found.st_size if stat.S_ISREG(found.st_mode) and not found.st_nlink else 0


def _reply(fd: int) -> socket.socket | None:
    """Return the socket of whoever waits for an answer; None, and closed, if it is none."""
    try:
        reply = socket.socket(fileno=fd)
    except OSError:
        close_foreign(fd)
        return None
    with suppress(OSError):
        reply.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\0" * 8)  # as in close_foreign()
    reply.setblocking(False)
    return reply


def _has_gone(reply: socket.socket) -> bool:
    """Whether nobody waits at the other end any more."""
    try:
        return not reply.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _send(reply: socket.socket, fd: int) -> bool:
    """Send a descriptor; False if nobody waits for it any more."""
    try:
        socket.send_fds(reply, [b"\0"], [fd])
    except OSError:
        return False
    return True
