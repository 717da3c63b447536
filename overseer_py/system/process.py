"""Start, signal and reap processes, and whatever they leave behind.

A process is held by its pidfd, never by a number that may be someone else's by now.  The master
is a subreaper (PR_SET_CHILD_SUBREAPER): what a worker leaves behind becomes the master's own
child, a *stray*, and is told by its process group or by the variables it was started with.

A process has ended when its main process is reaped and none of its strays is left.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from overseer_py.errors import LaunchError
from overseer_py.plain import Fd
from overseer_py.system import libc, procfs
from overseer_py.system.launch import Launch, become
from overseer_py.system.signals import name_of

OnExit = Callable[[str, int], None]  # how it ended, and the status a shell would show
_REPORT_SIZE = 4096
_PEEK = os.WEXITED | os.WNOHANG | os.WNOWAIT


@dataclass(frozen=True, slots=True)
class KeptProcess:
    """A process, as the master's next image takes it up: it stays its child."""

    pid: int
    pidfd: Fd  # -1 once it is reaped, as the next one
    report: Fd
    mark: Mapping[str, str]
    farewell: int
    told: list[int]
    ended: tuple[str, int] | None = None


class Process:
    """A child of the master in a process group of its own."""

    def __init__(
        self,
        pid: int,
        report_fd: int,
        mark: Mapping[str, str],
        on_exit: OnExit,
        pidfd: int | None = None,
    ) -> None:
        """``mark`` are the variables by which its strays are known."""
        self._pidfd = os.pidfd_open(pid) if pidfd is None else pidfd
        self.pid = pid
        self.mark = mark
        self.on_exit = on_exit
        self.ended: tuple[str, int] | None = None  # the main process is reaped: how, status
        # What its strays get when the main process has ended, and those that got it.
        self.farewell: signal.Signals = signal.SIGKILL
        self.told: set[int] = set()
        self._report_fd = report_fd

    @property
    def pidfd(self) -> int:
        """Readable once the main process has ended; -1 when that is known."""
        return -1 if self.ended else self._pidfd

    def kept(self) -> KeptProcess:
        """Return what the next image must know of it."""
        pidfd, report = (-1, -1) if self.ended else (self._pidfd, self._report_fd)
        known = self.mark, int(self.farewell), sorted(self.told), self.ended
        return KeptProcess(self.pid, Fd(pidfd), Fd(report), *known)

    @classmethod
    def resumed(cls, kept: KeptProcess, on_exit: OnExit) -> Process:
        """Return the process that an image before this one has started."""
        process = cls(kept.pid, kept.report, kept.mark, on_exit, kept.pidfd)
        process.farewell, process.told = signal.Signals(kept.farewell), set(kept.told)
        process.ended = kept.ended
        return process

    def send(self, number: int) -> None:
        """Signal the main process, unless it has ended."""
        if self.ended is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def wake(self) -> None:
        """Continue the main process if it is stopped."""
        if procfs.is_stopped(self.pid):
            self.send(signal.SIGCONT)

    def drain(self, number: signal.Signals) -> None:
        """Ask the main process to finish; a stopped one is continued, or it would never hear.

        Its strays are asked as well once it has ended: of ``sh -c 'cd x && server'`` the signal
        ends the shell, and the server still has work to finish.
        """
        self.farewell = number
        self.send(number)
        self.send(signal.SIGCONT)

    def owns(self, stray: int) -> bool:
        """Whether a stray comes from this process."""
        group, _ = procfs.group_and_start(stray)
        if not self.mark or group == self.pid:
            return group == self.pid
        return all(procfs.has_variable(stray, *variable) for variable in self.mark.items())

    def mourn(self) -> None:
        """Note that the main process has ended, which was somebody else's child."""
        os.close(self._report_fd)
        os.close(self._pidfd)
        self.ended = "ended (how is not known: it was another master's)", 1

    def reap(self) -> None:
        """Collect the exit status of the main process, which has ended."""
        result = os.waitid(os.P_PID, self.pid, os.WEXITED)
        assert result is not None  # without WNOHANG, waitid always has an answer
        try:
            report = os.read(self._report_fd, _REPORT_SIZE).decode(errors="replace")
        except BlockingIOError:  # a descendant of the child still holds the pipe
            report = ""
        os.close(self._report_fd)
        os.close(self._pidfd)
        how, status = describe(result)
        self.ended = report or how, status


