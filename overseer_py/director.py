"""Leads new connections to where the fleet wants them, and keeps the ways open."""

from __future__ import annotations

import time
from collections.abc import Callable

from overseer_py.core.fleet import Fleet
from overseer_py.core.messages import (
    CutOver,
    Divert,
    Event,
    Park,
    Report,
    RolloutRequested,
)
from overseer_py.crew import Crew
from overseer_py.errors import ListenerError, OverseerError
from overseer_py.logs import Log
from overseer_py.sockets import Sockets
from overseer_py.system import procfs
from overseer_py.system.listeners import Listener


class Director:
    """Performs what the fleet decides about users."""

    def __init__(
        self,
        fleet: Fleet,
        crew: Crew,
        sockets: Sockets,
        log: Log,
        post: Callable[[Event], None],
    ) -> None:
        self.strangers: set[int] = set()  # sockets of others at our addresses that are known
        self._fleet, self._crew, self._sockets = fleet, crew, sockets
        self._log, self._post = log, post

    def lead(self, action: CutOver | Divert | Park) -> Report | None:
        """Do it; return what has gone wrong, if anything has."""
        failed = None
        match action:
            case CutOver(generation):
                self._crew.at_ease(generation)
                failed = self._cut_over(generation)
            case Divert(generation, percent):
                self._sockets.divert(generation, percent)
                self._crew.attend(generation, time.monotonic())
            case Park(served):
                self._sockets.park(served=served)
        self._look_for_strangers()
        return failed

    def mend(self, listener: Listener) -> Report:
        """Listen again: a worker has closed the listener for everybody."""
        try:
            repaired = self._sockets.revive(listener)
        except (OSError, OverseerError) as error:
            return Report("listener-lost", facts={"name": listener.name, "reason": str(error)})
        if not repaired:
            why = f"listener {listener.name} was shut down by a worker"
            self._post(RolloutRequested(why))
        facts = {"name": listener.name, "repaired": repaired}
        return Report("listener-shut-down", facts=facts)

    def _cut_over(self, generation: int) -> Report | None:
        current = self._fleet.roster.current
        if current and generation == current.number and not self._crew.has(generation):
            # By exclusive the new one has failed: those who wait for it are the old
            # one's now, which is about to be started again.
            self._sockets.take_over(generation)
            return None
        try:
            self._sockets.cut_over(generation)
        except ListenerError as error:  # the next generation gets a new socket there
            self._post(RolloutRequested(f"generation {generation} {error}"))
            return Report("listener-lost", generation, facts={"reason": str(error)})
        return None

    def _look_for_strangers(self) -> None:
        """Say who has bound beside us; nothing is steered there."""
        for listener, inode in self._sockets.strangers():
            if inode not in self.strangers:
                self.strangers.add(inode)
                self._log.warning("stranger-bound", name=listener.name, **procfs.holder(inode))
