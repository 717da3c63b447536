"""Readiness rules that try: a process is started again and again until it exits with 0.

Those that ask for the worker's health can go on to do so after it is ready.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn

from overseer_py.errors import LaunchError
from overseer_py.system import probe, procfs, traffic
from overseer_py.system.launch import Identity, Launch
from overseer_py.system.listeners import Seat
from overseer_py.system.loop import Loop
from overseer_py.system.probe import Target
from overseer_py.system.process import Children, Process
from overseer_py.watches import Rule

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a rule may need to know of the worker and of the master."""

    loop: Loop
    children: Children
    seats: Sequence[Seat]
    launch: Launch
    say: Say


class Trial(Rule):
    """A process that is started again and again until it exits with 0."""

    attends = False  # whether it goes on to tell of the worker's health
    _FIRST, _GROWTH, _LONGEST = 0.05, 1.5, 1.0  # seconds from one end to the next start
    _MISSES = 3  # in a row: then a worker that was ready is not healthy any more

    def __init__(self, on_ready: Callable[[], None], children: Children, say: Say) -> None:
        super().__init__(on_ready)
        self.children = children
        self._say = say  # why it is not ready yet, each reason once
        self._pause = self._FIRST
        self._process: Process | None = None
        self._worker: Process | None = None
        self._on_unhealthy: Say | None = None
        self._misses = 0

    def start(self, worker: Process, on_exit: Callable[[str, int], None]) -> Process:
        """Start one trial."""
        raise NotImplementedError

    def begin(self, worker: Process, now: float) -> None:
        """Try soon."""
        self._worker, self.next_look = worker, now + self._pause

    def attend(self, worker: Process, now: float, on_unhealthy: Say) -> None:
        """Go on with a worker that is ready: say once if it fails again and again."""
        self._worker, self.next_look = worker, now + self._pause
        self._on_unhealthy, self._pause, self._misses = on_unhealthy, self._LONGEST, 0

    def look(self, now: float) -> None:
        """Start the next trial; the one before has ended."""
        assert self._worker
        self.next_look = None
        try:
            self._process = self.start(self._worker, self._on_exit)
        except LaunchError as error:
            self._on_exit(str(error), 1)

    def _on_exit(self, how: str, status: int) -> None:
        self._process = None
        if self._worker is None:
            return
        if self._on_unhealthy:
            self._misses = self._misses + 1 if status else 0
            self.next_look = time.monotonic() + self._LONGEST
            if self._misses == self._MISSES:
                self._on_unhealthy(f"is not healthy any more: {how}")
            return
        if status == 0:
            self.on_ready()
            return
        if how != self.hint:
            self.hint = how
            self._say(how)
        self._pause = min(self._pause * self._GROWTH, self._LONGEST)
        self.next_look = time.monotonic() + self._pause

    def stop(self) -> None:
        """Let no trial outlive the question."""
        self._worker = self.next_look = None
        if self._process:
            self.children.kill(self._process)


class AcceptAs(Trial):
    """Accept, seen by a child that has become the worker's user."""

    _FIRST, _LONGEST = 0.02, 0.2

    def __init__(
        self,
        on_ready: Callable[[], None],
        around: Surroundings,
        seats: Sequence[Seat],
        identity: Identity,
    ) -> None:
        super().__init__(on_ready, around.children, lambda _: None)
        self._seats = seats
        self._identity = identity

    def start(self, worker: Process, on_exit: Callable[[str, int], None]) -> Process:
        """Look once."""
        listeners = {seat.name: seat.socket for seat in self._seats}
        look = partial(traffic.look_as, self._identity, worker.pid, listeners, os.getpid())
        return self.children.fork(look, {}, on_exit)


class Http(Trial):
    """A 2xx that this worker answered through the real address."""

    attends = True

    def __init__(
        self, on_ready: Callable[[], None], around: Surroundings, ask: Seat, path: str
    ) -> None:
        super().__init__(on_ready, around.children, around.say)
        self._seat, self._path = ask, path
        self._identity = None if procfs.sees_others() else around.launch.identity

    def start(self, worker: Process, on_exit: Callable[[str, int], None]) -> Process:
        """Ask in a child of the master: it may block."""
        try:
            entrance = self._seat.open_entrance(probe.CONNECTIONS)
        except OSError as error:
            raise LaunchError(f"no way to the worker: {error.strerror}") from error
        target = Target(entrance, self._path, worker.pid, self._identity)
        run: Callable[[int], NoReturn] = partial(probe.run, target, os.getpid())

        def close(how: str, status: int) -> None:
            with suppress(OSError):  # no descriptor left: the ports are nobody's, and forgotten
                self._seat.close_entrance(entrance)
            on_exit(how, status)

        try:
            return self.children.fork(run, {}, close)
        except LaunchError:
            with suppress(OSError):
                self._seat.close_entrance(entrance)
            raise
        finally:
            entrance.hand_over()


class Exec(Trial):
    """A command that exits with 0, run with the worker's environment."""

    attends = True

    def __init__(
        self, on_ready: Callable[[], None], children: Children, say: Say, launch: Launch
    ) -> None:
        super().__init__(on_ready, children, say)
        self._launch = launch

    def start(self, worker: Process, on_exit: Callable[[str, int], None]) -> Process:
        """Run the command; it dies with the master, and hears of no sockets."""
        environ = {k: v for k, v in self._launch.environ.items() if not k.startswith("LISTEN_")}
        environ["OVERSEER_WORKER_PID"] = str(worker.pid)
        launch = replace(self._launch, environ=environ, death_signal=signal.SIGKILL)
        return self.children.spawn(launch, {}, on_exit)
