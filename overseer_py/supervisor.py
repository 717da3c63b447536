"""The loop: the next event → the fleet decides → perform.

One thread, and nothing in it waits but the loop itself.  It survives anything: what goes wrong in
one turn is logged with its traceback, and the next turn begins.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from overseer_py import __version__
from overseer_py.config import Config, Sources
from overseer_py.core.messages import (
    Action,
    Drain,
    Event,
    Exited,
    Kill,
    Quit,
    Report,
    Retire,
    RolloutRequested,
    Spawn,
    TimePassed,
    WorkerId,
)
from overseer_py.errors import OverseerError
from overseer_py.house import Asks, House
from overseer_py.instance import Claim
from overseer_py.settings import Settings
from overseer_py.snapshot import Snapshot
from overseer_py.system.listeners import Listener
from overseer_py.system.loop import IN
from overseer_py.system.signals import sender_of


class Supervisor:
    """One service, from the first worker to the last."""

    def __init__(
        self,
        sources: Sources,
        settings: Settings,
        start_directory: str,
        kept: Snapshot | None = None,
    ) -> None:
        """``kept``: go on where an earlier image of this master has stopped; see ``resume``."""
        self._events: deque[Event] = deque()
        self._status: int | None = None
        self._changed = True  # what the next master must know, should this one die now
        self._epitaph = ""  # why the master ends, if not because it was asked to
        asks = Asks(self.post, self.perform, self._mend)
        self._house = House(sources, settings, start_directory, asks, kept)

    def open(self, config: Config) -> None:
        """Open the listeners; raise OverseerError, with nothing left behind, if that fails."""
        self._house.plans.open(config)

    def start(self, claim: Claim | None) -> None:
        """Begin to serve: the first generation, or first a release for it."""
        house = self._house
        house.inhabit(claim, None)
        plan = house.plans.plan
        name = plan.settings.name
        house.log.info("overseer-started", name=name, pid=os.getpid(), version=__version__)
        if ignored := house.sockets.ignored(house.environ):
            house.log.warning("sockets-ignored", reason=ignored)
        if house.store.obstacle:
            house.log.warning("fdstore-ignored", reason=house.store.obstacle)
        house.commands.announce()
        house.updates.follow(plan.settings, house.start_directory, house.guard)
        first = RolloutRequested("start", plan.policy(), plan.settings.workers)
        house.updates.before(first)

    def resume(self, kept: Snapshot) -> None:
        """Take up what an earlier image has kept; nobody hears of it before ``go_on``."""
        self._house.resume(kept)

    def go_on(self, kept: Snapshot) -> None:
        """Go on where the earlier image has stopped."""
        self._house.go_on(kept)

    def adopt(self, kept: Snapshot, config: Config) -> None:
        """Go on where another master has died; roll out if the configuration is another one."""
        house = self._house
        house.adopt(kept)
        self._tell_guard()
        if config.settings != house.plans.plan.settings:
            house.commands.reload()
        elif lost := [listener.name for listener in house.sockets.known() if listener.is_lost]:
            house.commands.restart(f"the path of {', '.join(lost)} is gone")
        house.deposit(changed=True)

    def run(self) -> int:
        """Run the service until it has ended; return the exit status."""
        house = self._house
        gc.freeze()  # what is there now stays: forks need not copy the pages it lies on
        house.loop.watch(house.signals.fd, IN, self._on_signals)
        house.loop.watch(house.inbox.fd, IN, self._on_messages)
        while self._status is None:
            self._turn()
        lost = {"log_dropped": house.outlet.dropped} if house.outlet.dropped else {}
        house.log.info("overseer-stopped", status=self._status, **lost)
        house.promises.end(self._status)
        if self._status:
            house.outlet.write(self._epitaph.encode())
        return self._status

    def post(self, event: Event) -> None:
        """Let the fleet hear of this, in this turn of the loop or the next."""
        self._events.append(event)

    def close(self) -> None:
        """Leave nothing behind."""
        self._house.close()

    def _turn(self) -> None:
        now = time.monotonic()
        for call in [] if self._events else self._house.loop.turn(self._timeout(now)):
            self._protect(call)
        now = time.monotonic()
        self._protect(lambda: self._house.crew.look(now))
        self._protect(lambda: self._house.retirement.look(now))
        self._protect(lambda: self._house.leavers.look(now))
        self._protect(lambda: self._house.updates.tick(now))
        self._protect(lambda: self._house.upgrade.tick(now))
        if self._house.control:
            self._protect(partial(self._house.control.tick, now))
        deadline = self._house.fleet.next_deadline()
        if deadline is not None and deadline <= now:
            # What came while we slept, or were stopped, comes first.
            for call in self._house.loop.turn(0):
                self._protect(call)
            self.post(TimePassed())
        while self._events:
            self._protect(partial(self._handle, self._events.popleft(), now))
        self._protect(lambda: self._house.systemd.tick(now))
        changed, self._changed = self._changed, False
        self._protect(partial(self._house.deposit, changed=changed))
        if self._house.upgrade.ready:
            self._protect(self._upgrade)

    def _upgrade(self) -> None:
        """Become the next version, now that nothing is in hand."""
        if self._house.fleet.stopping:
            self._house.upgrade.give_up("the service is stopping")
        else:
            self._house.systemd.ping()
            self._house.upgrade.perform()

    def _handle(self, event: Event, now: float) -> None:
        self._house.promises.heard(event)
        for action in self._house.fleet.handle(event, now):
            self._protect(partial(self.perform, action))
        self._changed = True

    def _timeout(self, now: float) -> float | None:
        looks = (
            self._house.crew.next_look(),
            self._house.retirement.next_look,
            self._house.leavers.next_look(),
        )
        asked = self._house.control.due(now) if self._house.control else None
        others = (
            self._house.systemd.due(),
            self._house.updates.due(),
            self._house.upgrade.due(),
            asked,
        )
        due = self._house.fleet.next_deadline(), *others, *looks
        return min((at - now for at in due if at is not None), default=None)

    def _protect(self, call: Callable[[], object]) -> None:
        """Log what goes wrong, and go on: the workers must not pay for a defect of ours."""
        try:
            call()
        except Exception:  # the loop survives anything
            self._house.log.exception("master-error")

    # -- actions ---------------------------------------------------------------------------

    def perform(self, action: Action) -> None:
        """Do what the fleet has decided."""
        match action:
            case Spawn(worker):
                self._spawn(worker)
            case Retire(worker):
                self._house.retirement.begin(worker, time.monotonic())
            case Drain(worker):
                self._house.retirement.end(worker)
                self._house.crew.drain(worker)
            case Kill(worker):
                self._house.retirement.end(worker)
                self._house.crew.kill(worker)
            case Report():
                self._on_report(action)
                for observe in self._house.observers:
                    observe(action)
            case Quit(status):
                self._status = status
            case _:
                if failed := self._house.director.lead(action):
                    self.perform(failed)

    def _spawn(self, worker: WorkerId) -> None:
        try:
            recipe = self._house.plans.recipe_for(worker.generation)
            pid = self._house.crew.start(worker, recipe, time.monotonic())
            self.perform(Report("worker-started", worker.generation, worker, {"pid": pid}))
        except OverseerError as error:
            self._house.commands.replace_lost(worker.generation)
            self.post(Exited(worker, str(error)))
        except Exception as error:  # or the fleet would wait for it for ever
            self._house.log.exception("master-error")
            self.post(Exited(worker, f"could not be started: {error!r}"))

    def _on_report(self, report: Report) -> None:
        """Follow up on what was decided, where it concerns more than the workers."""
        match report.name:
            case "rollout-started" | "service-starting" if report.generation:
                generation = self._house.fleet.roster.generations[report.generation]
                self._house.plans.begin(report.generation, sharing=generation.rescues)
                self._tell_guard()
            case "worker-ready":
                self._house.sockets.listen_again()
                self._tell_guard()  # of what it has bound for itself
            case "reloaded":
                settings = self._house.plans.plan.settings
                self._house.updates.follow(settings, self._house.start_directory, self._house.guard)
            case "stopping":
                self._house.updates.stop()
            case "rollout-rolled-back" | "rollout-cancelled" if report.generation:
                current = self._house.fleet.roster.current
                self._house.plans.failed(report.generation, current.number if current else None)
            case "gave-up" | "service-exited":
                why = f"{report.name.replace('-', ' ')}: {report.facts['reason']}"
                self._epitaph = f"overseer: {self._house.plans.plan.settings.name} {why}\n"
            case "generation-gone" if report.generation:
                self._house.crew.forget(report.generation)
                for listener in self._house.plans.gone(report.generation):
                    self._house.log.info("listener-closed", name=listener.name)
                self._tell_guard()

    # -- what happens ------------------------------------------------------------------------

    def _on_messages(self, _: int) -> None:
        for message in self._house.inbox.read():
            if worker := self._house.crew.hear(message):
                self._changed |= self._house.errands.hear(worker, message)

    def _on_signals(self, _: int) -> None:
        for caught in self._house.signals.read():
            if caught.number == signal.SIGCHLD:
                self._house.children.reap()
                continue
            self._report("signal", signal=caught.name, **sender_of(caught))
            self._house.commands.signal(caught.number, caught.name)

    def _mend(self, listener: Listener) -> None:
        self.perform(self._house.director.mend(listener))

    def _tell_guard(self) -> None:
        if self._house.guard:
            self._house.guard.listeners(self._house.sockets.own_inodes())

    def _report(self, name: str, /, **facts: object) -> None:
        self.perform(Report(name, facts=facts))
