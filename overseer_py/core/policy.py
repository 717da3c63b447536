"""How long things may take and how careful a rollout is.  Plain values, all times in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

FIRST_START_CRASHES = 3  # a service that has never been ready gives up after these
PROBATION_CRASHES = 3  # in a row: a crash loop, for which the previous release is brought back


class OnExit(StrEnum):
    """What an unexpected exit of a current worker does."""

    RESTART = "restart"
    EXIT = "exit"


class Canary(NamedTuple):
    """How a candidate is tried by a few: this share of new connections, for so long."""

    percent: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules for one generation.

    ``steered``: the generation has sockets of its own, and new connections go to it from the
    cut-over on; else all generations accept from shared ones.  ``parked``: when the service ends,
    new connections can wait outside of it.  Never in batches (``surge`` of 1
    or more): there old and new serve side by side, so they share.
    ``surge`` is the number of extra workers that a rollout may run at once: ``None`` for as
    many as the generation has, ``0`` for none at all (exclusive: the old go first).
    ``max_crashes`` of 0 means that the service never gives up once it has been ready.
    ``probation`` is how long after its commit a generation that has something to go back to must
    not fall into a crash loop.
    """

    ready_timeout: float = 60.0
    settle: float = 0.0
    steered: bool = False
    parked: bool = False
    canary: Canary | None = None
    quiet_timeout: float = 5.0
    drain_timeout: float = 30.0
    stop_delay: float = 0.0
    surge: int | None = None
    backoff: float = 0.5
    backoff_limit: float = 30.0
    max_crashes: int = 0
    probation: float = 0.0
    on_exit: OnExit = OnExit.RESTART

    def __post_init__(self) -> None:
        if self.surge:
            object.__setattr__(self, "steered", False)

    @property
    def exclusive(self) -> bool:
        """Whether two generations must never run at the same time."""
        return self.surge == 0

    def delay(self, waits: int, draw: float) -> float:
        """Return the seconds before respawn number ``waits`` (from 1), 20 % either way.

        ``draw`` is a random number in [0, 1): services that crash together come back apart.
        """
        doubled = self.backoff * 2.0 ** min(waits - 1, 32)
        return min(doubled * (0.8 + 0.4 * draw), self.backoff_limit)

    def patience(self, *, ever_ready: bool) -> int | None:
        """Return how many crashes in a row are borne before giving up; None for any number."""
        if ever_ready:
            return self.max_crashes or None
        return min(self.max_crashes or FIRST_START_CRASHES, FIRST_START_CRASHES)
