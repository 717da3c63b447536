"""Who is there, and which generation owns which slot.  Questions only; the fleet decides.

A slot belongs to the current generation until the candidate has proven itself in it
(``proven`` grows batch by batch); from then on to the candidate, and back again if the
rollout fails.  With ``exclusive`` the candidate owns every slot from the start: the old must
be gone before it has a process.
"""

from __future__ import annotations

from collections.abc import Iterator

from overseer_py.core.generation import Generation, Role
from overseer_py.core.messages import WorkerId
from overseer_py.core.worker import Worker, WorkerState


class Roster:
    """All generations that still have a worker, by number, oldest first."""

    def __init__(self) -> None:
        self.generations: dict[int, Generation] = {}

    @property
    def current(self) -> Generation | None:
        """The generation that is kept alive."""
        return self._only(Role.CURRENT)

    @property
    def candidate(self) -> Generation | None:
        """The generation that a rollout is trying."""
        return self._only(Role.CANDIDATE)

    @property
    def served(self) -> bool:
        """Whether a worker of the current generation serves, or finishes with what it has."""
        states = (
            {worker.state for worker in self.current.workers.values()} if self.current else set()
        )
        return not states.isdisjoint({WorkerState.READY, WorkerState.QUIETING})

    def workers(self) -> Iterator[Worker]:
        """Yield every worker of every generation."""
        for generation in self.generations.values():
            yield from generation.workers.values()

    def find(self, worker_id: WorkerId) -> Worker | None:
        """Return the worker with exactly this identity; None for one that is past."""
        generation = self.generations.get(worker_id.generation)
        worker = generation and generation.workers.get(worker_id.slot)
        return worker if worker and worker.id == worker_id else None

    def home(self, worker: Worker) -> Generation:
        """Return the generation that the worker was started for."""
        return self.generations[worker.id.generation]

    def owner(self, slot: int) -> Generation | None:
        """Return the generation whose worker in this slot must be kept alive."""
        candidate = self.candidate
        if candidate and (candidate.policy.exclusive or slot < candidate.proven):
            return candidate if slot < candidate.size else None
        current = self.current
        return current if current and slot < current.size else None

    def unwanted(self) -> list[Worker]:
        """Return the workers that have no claim on their slot."""
        return [w for w in self.workers() if not self.wanted(self.home(w), w.id.slot)]

    def wanted(self, generation: Generation, slot: int) -> bool:
        """Whether the generation should have a process in this slot."""
        if generation is self.owner(slot):
            return True
        return generation.role is Role.CANDIDATE and slot < generation.reach

    def dispensable(self, worker: Worker) -> bool:
        """Whether an unwanted ready worker may go: the owner of its slot serves, or waits for it.

        A worker of a failed rollout in a slot that the old generation had already left stays
        until the old generation is back there; a steered one cannot stand in, nobody comes to it.
        """
        owner, home = self.owner(worker.id.slot), self.home(worker)
        if owner is None or owner.policy.exclusive or home.policy.exclusive or home.steered:
            return True
        return owner.ready_in(worker.id.slot)

    def may_spawn(self, generation: Generation) -> bool:
        """Whether ``exclusive`` lets this generation have a process now."""
        others = [g for g in self.generations.values() if g is not generation and g.alive]
        exclusive = generation.policy.exclusive
        if generation.role is Role.CANDIDATE:
            return not (exclusive and others)
        leaving = [g for g in others if g.role is Role.RETIRING]
        return not any(exclusive or g.policy.exclusive for g in leaving)

    def vacant(self) -> list[tuple[Generation, int]]:
        """Return the slots that lack a worker which may be started now.

        Where one of a failed rollout stands in there is no hurry: those are given back as they were
        taken, so many at a time, or a failure would need the memory for all of them at once.
        """
        empty = [
            (generation, slot)
            for generation in self.generations.values()
            for slot in range(generation.size)
            if slot not in generation.workers
            if self.wanted(generation, slot) and self.may_spawn(generation)
        ]
        if not empty:
            return []
        stand_ins = {w.id.slot: w for w in self.unwanted() if self._stands_in(w)}
        patient = [each for each in empty if each[0] is self.current and each[1] in stand_ins]
        urgent = [each for each in empty if each not in patient]
        surges = [self.home(worker).policy.surge for worker in stand_ins.values()]
        room = max((self.room(surge) for surge in surges if surge), default=len(patient))
        return urgent + patient[: max(room - len(urgent), 0)]

    def room(self, surge: int) -> int:
        """Return how many more processes there may be, with so many beside those of a service."""
        sizes = [each.size for each in (self.current, self.candidate) if each]
        return surge - max(sum(worker.alive for worker in self.workers()) - max(sizes), 0)

    def _stands_in(self, worker: Worker) -> bool:
        return worker.state is WorkerState.READY and not self.dispensable(worker)

    def serves_without(self, worker: Worker) -> bool:
        """Whether any other worker is ready."""
        return any(w is not worker and w.state is WorkerState.READY for w in self.workers())

    def oldest_crowded_out(self, limit: int) -> Generation | None:
        """Return the oldest retiring generation if more than ``limit`` are not killed yet."""
        doomed = WorkerState.KILLED
        living = [
            g
            for g in self.generations.values()
            if g.role is not Role.RETIRING or any(w.state is not doomed for w in g.workers.values())
        ]
        retiring = (g for g in living if g.role is Role.RETIRING)  # never the one that serves
        return next(retiring, None) if len(living) > limit else None

    def _only(self, role: Role) -> Generation | None:
        return next((g for g in self.generations.values() if g.role is role), None)
