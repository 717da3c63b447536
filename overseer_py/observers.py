"""A Report becomes a log line, an event for those who follow, and a word to systemd."""

from __future__ import annotations

import time
from collections.abc import Callable

from overseer_py.core.fleet import Fleet
from overseer_py.core.messages import Report, WorkerId
from overseer_py.core.worker import WorkerState
from overseer_py.ledger import timestamp
from overseer_py.logs import Log
from overseer_py.record import Record
from overseer_py.system.notify import ServiceManager

_ERRORS = {"gave-up", "listener-lost", "reload-failed", "rollout-rolled-back", "service-exited"}
_ERRORS |= {"probation-failed", "release-vetoed", "store-failed", "updater-garbled"}
_WARNINGS = {
    "drain-timed-out",
    "fetch-failed",
    "generation-crowded-out",
    "hook-failed",
    "listener-shut-down",
    "release-held",
    "reload-refused",
    "rollout-refused",
    "updater-exited",
    "updater-failed",
    "watch-polls",
    "worker-backoff",
    "worker-late",
}
_WITH_HINT = {"quiet-timed-out", "worker-late"}
_WITH_LAST_LINES = {"rollout-rolled-back", "gave-up", "service-exited"}
_LONGEST_STATUS = 400
_ROLLOUT_ENDS = {"rollout-committed", "rollout-rolled-back", "reload-failed"}


class LogObserver:
    """Writes each report as one line; failures with the last lines of the worker.

    The same facts are an event, for those who follow by the control socket.
    """

    def __init__(
        self,
        log: Log,
        events: Record,
        last_lines: Callable[[WorkerId], list[str]],
        hint: Callable[[WorkerId], str],
    ) -> None:
        self._log = log
        self._events = events
        self._last_lines = last_lines
        self._hint = hint

    def __call__(self, report: Report) -> None:
        """Write the line."""
        facts: dict[str, object] = {}
        if report.worker:
            facts["worker"] = str(report.worker)
        elif report.generation:
            facts["generation"] = report.generation
        facts.update(report.facts)
        if report.name in _WITH_HINT and report.worker:
            facts["hint"] = self._hint(report.worker)
        if report.name in _WITH_LAST_LINES and report.worker:
            facts["generation"] = report.worker.generation
            facts["stderr_tail"] = self._last_lines(report.worker)
        self._write(report)(report.name, **facts)
        at = timestamp(time.time())
        generation = {"generation": report.generation} if report.generation else {}
        self._events.add({"timestamp": at, "event": report.name, **generation, **facts})

    def _write(self, report: Report) -> Callable[..., object]:
        if report.name in _ERRORS:
            return self._log.error
        unexpected = report.name == "worker-exited" and not report.facts["expected"]
        if report.name in _WARNINGS or unexpected:
            return self._log.warning
        return self._log.info


class SystemdObserver:
    """Keeps systemd informed, as sd_notify(3) wants it of ``Type=notify``."""

    _EXTENSION = 1.0  # seconds between two requests for more time while the service drains
    _MORE = 10_000_000  # microseconds asked for each time

    def __init__(self, manager: ServiceManager, fleet: Fleet) -> None:
        self._manager = manager
        self._fleet = fleet
        self._status = ""
        self._failure = ""  # of the last reload or rollout
        self._ping_every = manager.watchdog / 2 if manager.watchdog else None
        self._next_ping = 0.0 if self._ping_every else None
        self._next_extension: float | None = None

    def __call__(self, report: Report) -> None:
        """Say what the report means for the unit."""
        self._note_failure(report)
        match report.name:
            case "service-ready":
                self._manager.insist(READY=1)
            case "rollout-started" | "reload-begun":
                self._manager.tell_reloading()
            case "stopping" | "gave-up" | "service-exited":
                if self._manager.tell(STOPPING=1):
                    self._next_extension = 0.0
        if report.name in _ROLLOUT_ENDS and self._is_settled():
            self._manager.insist(READY=1)

    def ping(self) -> None:
        """Say that we live: for a while there will be nobody to say so."""
        if self._ping_every:
            self._manager.tell(WATCHDOG=1)

    def _note_failure(self, report: Report) -> None:
        """Keep why the service is not what was asked for, until something else is asked for."""
        match report.name:
            case "reload-failed":
                self._failure = f"reload failed: {report.facts['reason']}"
            case "rollout-rolled-back" if report.worker:
                number = report.worker.generation
                self._failure = f"generation {number} rolled back: {report.facts['reason']}"
            case "reload-begun" | "rollout-started":
                self._failure = ""

    def say_ready(self) -> None:
        """Say what an earlier master had said, if it had: systemd waits for it anew."""
        if self._fleet.ever_ready and not self._fleet.stopping:
            self._manager.insist(READY=1)

    def _is_settled(self) -> bool:
        """Whether a reload has ended, with no other one behind it, and the service serves."""
        fleet = self._fleet
        return fleet.ever_ready and not fleet.stopping and not fleet.rolling

    def due(self) -> float | None:
        """Return when systemd must hear of us again; None if it need not."""
        times = (self._next_ping, self._next_extension)
        return min((at for at in times if at is not None), default=None)

    def tick(self, now: float) -> None:
        """Say what is due, and the status if it has changed."""
        if self._next_ping is not None and self._ping_every and self._next_ping <= now:
            self._manager.tell(WATCHDOG=1)
            self._next_ping = now + self._ping_every
        if self._next_extension is not None and self._next_extension <= now:
            self._manager.tell(EXTEND_TIMEOUT_USEC=self._MORE)
            self._next_extension = now + self._EXTENSION
        status = summary(self._fleet)
        if self._failure and not self._fleet.stopping:
            status = f"{status}; {self._failure}".replace("\n", " ")[:_LONGEST_STATUS]
        if status != self._status:
            self._status = status
            self._manager.tell(STATUS=status)


def summary(fleet: Fleet) -> str:
    """Return the state of the service in a few words: generation and workers."""
    current, candidate = fleet.roster.current, fleet.roster.candidate
    if fleet.stopping:
        return f"Stopping; {sum(w.alive for w in fleet.roster.workers())} workers left"
    if current is None:
        return "Starting"
    ready = sum(w.state is WorkerState.READY for w in current.workers.values())
    text = f"Generation {current.number}, {ready} of {current.size} workers ready"
    if candidate is None:
        return text
    if candidate.tried_until is not None and candidate.policy.canary:
        return f"{text}; {candidate.policy.canary.percent} % to generation {candidate.number}"
    return f"{text}; rolling out generation {candidate.number}"
