"""A process of its own for a test of what belongs to a whole process.

Signals, limits, users, open descriptors and children of the test stay in there, and nothing that it
started outlives it.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

from overseer_py.system import libc, procfs
from overseer_py.system.launch import Launch
from overseer_py.system.process import Children, Process
from overseer_py.system.signals import SERVED

PYTHON = [sys.executable, "-I", "-S", "-c"]  # a quick one: no site, no environment
_PATIENCE = 300.0  # seconds: less than a test has, so that there is time to tell
_TELLING = ("Name", "State", "Threads", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
_FAR = 500  # a descriptor that is in no test's way

T = TypeVar("T")


def apart(run: Callable[[], T]) -> T:
    """Return what the function returns in a forked process; fail as it fails."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = fork_quietly()
    if pid == 0:
        _tell(run, write_end)
    os.close(write_end)
    try:
        with open(read_end, "rb") as pipe:
            if not select.select([pipe], [], [], _PATIENCE)[0]:
                pytest.fail(_stuck(pid), pytrace=False)
            failure, answer = pickle.load(pipe)
    except EOFError:
        failure, answer = "the process ended without a word", None
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if failure:
        pytest.fail(failure, pytrace=False)
    result: T = answer
    return result


def _stuck(pid: int) -> str:
    """Return what each process is waiting for; faulthandler tells on stderr where in Python."""
    lines = ["nothing came from the process:"]
    for member in procfs.tree([pid]):
        with suppress(OSError):
            status = Path(f"/proc/{member}/status").read_text()
            facts = [line for line in status.splitlines() if line.startswith(_TELLING)]
            lines.append(f"{member} in {Path(f'/proc/{member}/wchan').read_text()}: {facts}")
    os.kill(pid, signal.SIGABRT)
    with suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return "\n".join(lines)


def fork_quietly() -> int:
    """Fork whatever threads there are: the child waits for none of them."""
    with warnings.catch_warnings():  # threads of other tests are idle or gone
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _tell(run: Callable[[], object], write_end: int) -> NoReturn:
    os.dup2(write_end, _FAR, inheritable=False)
    os.close(write_end)
    for name in procfs.entries("/proc/self/fd"):  # as the master does with what it inherits
        if int(name) > 2:
            with suppress(OSError):
                os.set_inheritable(int(name), False)
    libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)  # so that the last one can end all the others
    failure, answer = "", None
    try:
        answer = run()
    except BaseException:  # noqa: BLE001 - also a failed assertion, an exit, an interrupt
        failure = traceback.format_exc()
    while left := [pid for pid in procfs.tree([os.getpid()])[1:] if not procfs.is_zombie(pid)]:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)
    with open(_FAR, "wb") as pipe:
        pickle.dump((failure, answer), pipe)
    os._exit(0)


@dataclass(frozen=True)
class Ended:
    """How a process ended, and all that it wrote to stdout."""

    how: str
    status: int
    output: str
    pid: int


class House:
    """Children that are reaped whenever one has ended, as the master's loop would."""

    def __init__(self) -> None:
        # As in a master: what reaches a child before its exec waits, and is not a handler's of the
        # test run, which would take it and forget it.
        signal.pthread_sigmask(signal.SIG_BLOCK, SERVED)
        self.children = Children()
        self.ended: dict[int, tuple[str, int]] = {}  # by the order of their start
        self._started = 0

    def spawn(self, launch: Launch, mark: Mapping[str, str] | None = None) -> Process:
        """Start a program."""
        number = self._started = self._started + 1

        def on_exit(how: str, status: int) -> None:
            assert number not in self.ended, "told twice"
            self.ended[number] = how, status

        return self.children.spawn(launch, mark or {}, on_exit)

    def turn(self) -> None:
        """Wait until a child has ended, and reap."""
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        self.children.reap()

    def wait(self, number: int = 1) -> tuple[str, int]:
        """Wait for the end of the process that was started as this one."""
        while number not in self.ended:
            self.turn()
        return self.ended[number]


def outcome(launch: Callable[[int], Launch]) -> Ended:
    """Return how a program ends whose stdout is the given descriptor."""

    def run() -> Ended:
        house = House()
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        process = house.spawn(launch(write_end))
        os.close(write_end)
        with open(read_end, encoding="utf-8") as pipe:
            output = pipe.read()
        return Ended(*house.wait(), output, process.pid)

    return apart(run)
