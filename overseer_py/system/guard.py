"""After the master's death: nothing that it started lives on, and its port is free.

The parent-death signal asks the workers to drain, but it reaches neither those who ignore it nor
what called setsid(2) and lost its parent.  So the master forks a guard, which blocks on a pipe and
wakes up when that closes.  It gives the workers a second, then kills, by turns until nobody is
left: the workers' groups and descendants, whoever was started with the master's pid in
OVERSEER_PID, and whoever holds a listener that the master had made.

With ``--orphans adopt`` there is no such signal.  The guard waits for a master that takes the
workers over (custody.py), and does all that only if none comes.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from overseer_py.errors import LaunchError
from overseer_py.plain import Fd
from overseer_py.system import libc, procfs
from overseer_py.system.custody import Custody, Deposit, address_of
from overseer_py.system.process import Children, KeptProcess, Process

GRACE = 1.0  # seconds for the workers to end by themselves
_PATIENCE = 5.0  # seconds to insist; what still lives then is in uninterruptible sleep
_LINE = 4096


@dataclass(frozen=True, slots=True)
class KeptGuard:
    """The guard that there is, for the master's next image."""

    process: KeptProcess | None
    write_end: Fd
    workers: list[int]
    listeners: list[int]
    custody: Fd = Fd(-1)  # noqa: RUF009 - a number


@dataclass(frozen=True, slots=True)
class Will:
    """What is to become of the workers of a dead master."""

    name: str  # by which an heir knows the instance
    patience: float  # seconds to wait for one
    farewell: int  # the signal that the workers get if none comes


Heritage = tuple[Will, int]  # and the guard's end of the custody


class Guard:
    """The master's side: keeps a guard alive, and tells it what it must know in the worst case."""

    def __init__(
        self,
        children: Children,
        lock: int | None,
        will: Will | None = None,
        kept: KeptGuard | None = None,
    ) -> None:
        """``lock`` is held by the guard, too: the name is free when both are gone."""
        self.custody: Custody | None = None  # with a will
        self._will = will
        self._children = children
        self._keep = [] if lock is None else [lock]
        self._workers: set[int] = set()
        self._listeners: set[int] = set()
        self._closing = False
        self._write_end = -1
        self._process: Process | None = None
        if kept is None:
            self._start()
        else:
            self._resume(kept)

    def kept(self) -> KeptGuard:
        """Return what the master's next image must know."""
        process = self._process.kept() if self._process else None
        known = sorted(self._workers), sorted(self._listeners)
        custody = Fd(self.custody.fd if self.custody else -1)
        return KeptGuard(process, Fd(self._write_end), *known, custody)

    def worker(self, pid: int) -> None:
        """Tell of a new worker."""
        self._workers.add(pid)
        if self._write_end < 0:  # it could not be replaced when it died: now, perhaps
            self._try_start()
        else:
            self._say(f"worker {pid}")

    def gone(self, pid: int) -> None:
        """Tell that a worker has ended."""
        self._workers.discard(pid)
        self._say(f"gone {pid}")

    def listeners(self, inodes: set[int]) -> None:
        """Tell of the sockets that nobody but the master's own may hold."""
        for inode in inodes - self._listeners:
            self._say(f"listener {inode}")
        for inode in self._listeners - inodes:
            self._say(f"closed {inode}")
        self._listeners = set(inodes)

    def dismiss(self) -> None:
        """Expect its end: the master is about to kill all that is left, the guard included."""
        self._closing = True

    def _start(self) -> None:
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(write_end, False)
        self.custody = Custody() if self._will else None
        try:
            run = partial(watch, read_end, os.getpid(), self._keep, self._heritage())
            self._process = self._children.fork(run, {}, self._on_exit)
        except LaunchError:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
            if self.custody:
                self.custody.handed_over()
        self._write_end = write_end
        for pid in self._workers:
            self._say(f"worker {pid}")
        for inode in self._listeners:
            self._say(f"listener {inode}")

    def _resume(self, kept: KeptGuard) -> None:
        self._workers, self._listeners = set(kept.workers), set(kept.listeners)
        if kept.process:
            self._process = self._children.take_up(kept.process, self._on_exit)
            self._write_end = int(kept.write_end)
            self.custody = Custody(int(kept.custody)) if kept.custody >= 0 else None

    def _heritage(self) -> Heritage | None:
        return (self._will, self.custody.hand_over()) if self._will and self.custody else None

    def _on_exit(self, _how: str, _status: int) -> None:
        """Replace a guard that somebody has killed."""
        os.close(self._write_end)
        if self.custody:
            self.custody.close()
            self.custody = None
        self._process = None
        self._write_end = -1  # another's number soon, should the next one not start
        if not self._closing:
            self._try_start()

    def _try_start(self) -> None:
        """Start a guard; out of descriptors or processes, the next worker tries again."""
        with suppress(OSError, LaunchError):
            self._start()

    def _say(self, line: str) -> None:
        with suppress(OSError):  # a guard that is dead is replaced; one that is stuck is no help
            os.write(self._write_end, f"{line}\n".encode())


