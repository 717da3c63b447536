"""What the fleet hears (events, in the past tense) and what it asks for (actions, imperative).

Plain values.  The core never sees a pid, a signal number, a socket or a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from overseer_py.core.policy import Policy


class WorkerId(NamedTuple):
    """One process in one slot of one generation; prints as ``7/0#2``.

    The launch is never used twice, so late news of a past process matches nothing.
    """

    generation: int
    slot: int
    launch: int

    def __str__(self) -> str:
        return f"{self.generation}/{self.slot}#{self.launch}"


# -- events: facts, already true when they reach the fleet ---------------------------------


@dataclass(frozen=True, slots=True)
class RolloutRequested:
    """Somebody wants a new generation.

    ``policy`` and ``size`` come with a reread configuration; without them the new
    generation is run as the current one is.  ``reversible``: there is a release to go back to.
    """

    reason: str
    policy: Policy | None = None
    size: int | None = None
    reversible: bool = False


@dataclass(frozen=True, slots=True)
class ScaleRequested:
    """Somebody wants this many workers from now on (at least one is kept)."""

    size: int


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Stop the service.  The second request, or one without ``drain``, kills at once."""

    drain: bool = True


@dataclass(frozen=True, slots=True)
class BecameReady:
    """The worker serves, as its readiness rule says."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class BecameQuiet:
    """The worker, to which nothing new comes any more, has finished what it had."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class BecameUnhealthy:
    """The worker serves no longer, as its readiness rule says; ``how`` as in ``Exited``."""

    worker: WorkerId
    how: str


@dataclass(frozen=True, slots=True)
class Extended:
    """The worker asked for at least this many seconds from now to start or to drain."""

    worker: WorkerId
    seconds: float


@dataclass(frozen=True, slots=True)
class Exited:
    """The worker and what it left behind are gone, or it could not be started at all.

    ``how`` completes the sentence "worker 7/0#1 …"; ``status`` is what a shell would show
    (128 + N for signal N).
    """

    worker: WorkerId
    how: str
    status: int = 1


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing happened but the clock: a deadline may be due."""


Event = (
    RolloutRequested
    | ScaleRequested
    | StopRequested
    | BecameReady
    | BecameQuiet
    | BecameUnhealthy
    | Extended
    | Exited
    | TimePassed
)


# -- actions: the supervisor performs them, in order ---------------------------------------


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process for this worker."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class CutOver:
    """Let every new connection go to this generation, from now on."""

    generation: int


@dataclass(frozen=True, slots=True)
class Divert:
    """Let this share of the new connections, in per cent, go to the candidate."""

    generation: int
    percent: int


@dataclass(frozen=True, slots=True)
class Park:
    """Let what is new wait with whoever handed the sockets over: nobody serves it any more.

    ``served``: whether a worker finishes with those who wait already.
    """

    served: bool = False


@dataclass(frozen=True, slots=True)
class Retire:
    """Watch the worker finish what it has; nothing new comes to it."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class Drain:
    """Ask the worker to finish what it has and to exit."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class Kill:
    """End the worker, its process group and whatever it left behind, now."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the observers (log, systemd, waiting clients) what was decided.

    ``name`` is stable and so are the keys of ``facts``: scripts rely on both.
    """

    name: str
    generation: int | None = None
    worker: WorkerId | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Quit:
    """Nothing is left to look after: the master ends with this exit status."""

    status: int


Action = Spawn | CutOver | Divert | Park | Retire | Drain | Kill | Report | Quit