class Children:
    """All processes that the master has started, and the strays that they left."""

    def __init__(self, limit: tuple[int, int] | None = None) -> None:
        """``limit`` is RLIMIT_NOFILE as it was before an earlier image raised it."""
        libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)
        self.limit = limit or raise_descriptor_limit()
        self._processes: dict[int, Process] = {}

    def spawn(self, launch: Launch, mark: Mapping[str, str], on_exit: OnExit) -> Process:
        """Start a program; ``on_exit`` is called once, from ``reap``, also if the exec failed."""
        run = partial(become, launch, os.getpid(), self.limit)
        return self.fork(run, mark, on_exit)

    def fork(
        self, run: Callable[[int], NoReturn], mark: Mapping[str, str], on_exit: OnExit
    ) -> Process:
        """Run a function in a child; what it writes to the descriptor it gets says how it ended."""
        try:
            read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise LaunchError(f"could not be started: {error.strerror}") from error
        pid = 0
        try:
            pid = os.fork()
            if pid == 0:
                run(write_end)
            with suppress(OSError):  # both sides do it: whoever is first, nobody sees it undone
                os.setpgid(pid, pid)
            process = self._processes[pid] = Process(pid, read_end, mark, on_exit)
        except OSError as error:
            os.close(read_end)
            if pid:  # no descriptor left to hold it by
                os.kill(pid, signal.SIGKILL)
                os.waitid(os.P_PID, pid, os.WEXITED)
            raise LaunchError(f"could not be started: {error.strerror}") from error
        finally:
            os.close(write_end)
        return process

    def take_up(self, kept: KeptProcess, on_exit: OnExit) -> Process:
        """Go on with a process that an image before this one has started."""
        process = self._processes[kept.pid] = Process.resumed(kept, on_exit)
        return process

    def is_ours(self, process: Process) -> bool:
        """Whether a process is a child of this one; one of a dead master's is another's."""
        return process.ended is not None or procfs.parent(process.pid) == os.getpid()

    def bury(self, process: Process) -> None:
        """Take note of the end of a process that is not our child: its status is not known."""
        process.mourn()
        self._dismiss(process)

    def by_group(self, pid: int) -> Process | None:
        """Return the process whose group the given pid is in."""
        try:
            return self._processes.get(os.getpgid(pid))
        except ProcessLookupError:
            return None

    def reap(self) -> None:
        """Collect all that has ended, orphans that came to us included.

        Peeks first: the status of a process of ours is taken by that process alone.
        """
        while (pid := _peek()) is not None:
            process = self._processes.get(pid)
            if process and process.ended is None:
                process.reap()
            else:
                os.waitid(os.P_PID, pid, os.WEXITED)
        for process in [p for p in self._processes.values() if p.ended]:
            self._dismiss(process)

    def kill(self, process: Process) -> None:
        """SIGKILL a process, its group, its descendants and its strays."""
        process.farewell = signal.SIGKILL
        process.told.clear()  # those who were only asked are not spared now
        if process.ended is None:
            descendants = procfs.tree([process.pid])
            process.send(signal.SIGKILL)
            with suppress(ProcessLookupError):  # it has left its group
                os.killpg(process.pid, signal.SIGKILL)  # not reaped, so the number is its own
            kill_all(descendants)
        else:
            kill_all(procfs.tree(self._strays(process)))

    def kill_everything(self, patience: float = 5.0) -> None:
        """SIGKILL whatever is left below the master: the last thing that it does."""
        give_up_at = time.monotonic() + patience  # a process in uninterruptible sleep may stay
        while left := [p for p in procfs.tree([os.getpid()])[1:] if not procfs.is_zombie(p)]:
            kill_all(left)
            self.reap()
            if time.monotonic() > give_up_at:
                return
            time.sleep(0.001)  # a kill takes effect when the process next runs

    def _dismiss(self, process: Process) -> None:
        """Tell of the end of a process once its strays have gone, too; send them off first."""
        assert process.ended is not None
        strays = self._strays(process)
        new = [pid for pid in strays if pid not in process.told]
        # A drain goes to main processes only: a whole group told to stop drops requests.
        for pid in procfs.tree(new) if process.farewell == signal.SIGKILL else new:
            _send(pid, process.farewell)
        process.told.update(new)
        if not strays and not self._is_one_ending():
            del self._processes[process.pid]
            process.on_exit(*process.ended)

    def _strays(self, process: Process) -> list[int]:
        return [
            pid
            for pid in procfs.children(os.getpid())
            if pid not in self._processes and not procfs.is_zombie(pid) and process.owns(pid)
        ]

    def _is_one_ending(self) -> bool:
        """Whether an orphan is about to end: whose it was cannot be told, nor what it leaves.

        Its children become the master's no later than it can be reaped, and then ``reap`` looks.
        """
        orphans = [pid for pid in procfs.children(os.getpid()) if pid not in self._processes]
        return any(procfs.is_ending(pid) for pid in orphans)


def raise_descriptor_limit() -> tuple[int, int]:
    """Allow the master as many descriptors as it may have (three a worker); return what was."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard


def kill_all(pids: Iterable[int]) -> None:
    """SIGKILL these processes."""
    for pid in pids:
        _send(pid, signal.SIGKILL)


def describe(result: os.waitid_result) -> tuple[str, int]:
    """Return how a process ended, as the end of a sentence, and the status a shell would show."""
    if result.si_code == os.CLD_EXITED:
        return f"exited with status {result.si_status}", result.si_status
    core = " (core dumped)" if result.si_code == os.CLD_DUMPED else ""
    return f"was killed by {name_of(result.si_status)}{core}", 128 + result.si_status


def _send(pid: int, number: int) -> None:
    with suppress(OSError):
        os.kill(pid, number)


def _peek() -> int | None:
    """Return the pid of a child that has ended, and leave it to be reaped."""
    try:
        result = os.waitid(os.P_ALL, 0, _PEEK)
    except ChildProcessError:
        return None
    return result.si_pid if result else None
