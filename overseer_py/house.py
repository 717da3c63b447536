"""All that a master has: put together, written down for its next image, taken up by that, closed.

Who decides is the fleet; who lets things happen, in which order, is the supervisor.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from overseer_py import __version__
from overseer_py.answers import Builders
from overseer_py.census import Census
from overseer_py.commands import Commands
from overseer_py.config import Sources
from overseer_py.control import Control, KeptRequest, Request
from overseer_py.core import snapshot
from overseer_py.core.fleet import Fleet
from overseer_py.core.messages import Event, Report, WorkerId
from overseer_py.core.worker import WorkerState
from overseer_py.crew import Crew
from overseer_py.director import Director
from overseer_py.errands import Errands
from overseer_py.instance import Claim
from overseer_py.leavers import Leavers
from overseer_py.ledger import Ledger
from overseer_py.logs import open_log
from overseer_py.methods import Methods
from overseer_py.observers import LogObserver, SystemdObserver
from overseer_py.output import KeptOutput, Outflow, Output
from overseer_py.plain import Fd
from overseer_py.plans import Plans
from overseer_py.promises import Promises
from overseer_py.record import Record
from overseer_py.retirement import Retirement
from overseer_py.settings import Settings
from overseer_py.snapshot import FORMAT, KeptClaim, Snapshot, encode
from overseer_py.sockets import Sockets
from overseer_py.status import Service
from overseer_py.system import procfs
from overseer_py.system.fdstore import FdStore
from overseer_py.system.guard import Guard, Will
from overseer_py.system.listeners import Listener
from overseer_py.system.loop import Loop
from overseer_py.system.notify import Inbox, ServiceManager
from overseer_py.system.outlet import Outlet
from overseer_py.system.process import Children, kill_all
from overseer_py.system.signals import SignalQueue
from overseer_py.updates import Updates
from overseer_py.upgrade import Upgrade

_KEPT = 1 << 19  # bytes of the last events, and of the last captured lines
HEIR = 60.0  # seconds that the workers of a dead master wait for another one
_LAST_WORDS = 1.0  # seconds that a slow reader of the log has at the end


@dataclass(frozen=True, slots=True)
class Asks:
    """What the parts ask of the supervisor."""

    post: Callable[[Event], None]
    perform: Callable[[Report], None]
    mend: Callable[[Listener], None]


class House:
    """The parts, each of which knows only those that it is given."""

    def __init__(
        self,
        sources: Sources,
        settings: Settings,
        start_directory: str,
        asks: Asks,
        kept: Snapshot | None,
    ) -> None:
        """Put them together; what an earlier image has ``kept`` open is taken as it is."""
        self.environ, self.start_directory = sources.environ, start_directory
        self.claim: Claim | None = None
        self.loop = Loop()
        self.outlet = Outlet(2, self.loop)
        self.log = open_log(self.outlet, settings.log_format, settings.log_level)
        self.signals = SignalQueue()
        self.inbox = Inbox(kept.inbox if kept else None)
        self.children = Children(kept.limit if kept else None)
        self.guard: Guard | None = None
        self.control: Control | None = None
        draw = random.random
        self.fleet = snapshot.restore(kept.fleet, draw) if kept else Fleet(draw)
        self.lines, self.events = Record("line", _KEPT), Record("event", _KEPT)
        self._outflow = Outflow(self.loop, self.outlet, self.lines)
        self.crew = Crew(self.loop, self.children, self._output, self.log, asks.post)
        self._manager = ServiceManager(self.environ)
        self.systemd = SystemdObserver(self._manager, self.fleet)
        self._open_sockets(settings, asks, kept)
        self.plans = Plans(sources, settings, self.sockets, start_directory)
        builders = Builders(self.plans.learn, self.sockets.exchange)
        self.crew.adoption.build_on(builders, self.crew.heard_listen)
        self._furnish(asks)

    def _open_sockets(self, settings: Settings, asks: Asks, kept: Snapshot | None) -> None:
        stored = kept.store if kept else None
        self.store = FdStore(self._manager, self.environ, wanted=settings.fdstore, kept=stored)
        held = kept.sockets if kept else None
        self.sockets = Sockets(self.environ, self.loop, self.store, asks.mend, held)
        self.director = Director(self.fleet, self.crew, self.sockets, self.log, asks.post)
        self.retirement = Retirement(self.sockets, self.crew, asks.post)

    def _furnish(self, asks: Asks) -> None:
        """Add those who only observe, and those who pass on what is asked for."""
        commands = Commands(self.fleet, self.crew, self.plans, self.log, asks.post, asks.perform)
        census = Census(self.crew, self.sockets)
        self.commands = commands
        self.ledger = Ledger(self.crew.last_lines)
        self.leavers = Leavers(self.fleet.roster, census, asks.perform)
        self.promises = Promises(self.ledger)
        self.updates = Updates(self.loop, self.children, commands, self.promises, self.environ)
        self.errands = Errands(self.fleet, self.log, commands.restart)
        self.upgrade = Upgrade(self.children, self.environ, self.log, self.kept, asks.perform)
        self.updates.watch_over(self.upgrade.ask)
        log = LogObserver(self.log, self.events, self.crew.last_lines, self._hint)
        own = self.promises, self.updates, self.errands
        self.observers = self.ledger, log, self.systemd, *own
        service = Service(self.fleet, self.crew, self.plans, self.ledger, census, self.updates)
        records = self.events, self.lines
        self._methods = Methods(
            service, commands, self.promises, *records, self.upgrade, asks.perform
        )

    def inhabit(self, claim: Claim | None, kept: Snapshot | None) -> None:
        """Have a guard, and a control socket if there is a name to be known by."""
        self.claim = claim
        lock = claim.fd if claim else None
        self.guard = Guard(self.children, lock, self._will(), kept.guard if kept else None)
        self.crew.watch_over(self.guard, self.inbox.address)
        if claim:
            known, methods = kept.control if kept else None, self._methods.table()
            self.control = Control(claim.control, self.loop, self.log, methods, known)

    # -- across images ---------------------------------------------------------------------

    def _will(self) -> Will | None:
        """Return what is to become of the workers when this master dies a sudden death."""
        settings = self.plans.plan.settings
        if settings.orphans == "drain" or self.claim is None:
            return None
        return Will(str(self.claim.control), HEIR, settings.drains_at)

    def deposit(self, *, changed: bool) -> None:
        """Leave with the guard what the next master needs if this one dies now."""
        custody = self.guard.custody if self.guard else None
        if custody and (changed or custody.stale):  # another guard has nothing yet
            custody.deposit(*encode(self.kept().bequeathed()))

    def kept(self) -> Snapshot:
        """Return the state of the moment, between two events."""
        assert self.guard
        claim = self.claim
        return Snapshot(
            format=FORMAT,
            version=__version__,
            pid=os.getpid(),
            at=time.monotonic(),
            start_directory=self.start_directory,
            limit=self.children.limit,
            claim=KeptClaim(str(claim.path), Fd(claim.fd), str(claim.control)) if claim else None,
            inbox=Fd(self.inbox.fd),
            outlet=self.outlet.kept(),
            fleet=snapshot.take(self.fleet),
            store=self.store.kept(),
            sockets=self.sockets.kept(),
            plans=self.plans.kept(),
            guard=self.guard.kept(),
            crew=self.crew.kept(),
            control=self.control.kept() if self.control else None,
            ledger=self.ledger.kept(),
            events=self.events.kept(),
            lines=self.lines.kept(),
            promises=self.promises.kept(),
            errands=self.errands.kept(),
            updates=self.updates.kept(),
            strangers=sorted(self.director.strangers),
            bound=self.crew.adoption.kept(),
            upgrade=self.upgrade.kept(),
        )

    def resume(self, kept: Snapshot) -> None:
        """Take up the rest of what an earlier image has kept.

        Nobody hears of it, and nothing outside changes: it may be a rehearsal.
        """
        self.plans.resume(kept.plans)
        self.inhabit(kept.claim.claim() if kept.claim else None, kept)
        workers = self.fleet.roster.workers()
        starting = {worker.id for worker in workers if worker.state is WorkerState.STARTING}
        self.crew.adoption.resume(kept.bound, self.plans.recipe_for)
        self.crew.resume(kept.crew, self.plans.recipe_for, starting)
        self.ledger.resume(kept.ledger)
        self.errands.resume(kept.errands)
        self.director.strangers |= set(kept.strangers)
        self.events.resume(kept.events, self._request)
        self.lines.resume(kept.lines, self._request)
        self.promises.resume(kept.promises, self._request)
        self.updates.resume(kept.updates, self.guard, self._request)

    def go_on(self, kept: Snapshot) -> None:
        """Go on where the earlier image has stopped: this is no rehearsal."""
        self.outlet.resume(kept.outlet)
        self.upgrade.performed(kept, self._request)
        self._watch_again()

    def adopt(self, kept: Snapshot) -> None:
        """Go on where another master has died."""
        workers = [str(worker) for worker in self.crew.members]
        self.log.info("workers-adopted", version=kept.version, workers=workers)
        for member in self.crew.members.values():
            if self.guard:
                self.guard.worker(member.process.pid)
        self._end_unknown(kept.pid)
        self.updates.begin_anew()
        self.systemd.say_ready()
        self._watch_again()

    def _end_unknown(self, master: int) -> None:
        """Kill what a dead master had started and had no time left to leave to anybody."""
        processes = [member.process for member in self.crew.members.values()]
        known = set(procfs.tree(process.pid for process in processes))
        its = [
            pid for pid in procfs.pids() if procfs.has_variable(pid, "OVERSEER_PID", str(master))
        ]
        for pid in set(its) - known:
            if not any(process.owns(pid) for process in processes):
                kill_all(procfs.tree([pid]))

    def _watch_again(self) -> None:
        now = time.monotonic()
        for worker in self.fleet.roster.workers():
            if worker.state is WorkerState.QUIETING:
                self.retirement.begin(worker.id, now)
        candidate = self.fleet.roster.candidate
        if candidate and candidate.tried_until is not None:
            self.crew.attend(candidate.number, now)
        self.crew.go_on()
        self.children.reap()  # who has ended meanwhile: signals are counted only once

    def close(self) -> None:
        """Leave nothing behind: no process, no socket, no line of the log unwritten."""
        if self.guard:
            self.guard.dismiss()
        self.children.kill_everything()
        if self.control:
            self.control.close()
        self.sockets.close()
        self.outlet.finish(_LAST_WORDS)
        first = self.errands, self.outlet, self.inbox
        for owner in (*first, self._manager, self.signals, self.loop):
            owner.close()

    # -- what parts ask of each other ------------------------------------------------------

    def _output(self, worker: WorkerId, settings: Settings, kept: KeptOutput | None) -> Output:
        return Output(worker, settings, self._outflow, kept)

    def _hint(self, worker: WorkerId) -> str:
        return self.retirement.hint(worker) or self.crew.hint(worker)

    def _request(self, kept: KeptRequest) -> Request:
        assert self.control, f"{kept}: a request without a control socket"
        return self.control.request(kept)
