"""A generation: all workers started from the same configuration and environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from overseer_py.core.messages import WorkerId
from overseer_py.core.policy import PROBATION_CRASHES, OnExit, Policy
from overseer_py.core.worker import Worker, WorkerState


class Role(StrEnum):
    """What the fleet wants of a generation."""

    CANDIDATE = "candidate"  # being tried; any failure makes it RETIRING
    CURRENT = "current"  # the one that is kept alive
    RETIRING = "retiring"  # on its way out; its exits are expected


@dataclass(slots=True)
class Generation:
    """One generation and, while it is a candidate, how far its rollout has come."""

    number: int
    role: Role
    policy: Policy
    size: int  # slots 0 … size-1
    reason: str = ""  # why it was asked for
    since: float = 0.0  # when its rollout began
    sockets: int = 0  # the generation that they were opened for: itself, unless they are shared
    workers: dict[int, Worker] = field(default_factory=dict)
    launches: dict[int, int] = field(default_factory=dict)  # processes ever started, by slot
    opened: int = 0  # candidate: slots that it may fill so far (its batches)
    proven: int = 0  # candidate: slots in which it was ready and settled; the old ones may go
    settled_at: float | None = None  # candidate: when the present batch has settled
    tried_until: float | None = None  # candidate: when its canary has lasted long enough
    reversible: bool = False  # there is a release to go back to
    probation_until: float | None = None  # current: a crash loop before is the release's fault
    rescues: bool = False  # one that is condemned: by its sockets, where clients wait
    condemned: bool = False  # it was in a crash loop before, and is about to be replaced
    cut_off: bool = False  # steered away from: nothing new comes to it

    def launch(self, slot: int) -> WorkerId:
        """Return an identity for the next process in this slot; never given twice."""
        self.launches[slot] = launch = self.launches.get(slot, 0) + 1
        return WorkerId(self.number, slot, launch)

    def retire(self) -> None:
        """Let it go, whatever came of it."""
        self.role, self.settled_at, self.tried_until = Role.RETIRING, None, None

    @property
    def proven_at(self) -> float | None:
        """When a candidate is proven if nothing happens to it; None: not before it is ready."""
        if self.settled_at is None:
            return None
        return max(self.settled_at, self.tried_until or self.settled_at)

    @property
    def reach(self) -> int:
        """How many slots, from 0, a candidate may fill now."""
        return self.size if not self.policy.surge else min(self.opened, self.size)

    def ready_in(self, slot: int) -> bool:
        """Whether the worker in this slot serves."""
        worker = self.workers.get(slot)
        return worker is not None and worker.state is WorkerState.READY

    @property
    def steered(self) -> bool:
        """Whether it has sockets of its own, to which new connections are led at the cut-over."""
        return self.policy.steered and not self.rescues

    def fails_probation(self, worker: Worker, now: float) -> bool:
        """Whether a worker's crash shows that the release is to blame."""
        if self.condemned or self.probation_until is None or now >= self.probation_until:
            return False
        ends = self.policy.on_exit is OnExit.EXIT
        return worker.crashes >= (1 if ends else PROBATION_CRASHES)

    @property
    def alive(self) -> bool:
        """Whether any of its processes is left."""
        return any(worker.alive for worker in self.workers.values())
