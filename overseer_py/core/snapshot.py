"""A fleet as plain values, and back: it goes on in another process as if nothing had been.

A snapshot is taken between two events, when all that was decided has been handed out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from overseer_py.core.fleet import Fleet
from overseer_py.core.generation import Generation
from overseer_py.core.messages import RolloutRequested


@dataclass(frozen=True, slots=True)
class FleetSnapshot:
    """All that a fleet knows; times are those of CLOCK_MONOTONIC, which a machine has one of."""

    generations: Sequence[Generation]  # oldest first
    last_number: int
    pending: RolloutRequested | None = None
    ever_ready: bool = False
    leaving: bool = False
    done: bool = False
    stop_at: float | None = None
    status: int = 0


def take(fleet: Fleet) -> FleetSnapshot:
    """Return the snapshot; it shares its values with the fleet, which must not go on."""
    return FleetSnapshot(
        generations=list(fleet.roster.generations.values()),
        last_number=fleet.rollouts.last_number,
        pending=fleet.rollouts.pending,
        ever_ready=fleet.ever_ready,
        leaving=fleet.leaving,
        done=fleet.done,
        stop_at=fleet.stop_at,
        status=fleet.status,
    )


def restore(snapshot: FleetSnapshot, draw: Callable[[], float]) -> Fleet:
    """Return a fleet that goes on from there; ``draw`` as in Fleet()."""
    fleet = Fleet(draw)
    for generation in snapshot.generations:
        fleet.roster.generations[generation.number] = generation
    fleet.rollouts.last_number, fleet.rollouts.pending = snapshot.last_number, snapshot.pending
    fleet.ever_ready, fleet.leaving = snapshot.ever_ready, snapshot.leaving
    fleet.done, fleet.stop_at, fleet.status = snapshot.done, snapshot.stop_at, snapshot.status
    return fleet
