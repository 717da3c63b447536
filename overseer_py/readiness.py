"""When a worker is ready: the rules that a user can choose, one class each.

A rule is told what happens (a message of the worker's, a look at the clock) and calls back once.
``next_look`` is when it wants to look next; None when it only waits to be told.
"""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn, TypeVar

from overseer_py import values
from overseer_py.errors import ConfigError, LaunchError
from overseer_py.system import probe, procfs, traffic
from overseer_py.system.launch import Identity, Launch
from overseer_py.system.listeners import Listener, Seat
from overseer_py.system.loop import IN, Loop
from overseer_py.system.probe import Target
from overseer_py.system.process import Children, Process
from overseer_py.values import ReadyRule

ALIVE_LONG_ENOUGH = 1.0  # seconds: ``auto`` without listeners and without READY=1

Say = Callable[[str], None]
Place = TypeVar("Place", Listener, Seat)


class Rule:
    """A worker that is watched until it is ready."""

    next_look: float | None = None
    hint = ""  # what is missing, for whoever wonders why it is not ready

    def __init__(self, on_ready: Callable[[], None]) -> None:
        self.on_ready = on_ready

    def begin(self, worker: Process, now: float) -> None:
        """Start to watch: the worker has been started."""

    def look(self, now: float) -> None:
        """See whether it is ready; called when ``next_look`` is due."""

    def hear(self, fields: Mapping[str, str]) -> None:
        """Take a message that came on NOTIFY_SOCKET from the worker's process group."""

    def stop(self) -> None:
        """Watch no more: it is ready, or it is past."""
        self.next_look = None


class Notify(Rule):
    """READY=1 from the worker."""

    hint = "no READY=1 came on NOTIFY_SOCKET from a process of the worker's group"

    def hear(self, fields: Mapping[str, str]) -> None:
        """Take READY=1."""
        if fields.get("READY") == "1":
            self.on_ready()


class Delay(Rule):
    """Alive that long."""

    def __init__(self, on_ready: Callable[[], None], seconds: float) -> None:
        super().__init__(on_ready)
        self._seconds = seconds

    def begin(self, worker: Process, now: float) -> None:
        """Start the clock."""
        self.next_look = now + self._seconds

    def look(self, now: float) -> None:
        """Be ready: it has lived so long."""
        self.on_ready()


class NotifyOrDelay(Delay):
    """READY=1 or one second alive, whichever is first."""

    hear = Notify.hear


class Accept(Rule):
    """The kernel shows the worker, or a descendant, waiting on each of these listeners.

    Or holding a connection that it has accepted there: a busy server may never wait.
    """

    _FIRST, _GROWTH, _LONGEST = 0.01, 1.25, 0.1  # seconds between looks; a look costs 0.3 ms

    def __init__(self, on_ready: Callable[[], None], seats: Sequence[Seat]) -> None:
        super().__init__(on_ready)
        self._seats = seats
        self._pid = 0
        self._pause = self._FIRST

    def begin(self, worker: Process, now: float) -> None:
        """Look soon, and then less and less often."""
        self._pid = worker.pid
        self.next_look = now + self._pause

    def look(self, now: float) -> None:
        """Look at the worker's whole tree: gunicorn's listeners are polled by its children."""
        self._pause = min(self._pause * self._GROWTH, self._LONGEST)
        self.next_look = now + self._pause
        names = traffic.missing(self._pid, {seat.name: seat.socket for seat in self._seats})
        if not names:
            self.on_ready()
            return
        self.hint = traffic.unserved(names)
        if any(procfs.is_hidden(pid) for pid in procfs.tree([self._pid])):
            self.hint += "; its descriptors are hidden: give CAP_SYS_PTRACE, or another --ready"


class ReadyPipe(Rule):
    """A newline on OVERSEER_READY_FD."""

    hint = "no newline came on OVERSEER_READY_FD"

    def __init__(self, on_ready: Callable[[], None], loop: Loop) -> None:
        super().__init__(on_ready)
        try:
            self._fd, self.write_end = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            raise LaunchError(f"could not be started: {error.strerror}") from error
        self._loop = loop
        loop.watch(self._fd, IN, self._on_readable)

    def begin(self, worker: Process, now: float) -> None:
        """Let go of the end that the worker has now."""
        os.close(self.write_end)
        self.write_end = -1

    def _on_readable(self, _: int) -> None:
        data = os.read(self._fd, 4096)
        if b"\n" in data:
            self.on_ready()
        elif not data:  # closed without a word: only the time-out can tell
            self.stop()

    def stop(self) -> None:
        """Close what is still open."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1


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
            self._seat.close_entrance(entrance)
            on_exit(how, status)

        try:
            return self.children.fork(run, {}, close)
        except LaunchError:
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


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a rule may need to know of the worker and of the master."""

    loop: Loop
    children: Children
    seats: Sequence[Seat]
    launch: Launch
    say: Say


def rule_for(  # noqa: PLR0911 - one for each rule
    rule: ReadyRule, on_ready: Callable[[], None], around: Surroundings
) -> Rule:
    """Return the watch for one worker."""
    match rule.kind:
        case "auto":
            if not around.seats:
                return NotifyOrDelay(on_ready, ALIVE_LONG_ENOUGH)
            return _accept(on_ready, around, around.seats)
        case "accept":
            return _accept(on_ready, around, named(around.seats, rule.argument))
        case "notify":
            return Notify(on_ready)
        case "fd":
            return ReadyPipe(on_ready, around.loop)
        case "http":
            name, slash, path = rule.argument.partition("/")
            (seat,) = named(around.seats, name)[:1]
            return Http(on_ready, around, seat, slash + path)
        case "exec":
            launch = replace(
                around.launch, argv=shlex.split(rule.argument), fds=(), stdout=2, stderr=2
            )
            return Exec(on_ready, around.children, around.say, launch)
    return Delay(on_ready, values.duration(rule.argument))


def _accept(on_ready: Callable[[], None], around: Surroundings, seats: Sequence[Seat]) -> Rule:
    identity = around.launch.identity
    if identity and not procfs.sees_others():
        return AcceptAs(on_ready, around, seats, identity)
    return Accept(on_ready, seats)


def check(rule: ReadyRule, listeners: Sequence[Listener]) -> None:
    """Raise ConfigError if the rule names a listener that is not there."""
    if rule.kind == "accept":
        named(listeners, rule.argument)
    elif rule.kind == "http":
        named(listeners, rule.argument.partition("/")[0])


def named(listeners: Sequence[Place], names: str) -> list[Place]:
    """Return the listeners of these names, comma-separated; all for no names."""
    if not listeners:
        raise ConfigError("ready: this rule needs a listener; add --listen, or use notify or delay")
    if not names:
        return list(listeners)
    found = {listener.name: listener for listener in listeners}
    with suppress(KeyError):
        return [found[name.strip()] for name in names.split(",")]
    raise ConfigError(f"ready: no listener is named {names!r}; there are: {', '.join(found)}")
