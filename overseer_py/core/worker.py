"""The life of one worker: starting → ready → quieting → draining → killed → gone, or backoff.

Gone is absence: a worker that has ended is in no table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from overseer_py.core.messages import WorkerId


class WorkerState(StrEnum):
    """Where a worker is in its life."""

    STARTING = "starting"  # launched, has not shown that it serves
    READY = "ready"  # serving
    QUIETING = "quieting"  # nothing new comes to it; the quiet time-out is running
    DRAINING = "draining"  # asked to finish; the drain time-out is running
    KILLED = "killed"  # past asking; only its exit is outstanding
    BACKOFF = "backoff"  # no process; the slot waits, then a new worker takes it


S = WorkerState
NEXT = {  # the whole machine; from any state a worker may also be gone
    S.STARTING: {S.READY, S.DRAINING, S.KILLED, S.BACKOFF},
    S.READY: {S.QUIETING, S.DRAINING, S.KILLED, S.BACKOFF},
    S.QUIETING: {S.DRAINING, S.KILLED},
    S.DRAINING: {S.KILLED},
    S.KILLED: {S.BACKOFF},
    S.BACKOFF: set[WorkerState](),
}


@dataclass(slots=True)
class Worker:
    """One worker as the fleet sees it."""

    id: WorkerId
    deadline: float | None  # when this state must have ended; None: it may last for ever
    state: WorkerState = S.STARTING
    crashes: int = 0  # in a row, inherited by the respawn; forgiven after a while of being ready
    waits: int = 0  # how many of them were followed by a delay
    late: bool = False  # killed because it was not ready in time, so its exit is a crash

    @property
    def alive(self) -> bool:
        """Whether there is a process."""
        return self.state is not S.BACKOFF

    def become(self, state: WorkerState, deadline: float | None = None) -> None:
        """Enter a state; a transition that NEXT does not know is a defect of the fleet."""
        assert state in NEXT[self.state], f"worker {self.id}: {self.state} -> {state}"
        self.state, self.deadline = state, deadline
