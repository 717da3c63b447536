"""What has become of rollouts and reloads, for those who ask later: the present one, the last."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

from overseer_py.core.messages import Report, WorkerId

_ENDS = {
    "rollout-committed": "committed",
    "rollout-rolled-back": "rolled-back",
    "rollout-cancelled": "cancelled",
}


@dataclass(slots=True)
class Rollout:
    """One rollout, from its start to its end."""

    generation: int
    reason: str
    started: float  # seconds since the epoch
    outcome: str = ""  # empty while it goes on
    error: str = ""  # why it did not come to be
    exit: int | None = None  # of the worker that failed it
    stderr_tail: list[str] = field(default_factory=list)
    duration: float = 0.0

    def ended(self) -> dict[str, object]:
        """Return it as ``last_rollout`` of the status."""
        return {
            "generation": self.generation,
            "outcome": self.outcome,
            "reason": self.reason,
            "error": self.error or None,
            "exit": self.exit,
            "stderr_tail": self.stderr_tail,
            "started_at": timestamp(self.started),
            "duration_s": round(self.duration, 3),
        }


@dataclass(slots=True)
class Reload:
    """One reading of the configuration, and what became of it."""

    at: float  # seconds since the epoch
    changed: list[str]  # keys
    ignored: list[str]  # keys that only a new master can change
    outcome: str = ""  # refused, or how its rollout ended; empty before that
    error: str = ""
    generation: int | None = None  # that is the first to have it

    def shown(self) -> dict[str, object]:
        """Return it as ``last_reload`` of the status."""
        return {
            "at": timestamp(self.at),
            "outcome": self.outcome or None,
            "error": self.error or None,
            "generation": self.generation,
            "changed": self.changed,
            "ignored": self.ignored,
        }


@dataclass(frozen=True, slots=True)
class KeptLedger:
    """All of it, for the master's next image."""

    started: float
    present: Rollout | None
    last: Rollout | None
    reload: Reload | None
    exits: list[tuple[WorkerId, int]]


class Ledger:
    """Takes note of each report."""

    def __init__(self, last_lines: Callable[[WorkerId], list[str]]) -> None:
        """``last_lines`` are what a worker wrote to stderr."""
        self.started = time.time()
        self.present: Rollout | None = None
        self.last: Rollout | None = None
        self.reload: Reload | None = None  # the last
        self._last_lines = last_lines
        self._exits: dict[WorkerId, int] = {}  # of the present candidate

    def kept(self) -> KeptLedger:
        """Return what the master's next image must know."""
        exits = list(self._exits.items())
        return KeptLedger(self.started, self.present, self.last, self.reload, exits)

    def resume(self, kept: KeptLedger) -> None:
        """Go on with the notes of an earlier image."""
        self.started, self.present, self.last = kept.started, kept.present, kept.last
        self.reload, self._exits = kept.reload, dict(kept.exits)

    def __call__(self, report: Report) -> None:
        """Note it if it is about a rollout or a reload."""
        match report.name:
            case "rollout-started" if report.generation:
                reason = str(report.facts["reason"])
                self.present, self._exits = Rollout(report.generation, reason, time.time()), {}
                if self.reload and not self.reload.outcome:
                    self.reload.generation = report.generation
            case "reloaded" | "reload-failed" | "reload-refused":
                self._note_reload(report)
            case "worker-exited" if report.worker and self.present:
                if report.worker.generation == self.present.generation:
                    self._exits[report.worker] = int(str(report.facts["status"]))
            case "rollout-committed" | "rollout-rolled-back" | "rollout-cancelled":
                self._end(report)

    def _end(self, report: Report) -> None:
        rollout, self.present = self.present, None
        if rollout is None:
            return
        rollout.outcome = _ENDS[report.name]
        rollout.duration = time.time() - rollout.started
        if rollout.outcome != "committed":
            rollout.error = str(report.facts["reason"])
        if report.worker:
            rollout.exit = self._exits.get(report.worker)
            rollout.stderr_tail = self._last_lines(report.worker)
        if self.reload and self.reload.generation == rollout.generation:
            self.reload.outcome, self.reload.error = rollout.outcome, rollout.error
        self.last = rollout

    def _note_reload(self, report: Report) -> None:
        facts = report.facts
        changed, ignored = (cast(list[str], facts.get(key, [])) for key in ("changed", "ignored"))
        self.reload = Reload(time.time(), changed, ignored)
        if report.name != "reloaded":
            self.reload.outcome, self.reload.error = "refused", str(facts["reason"])


def timestamp(seconds: float) -> str:
    """Return a time since the epoch as RFC 3339 has it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
