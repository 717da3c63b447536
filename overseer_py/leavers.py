"""Whom we wait for: what a worker that is on its way out still has, said now and then."""

from __future__ import annotations

from collections.abc import Callable

from overseer_py.census import Census
from overseer_py.core.messages import Report, WorkerId
from overseer_py.core.roster import Roster
from overseer_py.core.worker import WorkerState

_FIRST, _LONGEST = 1.0, 10.0  # seconds between two words about the same worker: 1, 2, 4, 8, 10 …
_LEAVING = (WorkerState.QUIETING, WorkerState.DRAINING)


class Leavers:
    """Workers that finish what they have; most are gone before there is anything to say."""

    def __init__(self, roster: Roster, census: Census, report: Callable[[Report], None]) -> None:
        self._roster = roster
        self._census = census
        self._report = report
        self._due: dict[WorkerId, tuple[float, float]] = {}  # when to say more, and the pause then

    def next_look(self) -> float | None:
        """Return when there is something to say."""
        return min((at for at, _ in self._due.values()), default=None)

    def look(self, now: float) -> None:
        """Say how many connections are open of those that are still here."""
        leaving = {w.id: w.state for w in self._roster.workers() if w.state in _LEAVING}
        if not leaving and not self._due:
            return
        first = now + _FIRST, _FIRST
        self._due = {worker: self._due.get(worker, first) for worker in leaving}
        late = [worker for worker, (at, _) in self._due.items() if at <= now]
        if late:
            self._census.take(now, closely=True)
        for worker in late:
            pause = min(2 * self._due[worker][1], _LONGEST)
            self._due[worker] = now + pause, pause
            tally = self._census.of(worker)
            facts = {"state": str(leaving[worker]), "connections": tally.connections}
            if tally.connections:
                facts["oldest"] = round(tally.oldest, 1)
            self._report(Report("drain-waits", worker.generation, worker, facts))
