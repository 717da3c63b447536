"""Readiness rules that only watch: what the worker says, how long it lives, what the kernel shows.

A rule is told what happens (a message of the worker's, a look at the clock) and calls back once.
``next_look`` is when it wants to look next; None when it only waits to be told.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from overseer_py.errors import LaunchError
from overseer_py.handover import FIRST_FD
from overseer_py.plain import Fd
from overseer_py.system import procfs, traffic
from overseer_py.system.launch import Launch
from overseer_py.system.listeners import Seat
from overseer_py.system.loop import IN, Loop
from overseer_py.system.probe import Visit
from overseer_py.system.process import Process


@dataclass(frozen=True, slots=True)
class KeptRule:
    """What a rule cannot find out anew, for the master's next image."""

    next_look: float | None = None
    pipe: Fd | None = None
    told: bool = False  # its convention's word has come
    met: bool = False  # it is met, and the worker does not listen for itself yet


class Rule:
    """A worker that is watched until it is ready."""

    next_look: float | None = None
    hint = ""  # what is missing, for whoever wonders why it is not ready

    def __init__(self, on_ready: Callable[[], None]) -> None:
        self.on_ready = on_ready

    def fit(self, launch: Launch) -> Launch:
        """Return the launch of a worker that is told how to say that it is ready."""
        return launch

    def begin(self, worker: Process, now: float) -> None:
        """Start to watch: the worker has been started."""

    def kept(self) -> KeptRule:
        """Return what the master's next image must know."""
        return KeptRule(told=True)

    def go_on(self, worker: Process, now: float, kept: KeptRule) -> Rule:
        """Watch a worker that an earlier image watched; return the rule from now on."""
        self.begin(worker, now)
        return self

    def look(self, now: float) -> None:
        """See whether it is ready; called when ``next_look`` is due."""

    def hear(self, fields: Mapping[str, str]) -> None:
        """Take a message that came on NOTIFY_SOCKET from the worker's process group."""

    def told(self, worker: Process, now: float) -> Rule:
        """Take its convention's word for being ready; return the rule from now on."""
        return self

    def stop(self) -> None:
        """Watch no more: it is ready, or it is past."""
        self.next_look = None


class Told(Rule):
    """The word of the program's convention, and then another rule.

    The word alone would be early: endless gives it before it accepts, once for each server.
    """

    hint = "it has not sent SIGTERM to its parent, as --inherit says that it does"

    def __init__(self, then: Rule) -> None:
        super().__init__(then.on_ready)
        self._then = then

    def told(self, worker: Process, now: float) -> Rule:
        """Go on with the other rule."""
        self._then.begin(worker, now)
        return self._then

    def kept(self) -> KeptRule:
        """Say that the word has not come."""
        return KeptRule()

    def go_on(self, worker: Process, now: float, kept: KeptRule) -> Rule:
        """Wait for the word, or not any more."""
        return self.told(worker, now) if kept.told else self


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

    def kept(self) -> KeptRule:
        """Keep the clock."""
        return KeptRule(self.next_look, told=True)

    def go_on(self, worker: Process, now: float, kept: KeptRule) -> Rule:
        """Let the clock go on."""
        self.next_look = kept.next_look
        return self

    def look(self, now: float) -> None:
        """Be ready: it has lived so long."""
        self.on_ready()


class NotifyOrDelay(Delay):
    """READY=1 or one second alive, whichever is first."""

    hear = Notify.hear


class Accept(Rule):
    """The kernel shows the worker, or a descendant, waiting on each of these listeners.

    Or holding a connection that it has accepted there: a busy server may never wait.  Where none of
    that is to be seen for a while, a connection of our own is opened: whoever accepts it serves.
    """

    _FIRST, _GROWTH, _LONGEST = 0.01, 1.25, 0.1  # seconds between looks; a look costs 0.3 ms

    def __init__(self, on_ready: Callable[[], None], seats: Sequence[Seat]) -> None:
        super().__init__(on_ready)
        self._seats = seats
        self._visits: dict[str, Visit] = {}
        self._proven: set[str] = set()  # where a visit was accepted
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
        inherited = {seat.name: seat.socket for seat in self._seats if not seat.adopted}
        names = traffic.missing(self._pid, inherited) if inherited else []
        if self._pause == self._LONGEST:
            names = [name for name in names if not self._is_visited(name)]
        names += self._unvisited()
        if not names:
            self.on_ready()
            return
        self.hint = traffic.unserved(names)
        if any(procfs.is_hidden(pid) for pid in procfs.tree([self._pid])):
            self.hint += "; its descriptors are hidden: give CAP_SYS_PTRACE, or another --ready"

    def _unvisited(self) -> list[str]:
        """Return where the worker listens for itself, and accepts nothing.

        One that ends each connection at once is never seen to have one.  But ours has an end then,
        and it waits for the next.
        """
        found = {o.name: o for o in self._seats if o.adopted and not self._is_visited(o.name)}
        ended = {
            n: o.socket for n, o in found.items() if n in self._visits and self._visits[n].ended
        }
        waiting = ended.keys() - traffic.missing(self._pid, ended) if ended else set()
        return [name for name in found if name not in waiting]

    def _is_visited(self, name: str) -> bool:
        """Whether the worker has accepted a connection of ours; open one if there is none."""
        if name in self._proven:
            return True
        if name not in self._visits:
            (seat,) = (seat for seat in self._seats if seat.name == name)
            with suppress(OSError):  # no descriptor left, or no loopback there: the next look
                self._visits[name] = Visit(seat)
            return False
        held = {inode for pid in procfs.tree([self._pid]) for inode in procfs.sockets(pid)}
        if self._visits[name].accepted in held:
            self._proven.add(name)
            self._visits.pop(name).close()
            return True
        if self._visits[name].accepted:  # by another's worker, with whom the socket is shared
            self._visits.pop(name).close()
        return False

    def stop(self) -> None:
        """Look no more, and be gone."""
        super().stop()
        while self._visits:
            self._visits.popitem()[1].close()


class ReadyPipe(Rule):
    """A newline on OVERSEER_READY_FD."""

    hint = "no newline came on OVERSEER_READY_FD"

    def __init__(self, on_ready: Callable[[], None], loop: Loop, kept: int | None = None) -> None:
        """``kept`` is the end that an earlier image has read."""
        super().__init__(on_ready)
        try:
            self._fd, self.write_end = os.pipe2(os.O_CLOEXEC) if kept is None else (int(kept), -1)
        except OSError as error:
            raise LaunchError(f"could not be started: {error.strerror}") from error
        self._loop = loop
        if self._fd >= 0:
            loop.watch(self._fd, IN, self._on_readable)

    def kept(self) -> KeptRule:
        """Keep our end."""
        return KeptRule(pipe=Fd(self._fd), told=True)

    def go_on(self, worker: Process, now: float, kept: KeptRule) -> Rule:
        """Go on to read."""
        return self

    def fit(self, launch: Launch) -> Launch:
        """Hand the other end over behind the listeners."""
        environ = {**launch.environ, "OVERSEER_READY_FD": str(FIRST_FD + len(launch.fds))}
        return replace(launch, environ=environ, fds=[*launch.fds, self.write_end])

    def begin(self, worker: Process, now: float) -> None:
        """Let go of the end that the worker has now."""
        os.close(self.write_end)
        self.write_end = -1

    def told(self, worker: Process, now: float) -> Rule:
        """Take it as the newline: einhorn's programs write a line, but on a socket."""
        if self._fd >= 0:
            self.on_ready()
        return self

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
