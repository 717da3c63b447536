"""What an operator can command, be it by a signal or by the control socket."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass

from overseer_py.core.fleet import Fleet
from overseer_py.core.messages import (
    Event,
    Report,
    RolloutRequested,
    ScaleRequested,
    StopRequested,
)
from overseer_py.core.worker import WorkerState
from overseer_py.crew import Crew
from overseer_py.errors import OverseerError
from overseer_py.handover import FIRST_FD
from overseer_py.logs import Log
from overseer_py.plans import Plans
from overseer_py.system.signals import FORWARDED


@dataclass(frozen=True, slots=True)
class Commands:
    """Turns what is asked for into events, which the fleet decides upon."""

    fleet: Fleet
    crew: Crew
    plans: Plans
    log: Log
    post: Callable[[Event], None]
    report: Callable[[Report], None]

    def signal(self, number: int, name: str) -> None:
        """Do what a signal to the master means (README.md, Signals)."""
        current = self.fleet.roster.current
        if number == self.plans.plan.settings.restart_signal:
            self.restart(f"signal {name}")
            return
        match number:
            case signal.SIGTERM | signal.SIGINT:
                self.post(StopRequested())
            case signal.SIGQUIT:
                self.post(StopRequested(drain=False))
            case signal.SIGHUP:
                self.reload()
            case signal.SIGTTIN if current:
                self.scale(current.size + 1)
            case signal.SIGTTOU if current:
                self.scale(current.size - 1)
            case number if number in FORWARDED and current:
                # One that is starting has no handler yet: the default action would end it.
                ready = (w.id for w in current.workers.values() if w.state is WorkerState.READY)
                self.crew.forward(ready, number)

    def restart(self, reason: str) -> RolloutRequested:
        """Ask for a rollout; return the event by which the fleet will hear of it."""
        request = RolloutRequested(reason)
        self.post(request)
        return request

    def scale(self, size: int) -> None:
        """Ask for this many workers."""
        self.post(ScaleRequested(size))

    def stop(self, *, drain: bool = True) -> None:
        """End the service; a stop that goes on already is left to it."""
        if not drain or not self.fleet.stopping:
            self.post(StopRequested(drain))

    def reload(self) -> RolloutRequested | OverseerError:
        """Reread the configuration and ask for a rollout.

        A bad one changes nothing; what is wrong with it is reported, and returned.
        """
        if self.fleet.stopping:
            why = OverseerError("the service is stopping")
            self._say("reload-refused", reason=str(why))
            return why
        self._say("reload-begun")
        before = self.plans.plan
        try:
            change = self.plans.reread()
        except Exception as error:  # systemd must hear that the reload has ended
            if not isinstance(error, OverseerError):
                self.log.exception("master-error")
            why = error if isinstance(error, OverseerError) else OverseerError(repr(error))
            self._say("reload-failed", reason=str(why))
            return why
        ignored = {"ignored": list(change.ignored)} if change.ignored else {}
        self._say("reloaded", changed=list(change.keys), **ignored)
        if change.ignored:
            self.log.warning("reload-ignored", keys=list(change.ignored), reason="needs a restart")
        settings = change.plan.settings
        size = settings.workers if settings.workers != before.settings.workers else None
        if list(change.plan.steered().items()) != list(before.steered().items()):
            self.announce()
        request = RolloutRequested("reload", change.plan.policy(), size)
        self.post(request)
        return request

    def replace_lost(self, generation: int) -> None:
        """Ask for a rollout if what the current generation was started from is gone.

        Its workers could never be started again; what is deployed now perhaps can.
        """
        current = self.fleet.roster.current
        if current and current.number == generation and (why := self.plans.lost(generation)):
            self.restart(why)

    def announce(self) -> None:
        """Log where the service listens, and how each listener is handed over."""
        plan = self.plans.plan
        for index, listener in enumerate(plan.listeners):
            facts: dict[str, object] = {
                "name": listener.name,
                "address": listener.address,
                "type": listener.kind,
            }
            facts["handover"] = "steered"
            if why := plan.why_shared(listener):
                facts |= {"handover": "shared", "reason": why}
            if listener.lasting:
                facts["lasting"] = "yes"  # connections wait there, whatever ends the master
            if listener.wanted.adopted:
                facts["adopted"] = "yes"  # the program binds it for itself
            else:
                facts["fd"] = FIRST_FD + index  # those that are adopted stand behind
            self.log.info("listening", **facts)
        if plan.settings.canary and not any(plan.steered().values()):
            self.log.warning("canary-ignored", reason="no listener can be steered")

    def _say(self, name: str, /, **facts: object) -> None:
        self.report(Report(name, facts=facts))
