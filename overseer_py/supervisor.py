"""The loop: the next event → the fleet decides → perform.

One thread, and nothing in it waits but the loop itself.  It survives anything: what goes wrong in
one turn is logged with its traceback, and the next turn begins.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

from overseer_py import __version__
from overseer_py.census import Census
from overseer_py.commands import Commands
from overseer_py.config import Config, Sources
from overseer_py.control import Control, Method
from overseer_py.core.fleet import Fleet
from overseer_py.core.messages import (
    Action,
    CutOver,
    Divert,
    Drain,
    Event,
    Exited,
    Kill,
    Park,
    Quit,
    Report,
    Retire,
    RolloutRequested,
    Spawn,
    TimePassed,
    WorkerId,
)
from overseer_py.crew import Crew
from overseer_py.errands import Errands
from overseer_py.errors import ListenerError, OverseerError
from overseer_py.instance import Claim
from overseer_py.leavers import Leavers
from overseer_py.ledger import Ledger
from overseer_py.logs import open_log
from overseer_py.methods import Methods
from overseer_py.observers import LogObserver, SystemdObserver
from overseer_py.output import Output
from overseer_py.plans import Plans
from overseer_py.promises import Promises
from overseer_py.record import Record
from overseer_py.retirement import Retirement
from overseer_py.settings import Settings
from overseer_py.sockets import Sockets
from overseer_py.status import Service
from overseer_py.system import procfs
from overseer_py.system.fdstore import FdStore
from overseer_py.system.guard import Guard
from overseer_py.system.listeners import Listener
from overseer_py.system.loop import IN, Loop
from overseer_py.system.notify import Inbox, ServiceManager
from overseer_py.system.outlet import Outlet
from overseer_py.system.process import Children
from overseer_py.system.signals import SignalQueue, sender_of
from overseer_py.updates import Updates

_KEPT = 1 << 19  # bytes of the last events, and of the last captured lines
_LAST_WORDS = 1.0  # seconds that a slow reader of the log has at the end


class Supervisor:
    """One service, from the first worker to the last."""

    def __init__(self, sources: Sources, config: Config, start_directory: str) -> None:
        """Open the listeners; raise OverseerError, with nothing left behind, if that fails."""
        settings = config.settings
        self._events: deque[Event] = deque()
        self._status: int | None = None
        self._strangers: set[int] = set()  # sockets of others at our addresses that are known
        self._epitaph = ""  # why the master ends, if not because it was asked to
        self._environ = sources.environ
        self._start_directory = start_directory
        self._loop = Loop()
        self._outlet = Outlet(2, self._loop)
        self._log = open_log(self._outlet, settings.log_format, settings.log_level)
        self._signals = SignalQueue()
        self._inbox = Inbox()
        self._children = Children()
        self._guard: Guard | None = None
        self._fleet = Fleet(random.random)
        self._lines = Record("line", _KEPT)
        self._crew = Crew(self._loop, self._children, self._output, self._log, self.post)
        self._manager = ServiceManager(sources.environ)
        self._systemd = SystemdObserver(self._manager, self._fleet)
        # Last: from here on there is something to leave behind.
        self._store = FdStore(self._manager, sources.environ, wanted=settings.fdstore)
        self._sockets = Sockets(sources.environ, self._loop, self._store, self._on_shut_down)
        self._retirement = Retirement(self._sockets, self._crew, self.post)
        self._plans = Plans(sources, config, self._sockets, start_directory)
        self._crew.adoption.build_on(self._plans.learn, self._sockets.exchange)
        asks = self.post, self.perform
        self._commands = Commands(self._fleet, self._crew, self._plans, self._log, *asks)
        ledger = Ledger(self._crew.last_lines)
        census = Census(self._crew, self._sockets)
        self._leavers = Leavers(self._fleet.roster, census, self.perform)
        self._promises = Promises(ledger)
        self._updates = Updates(
            self._loop, self._children, self._commands, self._promises, sources.environ
        )
        self._journal = Record("event", _KEPT)
        self._service = Service(self._fleet, self._crew, self._plans, ledger, census, self._updates)
        log = LogObserver(self._log, self._journal, self._crew.last_lines, self._hint)
        self._errands = Errands(self._fleet, self._log, self._commands.restart)
        self._observers = ledger, log, self._systemd, self._promises, self._updates, self._errands
        self._control: Control | None = None

    # -- the loop ------------------------------------------------------------------------

    def run(self, claim: Claim | None) -> int:
        """Run the service until it has ended; return the exit status."""
        plan = self._plans.plan
        gc.freeze()  # what is there now stays: forks need not copy the pages it lies on
        self._guard = Guard(self._children, claim.fd if claim else None)
        if claim:
            self._control = Control(claim.control, self._loop, self._log, self._methods())
        self._crew.watch_over(self._guard, self._inbox.address)
        self._loop.watch(self._signals.fd, IN, self._on_signals)
        self._loop.watch(self._inbox.fd, IN, self._on_messages)
        name = plan.settings.name
        self._log.info("overseer-started", name=name, pid=os.getpid(), version=__version__)
        if ignored := self._sockets.ignored(self._environ):
            self._log.warning("sockets-ignored", reason=ignored)
        if self._store.obstacle:
            self._log.warning("fdstore-ignored", reason=self._store.obstacle)
        self._commands.announce()
        self._updates.follow(plan.settings, self._start_directory, self._guard)
        start = RolloutRequested("start", plan.policy(), plan.settings.workers)
        self._updates.before(start)
        while self._status is None:
            self._turn()
        lost = {"log_dropped": self._outlet.dropped} if self._outlet.dropped else {}
        self._log.info("overseer-stopped", status=self._status, **lost)
        self._promises.end(self._status)
        if self._status:
            self._outlet.write(self._epitaph.encode())
        return self._status

    def post(self, event: Event) -> None:
        """Let the fleet hear of this, in this turn of the loop or the next."""
        self._events.append(event)

    def close(self) -> None:
        """Leave nothing behind: no process, no socket, no line of the log unwritten."""
        if self._guard:
            self._guard.dismiss()
        self._children.kill_everything()
        if self._control:
            self._control.close()
        self._sockets.close()
        self._outlet.finish(_LAST_WORDS)
        for owner in (
            self._errands,
            self._outlet,
            self._inbox,
            self._manager,
            self._signals,
            self._loop,
        ):
            owner.close()

    def _turn(self) -> None:
        now = time.monotonic()
        for call in [] if self._events else self._loop.turn(self._timeout(now)):
            self._protect(call)
        now = time.monotonic()
        self._protect(lambda: self._crew.look(now))
        self._protect(lambda: self._retirement.look(now))
        self._protect(lambda: self._leavers.look(now))
        self._protect(lambda: self._updates.tick(now))
        if self._control:
            self._protect(partial(self._control.tick, now))
        deadline = self._fleet.next_deadline()
        if deadline is not None and deadline <= now:
            # What came while we slept, or were stopped, comes first.
            for call in self._loop.turn(0):
                self._protect(call)
            self.post(TimePassed())
        while self._events:
            self._protect(partial(self._handle, self._events.popleft(), now))
        self._protect(lambda: self._systemd.tick(now))

    def _handle(self, event: Event, now: float) -> None:
        self._promises.heard(event)
        for action in self._fleet.handle(event, now):
            self._protect(partial(self.perform, action))

    def _timeout(self, now: float) -> float | None:
        looks = self._crew.next_look(), self._retirement.next_look, self._leavers.next_look()
        asked = self._control.due(now) if self._control else None
        due = (self._fleet.next_deadline(), self._systemd.due(), self._updates.due(), asked, *looks)
        return min((at - now for at in due if at is not None), default=None)

    def _protect(self, call: Callable[[], object]) -> None:
        """Log what goes wrong, and go on: the workers must not pay for a defect of ours."""
        try:
            call()
        except Exception:  # noqa: BLE001 - the loop survives anything
            self._log.exception("master-error")

    # -- actions ---------------------------------------------------------------------------

    def perform(self, action: Action) -> None:
        """Do what the fleet has decided."""
        match action:
            case Spawn(worker):
                self._spawn(worker)
            case Retire(worker):
                self._retirement.begin(worker, time.monotonic())
            case Drain(worker):
                self._retirement.end(worker)
                self._crew.drain(worker)
            case Kill(worker):
                self._retirement.end(worker)
                self._crew.kill(worker)
            case Report():
                self._on_report(action)
                for observe in self._observers:
                    observe(action)
            case Quit(status):
                self._status = status
            case _:
                self._steer(action)

    def _steer(self, action: CutOver | Divert | Park) -> None:
        """Lead new connections to where the fleet wants them."""
        match action:
            case CutOver(generation):
                self._crew.at_ease(generation)
                current = self._fleet.roster.current
                if current and generation == current.number and not self._crew.has(generation):
                    # By exclusive the new one has failed: those who wait for it are the old
                    # one's now, which is about to be started again.
                    self._sockets.take_over(generation)
                else:
                    self._cut_over(generation)
            case Divert(generation, percent):
                self._sockets.divert(generation, percent)
                self._crew.attend(generation, time.monotonic())
            case Park():
                self._sockets.park(served=self._fleet.roster.served)
        self._look_for_strangers()

    def _spawn(self, worker: WorkerId) -> None:
        try:
            recipe = self._plans.recipe_for(worker.generation)
            pid = self._crew.start(worker, recipe, time.monotonic())
            self.perform(Report("worker-started", worker.generation, worker, {"pid": pid}))
        except OverseerError as error:
            self.post(Exited(worker, str(error)))
        except Exception as error:  # noqa: BLE001 - or the fleet would wait for it for ever
            self._log.exception("master-error")
            self.post(Exited(worker, f"could not be started: {error!r}"))

    def _cut_over(self, generation: int) -> None:
        try:
            self._sockets.cut_over(generation)
        except ListenerError as error:  # the next generation gets a new socket there
            self._report("listener-lost", generation=generation, reason=str(error))
            self.post(RolloutRequested(f"generation {generation} {error}"))

    def _on_report(self, report: Report) -> None:
        """Follow up on what was decided, where it concerns more than the workers."""
        match report.name:
            case "rollout-started" | "service-starting" if report.generation:
                generation = self._fleet.roster.generations[report.generation]
                self._plans.begin(report.generation, sharing=generation.rescues)
                self._tell_guard()
            case "worker-ready":
                self._sockets.listen_again()
                self._tell_guard()  # of what it has bound for itself
            case "reloaded":
                settings = self._plans.plan.settings
                self._updates.follow(settings, self._start_directory, self._guard)
            case "stopping":
                self._updates.stop()
            case "rollout-rolled-back" | "rollout-cancelled" if report.generation:
                current = self._fleet.roster.current
                self._plans.failed(report.generation, current.number if current else None)
            case "gave-up" | "service-exited":
                why = f"{report.name.replace('-', ' ')}: {report.facts['reason']}"
                self._epitaph = f"overseer: {self._plans.plan.settings.name} {why}\n"
            case "generation-gone" if report.generation:
                self._crew.forget(report.generation)
                for listener in self._plans.gone(report.generation):
                    self._log.info("listener-closed", name=listener.name)
                self._tell_guard()

    # -- what happens ------------------------------------------------------------------------

    def _on_messages(self, _: int) -> None:
        for message in self._inbox.read():
            if worker := self._crew.hear(message):
                self._errands.hear(worker, message)

    def _on_signals(self, _: int) -> None:
        for caught in self._signals.read():
            if caught.number == signal.SIGCHLD:
                self._children.reap()
                continue
            self._report("signal", signal=caught.name, **sender_of(caught))
            self._commands.signal(caught.number, caught.name)

    def _on_shut_down(self, listener: Listener) -> None:
        """Listen again: a worker has closed the listener for everybody."""
        try:
            repaired = self._sockets.revive(listener)
        except (OSError, OverseerError) as error:
            self._report("listener-lost", name=listener.name, reason=str(error))
            return
        self._report("listener-shut-down", name=listener.name, repaired=repaired)
        if not repaired:
            self.post(RolloutRequested(f"listener {listener.name} was shut down by a worker"))

    def _tell_guard(self) -> None:
        if self._guard:
            self._guard.listeners(self._sockets.own_inodes())

    def _look_for_strangers(self) -> None:
        """Say who has bound beside us; nothing is steered there."""
        for listener, inode in self._sockets.strangers():
            if inode not in self._strangers:
                self._strangers.add(inode)
                self._log.warning("stranger-bound", name=listener.name, **procfs.holder(inode))

    def _hint(self, worker: WorkerId) -> str:
        return self._retirement.hint(worker) or self._crew.hint(worker)

    def _methods(self) -> Mapping[str, Method]:
        records = self._journal, self._lines
        perform = self.perform
        return Methods(self._service, self._commands, self._promises, *records, perform).table()

    def _output(self, worker: WorkerId, settings: Settings) -> Output:
        return Output(worker, settings, self._loop, self._outlet, self._lines)

    def _report(self, name: str, /, **facts: object) -> None:
        self.perform(Report(name, facts=facts))
