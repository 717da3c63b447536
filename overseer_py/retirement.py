"""When a worker to which nothing new comes any more has finished what it had.

It is quiet when nothing waits in its generation's sockets, no handshake that had begun before the
cut-over is half done, and no connection of its process tree is in the middle of a request.  It
must be so for a few looks in a row: between the queue and the worker's table of descriptors, a
connection is nowhere to be seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from socket import socket

from overseer_py.core.messages import BecameQuiet, Event, WorkerId
from overseer_py.crew import Crew
from overseer_py.member import Member
from overseer_py.sockets import Sockets
from overseer_py.system import connections, procfs, traffic
from overseer_py.system.connections import Unfinished
from overseer_py.system.listeners import Seat
from overseer_py.system.sockdiag import Entry

Peer = tuple[bytes, bytes]  # port and address

_LOOKS = 3  # in a row
_FIRST, _GROWTH, _LONGEST = 0.01, 1.2, 0.1  # seconds between looks
_REST = 10.0  # a look of 50 ms (a few thousand connections) is followed by half a second without
_LONGEST_REST = 1.0  # seconds: a few looks must fit into the quiet time-out


@dataclass(slots=True)
class _Retiree:
    """A worker that is watched, and what its sockets (by inode) were at the last look."""

    worker: WorkerId
    looks: int = 0  # in a row at which it was quiet
    busy: set[int] = field(default_factory=set)  # connections in a request
    held: set[int] = field(default_factory=set)  # all of them
    others: set[int] = field(default_factory=set)  # no connections of clients at all
    left: Unfinished = field(default_factory=Unfinished)


class _View:
    """The kernel's list of connections at one look: not made before it is asked for.

    The kernel walks its whole table for it, which takes some milliseconds on a big machine.
    """

    def __init__(self, listeners: list[socket]) -> None:
        self._listeners = listeners

    @cached_property
    def connections(self) -> list[Entry]:
        """Those to the ports of the listeners, half-open ones included."""
        return list(connections.at_ports(self._listeners))


class Retirement:
    """Watches the workers that the fleet lets finish."""

    def __init__(self, sockets: Sockets, crew: Crew, post: Callable[[Event], None]) -> None:
        self.next_look: float | None = None
        self._sockets = sockets
        self._crew = crew
        self._post = post
        self._retirees: dict[WorkerId, _Retiree] = {}
        self._half_open: dict[int, set[Peer]] = {}  # since the cut-over
        self._early: dict[int, set[Peer]] = {}  # whoever was connected at the first look
        self._pause = _FIRST

    def begin(self, worker: WorkerId, now: float) -> None:
        """Watch this worker until it is quiet, or is asked to drain anyway."""
        self._crew.retire(worker)
        self._retirees[worker] = _Retiree(worker)
        self._pause = _FIRST
        self.next_look = now + self._pause

    def end(self, worker: WorkerId) -> None:
        """Watch it no more."""
        if self._retirees.pop(worker, None) and not self._of(worker.generation):
            self._half_open.pop(worker.generation, None)
            self._early.pop(worker.generation, None)
        if not self._retirees:
            self.next_look = None

    def hint(self, worker: WorkerId) -> str:
        """Return what a worker was still doing when it was looked at last."""
        retiree = self._retirees.get(worker)
        return str(retiree.left) if retiree and retiree.left else ""

    def look(self, now: float) -> None:
        """See who is quiet; those who exit meanwhile are ended by the fleet's own orders."""
        if self.next_look is None or self.next_look > now:
            return
        begun, spent = time.monotonic(), time.process_time()
        self.next_look = begun + _LONGEST_REST  # whatever goes wrong in this one
        view = _View(self._every_socket())
        for generation in {worker.generation for worker in self._retirees}:
            seats = self._sockets.own(generation)
            waiting = self._waiting(generation, seats, view)
            for retiree in self._of(generation):
                self._judge(retiree, seats, waiting, view)
        self._pause = min(self._pause * _GROWTH, _LONGEST)
        rest = _REST * (time.process_time() - spent)  # not what others took on a busy machine
        pause = max(self._pause, min(rest, _LONGEST_REST))
        self.next_look = begun + pause if self._retirees else None

    def _judge(
        self, retiree: _Retiree, seats: list[Seat], waiting: Unfinished, view: _View
    ) -> None:
        member = self._crew.members.get(retiree.worker)
        if not seats or member is None:  # nothing of its own, so there is nothing to wait for
            self._became_quiet(retiree)
            return
        retiree.left = waiting or self._busy(retiree, member, seats, view)
        retiree.looks = 0 if retiree.left else retiree.looks + 1
        if retiree.looks == _LOOKS:
            self._became_quiet(retiree)

    def _waiting(self, generation: int, seats: list[Seat], view: _View) -> Unfinished:
        """Return what no worker of the generation has accepted yet."""
        for seat in seats:
            seat.listener.group.settle()  # somebody else may have gone, and moved another up
        begun = self._half_open.get(generation)
        if begun is None or begun:  # once all are done, no more can come
            now_half_open = {c.peer for c in view.connections if connections.is_half_open(c)}
            self._early.setdefault(generation, {c.peer for c in view.connections})
            # At the first look: those of the new generation among them are done soon, too.
            begun = now_half_open if begun is None else begun & now_half_open
            self._half_open[generation] = begun
        queued = sum(connections.waiting(seat.socket) for seat in seats)  # after the look at those
        return Unfinished(queued=queued, half_open=len(begun))

    def _busy(
        self, retiree: _Retiree, member: Member, seats: list[Seat], view: _View
    ) -> Unfinished:
        """Return what the worker and its descendants have accepted and not finished."""
        close_idle = member.recipe.plan.settings.close_idle
        if retiree.busy and not close_idle:  # as long as these are, there is no need to look closer
            known = (c for c in view.connections if c.inode in retiree.busy)
            if busy := {c.inode for c in known if connections.is_busy(c)}:
                return Unfinished(requests=len(busy))
        pids = procfs.tree([member.process.pid])
        if any(procfs.is_hidden(pid) for pid in pids):
            # Root without CAP_SYS_PTRACE, and a worker of another user: whoever was connected at
            # the first look is the old generation's, and a few of the new one's first.
            early = self._early[retiree.worker.generation]
            mine = [c for c in view.connections if c.peer in early]
            return Unfinished(requests=sum(map(connections.is_busy, mine)))
        held = {inode for pid in pids for inode in procfs.sockets(pid)}
        if held <= retiree.others:
            return Unfinished()
        mine = [c for c in view.connections if c.inode in held]
        by_path = connections.open_by_path([seat.socket for seat in seats]) & held
        retiree.busy = {c.inode for c in mine if connections.is_busy(c)}
        # One that was accepted since the kernel's list was made is not in it, but in the next.
        retiree.others = (held & retiree.held) - {c.inode for c in mine} - by_path
        retiree.held = held
        if close_idle:
            idle = {c.inode for c in mine if connections.has_answered(c)} - retiree.busy
            traffic.hang_up(pids, idle)
        return Unfinished(requests=len(retiree.busy | by_path))

    def _became_quiet(self, retiree: _Retiree) -> None:
        self.end(retiree.worker)
        self._post(BecameQuiet(retiree.worker))

    def _of(self, generation: int) -> list[_Retiree]:
        return [r for worker, r in self._retirees.items() if worker.generation == generation]

    def _every_socket(self) -> list[socket]:
        generations = {worker.generation for worker in self._retirees}
        return [seat.socket for g in generations for seat in self._sockets.own(g)]
