"""The attempt to make a new generation the current one.

It ends in one of four ways: ``committed``, ``rolled-back`` (it failed), ``cancelled`` (the
service stops) or ``superseded`` (a newer one was asked for before it had begun).

The candidate fills its slots batch by batch (``surge``).  A batch is proven when all workers
so far are ready and have stayed so for the settle time; then the old workers of these slots
may go.  The last batch commits.

A steered candidate meets nobody until the cut-over, which is the commit; with ``canary`` a share
of the new connections tries it first.  One that replaces a generation in a crash loop shares its
sockets instead: clients wait there whom nobody serves.  By ``exclusive`` the cut-over comes first
of all: new connections wait in the candidate's sockets until it runs.
"""

from __future__ import annotations

from dataclasses import replace

from overseer_py.core.generation import Generation, Role
from overseer_py.core.messages import RolloutRequested, WorkerId
from overseer_py.core.orders import Orders
from overseer_py.core.policy import Policy
from overseer_py.core.roster import Roster

MAX_GENERATIONS = 4  # a fifth kills the oldest: long drains must not pile up for ever


class Rollouts:
    """Begins, judges and ends rollouts; one at a time, one more pending, the newest."""

    def __init__(self, roster: Roster, orders: Orders) -> None:
        self.pending: RolloutRequested | None = None
        self._roster = roster
        self._orders = orders
        self.last_number = 0

    def ask(self, request: RolloutRequested, now: float) -> None:
        """Begin a rollout, or remember it for when the present one has ended."""
        waiting = self.pending
        if not self._roster.candidate:
            self.begin(request, now)
        elif waiting is None:
            self.pending = request
            self._orders.report("rollout-queued", reason=request.reason)
        elif waiting.reason != request.reason or request.policy:
            self._orders.report("rollout-superseded", reason=waiting.reason, by=request.reason)
            policy = request.policy or waiting.policy  # a reread configuration is not lost
            size = request.size or waiting.size
            reversible = request.reversible or waiting.reversible
            self.pending = replace(request, policy=policy, size=size, reversible=reversible)

    def scale(self, size: int) -> None:
        """Let a waiting request bring no older size with it."""
        if self.pending and self.pending.size:
            self.pending = replace(self.pending, size=size)

    def begin(self, request: RolloutRequested, now: float) -> None:
        """Add a candidate; the very first generation of a service is current at once."""
        current = self._roster.current
        policy = request.policy or (current.policy if current else Policy())
        size = request.size or (current.size if current else 1)
        role = Role.CANDIDATE if current else Role.CURRENT
        self.last_number += 1
        candidate = Generation(self.last_number, role, policy, size, request.reason, now)
        candidate.reversible = request.reversible
        candidate.opened = min(policy.surge or size, size)
        candidate.rescues = bool(current and current.condemned)
        shares = current and not candidate.steered
        candidate.sockets = current.sockets if current and shares else candidate.number
        self._roster.generations[candidate.number] = candidate
        name = "rollout-started" if current else "service-starting"
        self._orders.report(name, candidate, reason=request.reason, workers=size)
        if current and candidate.steered and policy.exclusive:
            self._orders.cut_over(candidate)
        if oldest := self._roster.oldest_crowded_out(MAX_GENERATIONS):
            self._orders.report("generation-crowded-out", oldest, limit=MAX_GENERATIONS)
            for worker in oldest.workers.values():
                self._orders.kill(worker)

    def begin_pending(self, now: float) -> bool:
        """Begin the one that waits, if nothing is in its way."""
        if self.pending is None or self._roster.candidate:
            return False
        request, self.pending = self.pending, None
        self.begin(request, now)
        return True

    def judge(self, now: float) -> bool:
        """Prove the present batch, open the next one, or commit; tell whether any happened."""
        candidate = self._roster.candidate
        if candidate is None:
            return False
        reach = candidate.reach
        if not all(candidate.ready_in(slot) for slot in range(reach)):
            candidate.settled_at = None  # scaled up meanwhile: settle again, all together
            return False
        if reach == candidate.proven < candidate.size:
            candidate.settled_at = None  # scaled down and up again: the last batch is another one
            return self._open_batch(candidate)
        if candidate.settled_at is None:
            candidate.settled_at = now + candidate.policy.settle
        if now < candidate.settled_at:
            return False
        if self._is_being_tried(candidate, now):
            return False
        candidate.proven, candidate.settled_at = reach, None
        if reach == candidate.size:
            self._commit(candidate, now)
        return True

    def _is_being_tried(self, candidate: Generation, now: float) -> bool:
        """Whether a share of the users has yet to try the candidate; begin with it."""
        policy, canary = candidate.policy, candidate.policy.canary
        if canary is None or not candidate.steered or policy.exclusive:
            return False  # by exclusive all try it already
        if candidate.tried_until is None:
            candidate.tried_until = now + canary.seconds
            facts = {"percent": canary.percent, "seconds": canary.seconds}
            self._orders.report("canary-started", candidate, **facts)
            self._orders.divert(candidate, canary.percent)
        return now < candidate.tried_until

    def fail(self, candidate: Generation, reason: str, worker: WorkerId) -> None:
        """End the rollout; what the old generation had left is its own again."""
        self._end(candidate)
        self._orders.report("rollout-rolled-back", worker, reason=reason)

    def cancel(self, reason: str) -> None:
        """End the present rollout and forget the pending one, because the service ends."""
        self.pending = None
        if candidate := self._roster.candidate:
            self._end(candidate)
            self._orders.report("rollout-cancelled", candidate, reason=reason)

    def _end(self, candidate: Generation) -> None:
        met_users = candidate.tried_until is not None or candidate.policy.exclusive
        current = self._roster.current
        candidate.retire()
        if current and candidate.steered and met_users:
            self._orders.cut_over(current)

    def _commit(self, candidate: Generation, now: float) -> None:
        if old := self._roster.current:
            old.retire()
        candidate.role, candidate.tried_until = Role.CURRENT, None
        if candidate.reversible and candidate.policy.probation:
            candidate.probation_until = now + candidate.policy.probation
        if candidate.steered and not candidate.policy.exclusive:
            self._orders.cut_over(candidate)
        took = round(now - candidate.since, 3)
        self._orders.report("rollout-committed", candidate, reason=candidate.reason, took=took)

    def _open_batch(self, candidate: Generation) -> bool:
        """Let a candidate fill more slots, as far as the surge leaves room beside the old."""
        room = self._roster.room(candidate.policy.surge or candidate.size)
        if room <= 0:
            return False
        candidate.opened = min(candidate.size, candidate.proven + room)
        self._orders.report("batch-opened", candidate, slots=candidate.opened)
        return True
