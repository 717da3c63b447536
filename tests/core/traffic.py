"""Where what is new goes, by the world's own books; and the promises about it, 8 and 9.

A steered generation has a socket of its own, but for one that replaces a crash loop; any other
accepts from the one that was live when it began.  One socket is live: it gets all that is new, but
for the share that a canary has.  What no cut-over and no share has ever led to, has never met a
user.
"""

from __future__ import annotations

from collections.abc import Mapping

from overseer_py.core.generation import Generation, Role
from overseer_py.core.messages import WorkerId
from tests.core.process import Process


class Traffic:
    """Which generations get new connections, and which ever did."""

    def __init__(self, processes: Mapping[WorkerId, Process]) -> None:
        """Keep the books of the world that has these processes."""
        self.live = 0  # a socket, named after the generation that opened it; 0 is none
        self.share = 0  # the generation that is tried by a few; 0 is none
        self._tried_since = 0.0
        self._processes = processes
        self._sockets: dict[int, int] = {}  # of each generation
        self._met: set[int] = set()  # sockets that users have met
        self._rescuers: set[int] = set()  # generations that took over from a crash loop

    # -- questions ---------------------------------------------------------------------------

    def is_live(self, generation: int) -> bool:
        """Whether all that is new goes to this generation, or may go to it as to its equals."""
        return self._sockets[generation] == self.live

    def reaches(self, generation: int) -> bool:
        """Whether anything new comes to it."""
        return generation == self.share or self.is_live(generation)

    def has_left(self, generation: int) -> bool:
        """Whether it has met users, and nothing new comes to it any more."""
        return self._sockets[generation] in self._met and not self.reaches(generation)

    # -- what the fleet orders -----------------------------------------------------------------

    def begin(self, generation: Generation, *, rescues: bool) -> None:
        """Open a socket for a generation, or let it have the live one.

        One that ``rescues`` the users of a crash loop has that one, whatever its policy.
        """
        number = generation.number
        if rescues:
            self._rescuers.add(number)
        own = self._steered(generation) or not self.live
        self._sockets[number] = number if own else self.live
        if not self.live:  # the first of all: nothing has to be steered
            self.live = number
            self._met.add(number)

    def cut_over(self, number: int, before: Role | None, to: Generation | None, now: float) -> None:
        """8. Let all that is new go to a candidate that has proven itself; or back.

        By exclusive, at once: to one that was not there ``before`` the event.
        """
        assert self.share or not self.is_live(number), f"8: all goes to {number} already"
        if before is not Role.CURRENT:
            assert before in {None, Role.CANDIDATE}, f"8: all goes to {number}, which is past"
            assert to
            assert to.policy.exclusive == (before is None), f"8: all goes to {number} now"
        if to and before is Role.CANDIDATE:
            self._check_whole(to, now)
            if canary := to.policy.canary:
                assert self.share == number, f"8: {number} was not tried"
                assert now >= self._tried_since + canary.seconds, f"8: {number} was hardly tried"
        self.live, self.share = self._sockets[number], 0
        self._met.add(self.live)

    def divert(self, to: Generation, percent: int, now: float) -> None:
        """8. Let a share of it go to a candidate that has settled, and that has nothing yet."""
        policy = to.policy
        assert to.role is Role.CANDIDATE, f"8: {to.number} is none that can be tried"
        assert self._steered(to)
        assert not self.share, f"8: {self.share} has a share already"
        assert not self.is_live(to.number), f"8: all goes to {to.number} already"
        assert policy.canary
        assert policy.canary.percent == percent
        self._check_whole(to, now)
        self.share, self._tried_since = to.number, now
        self._met.add(self._sockets[to.number])

    def park(self) -> None:
        """Let nothing new go to anybody any more."""
        self.live = self.share = 0

    # -- what must hold --------------------------------------------------------------------------

    def _steered(self, generation: Generation) -> bool:
        return generation.policy.steered and generation.number not in self._rescuers

    def _check_whole(self, generation: Generation, now: float) -> None:
        """8. Every worker of it is ready, and has been so for the settle time."""
        for slot in range(generation.size):
            worker = generation.workers[slot].id
            settled = self._processes[worker].settled(now, generation.policy.settle)
            assert settled, f"8: {worker} is not settled"

    def check_drain(self, worker: WorkerId, home: Generation, now: float) -> None:
        """9. Who has been steered away from retires first, and drains when it is quiet."""
        process, patience = self._processes[worker], home.policy.quiet_timeout
        if process.retired_at is not None:
            assert process.may_drain(now, patience), f"9: {worker} is busy"
        elif process.ready_at is not None and patience:
            assert not self.has_left(home.number), f"9: {worker} gets no time"

    def check_live(
        self, current: Generation | None, candidate: Generation | None, dismissed: list[WorkerId]
    ) -> None:
        """8. All that is new goes to one generation; as a rollout goes on, that loses nobody."""
        assert self.share in {0, candidate.number if candidate else 0}, "8: a share stays"
        if current is None:
            return
        steered = candidate if candidate and self._steered(candidate) else None
        live = steered if steered and steered.policy.exclusive else current
        assert self.is_live(live.number), f"8: what is new goes past {live.number}"
        hopeful = {current.number, candidate.number if candidate else 0}
        for worker, process in self._processes.items():
            used = self.reaches(worker.generation) or worker.generation in hopeful
            assert used or not process.serves, f"9: {worker} is kept for nobody"
        for worker in dismissed if steered else ():
            assert worker[:1] != (live.number,) or worker.slot >= live.size, f"8: {worker} is live"