def watch(
    pipe: int, master: int, keep: Iterable[int], heritage: Heritage | None, _report_fd: int
) -> NoReturn:
    """Be the guard of this master: wait for its end, then clean up.  Runs in a child.

    ``keep`` are descriptors to hold until the end: the lock on the instance's name.
    """
    try:
        libc.set_name("overseer-guard")
        deposit = Deposit(heritage[1], address_of(heritage[0].name)) if heritage else None
        procfs.close_others({0, 1, 2, pipe, *keep, *(deposit.fds if deposit else ())})
        workers, inodes = _listen(pipe, deposit)
        if deposit and heritage:
            will = heritage[0]
            if deposit.wait(will.patience, workers.values(), partial(_close_all, keep)):
                os._exit(0)  # they are another's now
            for pidfd in workers.values():
                with suppress(OSError):
                    signal.pidfd_send_signal(pidfd, will.farewell)
        _clean_up(master, workers, inodes)
        if deposit:
            deposit.let_go()
    finally:
        os._exit(0)


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def _listen(pipe: int, deposit: Deposit | None) -> tuple[dict[int, int], set[int]]:
    """Return the workers (pid to pidfd) and the listeners that there were when the pipe closed."""
    workers: dict[int, int] = {}
    inodes: set[int] = set()
    rest = b""
    sources: list[int | Deposit] = [pipe, deposit] if deposit else [pipe]
    while True:
        ready, _, _ = select.select(sources, [], [])
        if deposit in ready and deposit and not deposit.hear():
            sources = [pipe]
        if pipe not in ready:
            continue
        if not (data := os.read(pipe, _LINE)):
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            what, number = line.split()
            match what:
                case b"worker":
                    with suppress(OSError):
                        workers[int(number)] = os.pidfd_open(int(number))
                case b"gone":
                    with suppress(KeyError):
                        os.close(workers.pop(int(number)))
                case b"listener":
                    inodes.add(int(number))
                case b"closed":
                    inodes.discard(int(number))
    return workers, inodes


def _clean_up(master: int, workers: dict[int, int], inodes: set[int]) -> None:
    family = dict.fromkeys(procfs.tree(workers), 0)  # now: later they are orphans of nobody
    family = {pid: procfs.group_and_start(pid)[1] for pid in family}
    _wait(list(workers.values()), GRACE)
    give_up_at = time.monotonic() + _PATIENCE
    while time.monotonic() < give_up_at:
        left = [pid for pid in procfs.pids() if _is_ours(pid, master, family, workers, inodes)]
        if not left:
            return
        for pid in procfs.tree(left):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)  # a kill takes effect when the process next runs


def _is_ours(
    pid: int, master: int, family: dict[int, int], groups: Iterable[int], inodes: set[int]
) -> bool:
    if pid in (1, os.getpid()) or procfs.is_zombie(pid):
        return False
    group, start = procfs.group_and_start(pid)
    if family.get(pid) == start or group in groups:
        return True
    if procfs.has_variable(pid, "OVERSEER_PID", str(master)):
        return True
    return bool(inodes & procfs.sockets(pid).keys())


def _wait(pidfds: list[int], seconds: float) -> None:
    """Wait until all these processes have ended, or for so long."""
    poll = select.poll()
    for fd in pidfds:
        poll.register(fd, select.POLLIN)
    give_up_at, left = time.monotonic() + seconds, len(pidfds)
    while left and (rest := give_up_at - time.monotonic()) > 0:
        for fd, _ in poll.poll(rest * 1000):
            poll.unregister(fd)
            left -= 1
