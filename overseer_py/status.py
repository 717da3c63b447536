"""The state of a service as one document: what ``overseer status --json`` prints.

The names of the fields are a contract; scripts rely on them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from overseer_py import __version__, dialects
from overseer_py.census import Census
from overseer_py.core.fleet import Fleet
from overseer_py.core.generation import Generation
from overseer_py.core.worker import Worker
from overseer_py.crew import Crew
from overseer_py.handover import FIRST_FD
from overseer_py.ledger import Ledger, timestamp
from overseer_py.member import Member
from overseer_py.plans import Plans
from overseer_py.system import procfs
from overseer_py.system.listeners import Listener
from overseer_py.updates import Updates


@dataclass(frozen=True, slots=True)
class Service:
    """Everything that knows something of the service."""

    fleet: Fleet
    crew: Crew
    plans: Plans
    ledger: Ledger
    census: Census
    updates: Updates


def status(service: Service) -> dict[str, object]:
    """Return the document."""
    roster, plan = service.fleet.roster, service.plans.plan
    current = roster.current
    last, reload = service.ledger.last, service.ledger.reload
    standing = service.updates.standing
    resolved = service.plans.resolved(current.number) if current else None
    service.census.take(time.monotonic())
    return {
        "name": plan.settings.name,
        "pid": os.getpid(),
        "version": __version__,
        "state": state(service.fleet),
        "started_at": timestamp(service.ledger.started),
        "generation": current.number if current else None,
        "workers_wanted": current.size if current else plan.settings.workers,
        "listeners": _listeners(service.plans),
        "workers": _workers(service),
        "rollout": _rollout(service),
        "last_rollout": last.ended() if last else None,
        "last_reload": reload.shown() if reload else None,
        "release": (standing.release or None) if standing else None,
        "previous_release": (standing.previous or None) if standing else None,
        "held": list(standing.held) if standing else [],
        "fetcher": service.updates.fetcher(),
        "command": list(plan.settings.command),
        "chdir": resolved.directory if resolved else "",
    }


def state(fleet: Fleet) -> str:
    """Return the state of the service as a whole, in a word."""
    current = fleet.roster.current
    if fleet.stopping:
        return "stopping"
    if not fleet.ever_ready or current is None:
        return "starting"
    if fleet.rolling:
        return "rolling"
    whole = all(current.ready_in(slot) for slot in range(current.size))
    return "running" if whole else "degraded"


def _listeners(plans: Plans) -> list[dict[str, object]]:
    return [_listener(plans, index, o) for index, o in enumerate(plans.plan.listeners)]


def _listener(plans: Plans, index: int, listener: Listener) -> dict[str, object]:
    why = plans.plan.why_shared(listener)
    return {
        "name": listener.name,
        "address": listener.address,
        "fd": None if listener.wanted.adopted else FIRST_FD + index,
        "type": listener.kind,
        "handover": "shared" if why else "steered",
        "handover_reason": why or None,
    }


def _rollout(service: Service) -> dict[str, object] | None:
    candidate, present = service.fleet.roster.candidate, service.ledger.present
    if candidate is None or present is None:
        return None
    canary = candidate.policy.canary if candidate.tried_until is not None else None
    return {
        "generation": candidate.number,
        "reason": present.reason,
        "started_at": timestamp(present.started),
        "state": _phase(candidate),
        "canary_percent": canary.percent if canary else None,
    }


def _phase(candidate: Generation) -> str:
    if candidate.tried_until is not None:
        return "canary"
    return "settling" if candidate.settled_at is not None else "starting"


def _workers(service: Service) -> list[dict[str, object]]:
    workers = sorted(service.fleet.roster.workers(), key=lambda worker: worker.id)
    return [_worker(service, worker, service.crew.members.get(worker.id)) for worker in workers]


def _worker(service: Service, worker: Worker, member: Member | None) -> dict[str, object]:
    pids = _pids(member) if member else []
    resolved = service.plans.resolved(worker.id.generation)
    program = resolved.program if resolved else None
    return {
        "pid": member.process.pid if member else None,
        "slot": worker.id.slot,
        "generation": worker.id.generation,
        "state": str(worker.state),
        "started_at": timestamp(member.started) if member else None,
        "ready_at": timestamp(member.ready) if member and member.ready else None,
        "rss_bytes": sum(map(procfs.memory, pids)),
        "cpu_percent": _cpu(pids, member),
        "connections": service.census.of(worker.id).connections,
        "crashes": worker.crashes,
        "status": member.status if member else "",
        "executable": program.name if program else None,
        "directory": resolved.directory if resolved else None,
    }


def _pids(member: Member) -> list[int]:
    """Return the program's processes; one that stands in for the master is none of them."""
    stood_in = bool(dialects.meant_for_parent(member.recipe.plan.settings.inherit))
    return procfs.tree([member.process.pid])[stood_in:]


def _cpu(pids: Iterable[int], member: Member | None) -> float:
    """Return the share of one processor since the start, the worker's descendants included."""
    if member is None:
        return 0.0
    alive = max(time.time() - member.started, 0.01)
    return round(100 * sum(map(procfs.processor_time, pids)) / alive, 1)
