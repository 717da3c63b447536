"""Every worker of every generation, and the only code that decides what becomes of them.

What holds after every event, whatever the history (tests/core/test_histories.py searches):

1. There is at most one candidate and at most one current generation.
2. Outside ``exclusive`` a rollout never leaves fewer ready workers than it found.
3. No worker is drained before its replacement is ready and settled.
4. ``exclusive``: no two generations have a process at the same time.
5. Late news of a past worker changes nothing.
6. ``TimePassed`` leaves no deadline in the past.
7. Once a stop is asked for, every history ends with exactly one ``Quit``.
8. Outside ``exclusive`` a steered candidate gets all that is new only when every worker of it is
   ready and settled, and a share of it (canary) no earlier.
9. No worker that was steered away from is drained before it is quiet, or its quiet time-out is
   over.
10. A generation that can be taken back never ends the service by its crashes in its probation.

``handle`` takes one event and the time, and returns the actions that follow.  Two kinds of
rule do it, as in h11's connection state: event rules (``_on_*``) say what an event does to
the one worker it names; joint rules (``_advance``) look at the fleet as a whole, until
nothing more changes.

Who owns a slot explains most of it, and that is the roster's question: a worker that its
slot does not want is drained as soon as the owner's worker there is ready.
"""

from __future__ import annotations

from collections.abc import Callable

from overseer_py.core.generation import Generation, Role
from overseer_py.core.messages import (
    Action,
    BecameQuiet,
    BecameReady,
    BecameUnhealthy,
    Event,
    Exited,
    Extended,
    RolloutRequested,
    ScaleRequested,
    StopRequested,
    TimePassed,
    WorkerId,
)
from overseer_py.core.orders import Orders
from overseer_py.core.policy import OnExit
from overseer_py.core.rollout import Rollouts
from overseer_py.core.roster import Roster
from overseer_py.core.worker import Worker, WorkerState

S = WorkerState
GAVE_UP = 5  # exit status


class Fleet:
    """The state of one service.  It has one owner, the supervisor."""

    def __init__(self, draw: Callable[[], float]) -> None:
        """``draw`` gives random numbers in [0, 1) for the jitter of the backoff."""
        self.roster = Roster()
        self.ever_ready = False  # whether the service has served since the master started
        self.leaving = False  # nothing is wanted any more
        self.done = False  # Quit was given
        self._draw = draw
        self.stop_at: float | None = None  # a stop was asked for; the drain begins then
        self.status = 0  # with which the master will end
        self._orders = Orders(self.roster)
        self.rollouts = Rollouts(self.roster, self._orders)

    # -- the whole interface -------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event into account; return what has to be done, in order."""
        self._leave_when_due(now)  # first: from that moment on nothing is started any more
        self._hear(event, now)
        while self._advance(now):
            pass
        return self._orders.take()

    def next_deadline(self) -> float | None:
        """Return when to send ``TimePassed`` if nothing else happens first."""
        due = [worker.deadline for worker in self.roster.workers()]
        due += [generation.proven_at for generation in self.roster.generations.values()]
        due += [None if self.leaving else self.stop_at]
        return min((at for at in due if at is not None), default=None)

    @property
    def stopping(self) -> bool:
        """Whether the service is on its way out, by request or because it gave up."""
        return self.leaving or self.stop_at is not None

    @property
    def rolling(self) -> bool:
        """Whether a rollout runs, or waits to."""
        return bool(self.roster.candidate or self.rollouts.pending)

    # -- event rules: one thing at a time --------------------------------------------------

    def _hear(self, event: Event, now: float) -> None:
        match event:
            case RolloutRequested():
                self._on_rollout_requested(event, now)
            case ScaleRequested(size):
                self._on_scale_requested(size)
            case StopRequested(drain):
                self._on_stop_requested(drain, now)
            case BecameReady(worker):
                self._on_ready(worker, now)
            case BecameQuiet(worker):
                self._on_quiet(worker, now)
            case BecameUnhealthy(worker, how):
                self._on_unhealthy(worker, how)
            case Extended(worker, seconds):
                self._on_extended(worker, now + seconds)
            case Exited():
                self._on_exited(event, now)
            case TimePassed():  # and only then: news that came in time may still be waiting
                self._expire_deadlines(now)

    def _on_rollout_requested(self, request: RolloutRequested, now: float) -> None:
        if self.stopping:
            self._orders.report("rollout-refused", reason="the service is stopping")
        else:
            self.rollouts.ask(request, now)

    def _on_scale_requested(self, size: int) -> None:
        size = max(1, size)
        for generation in (self.roster.current, self.roster.candidate):
            if generation:
                generation.size = size
        self.rollouts.scale(size)
        self._orders.report("scaled", workers=size)

    def _on_stop_requested(self, drain: bool, now: float) -> None:
        hurry = not drain or self.stop_at is not None
        current = self.roster.current
        delay = current.policy.stop_delay if current and not hurry else 0.0
        self.stop_at = now + delay
        self._orders.report("stopping", drain=not hurry, delay=delay)
        self.rollouts.cancel("the service is stopping")
        self._leave_when_due(now)
        if hurry:
            for worker in self.roster.workers():
                self._orders.kill(worker)

    def _on_ready(self, worker_id: WorkerId, now: float) -> None:
        worker = self.roster.find(worker_id)
        if worker and worker.state is S.STARTING:
            forgiven_at = now + self.roster.home(worker).policy.backoff_limit
            worker.become(S.READY, forgiven_at if worker.crashes else None)
            self._orders.report("worker-ready", worker_id)

    def _on_quiet(self, worker_id: WorkerId, now: float) -> None:
        worker = self.roster.find(worker_id)
        if worker and worker.state is S.QUIETING:
            self._orders.drain(worker, now)

    def _on_unhealthy(self, worker_id: WorkerId, how: str) -> None:
        """End the canary of a candidate: that is what it is tried for."""
        worker = self.roster.find(worker_id)
        if worker is None or worker.state is not S.READY:  # it is on its way out, or not yet in
            return
        generation = self.roster.home(worker)
        if generation.tried_until is not None:
            self.rollouts.fail(generation, f"worker {worker_id} {how}", worker_id)

    def _on_extended(self, worker_id: WorkerId, until: float) -> None:
        worker = self.roster.find(worker_id)
        if worker and worker.deadline and worker.state in (S.STARTING, S.DRAINING):
            worker.deadline = max(worker.deadline, until)

    def _on_exited(self, event: Exited, now: float) -> None:
        worker = self.roster.find(event.worker)
        if worker is None or not worker.alive:
            return
        generation, slot = self.roster.home(worker), worker.id.slot
        unasked = worker.late or worker.state in (S.STARTING, S.READY)
        crashed = unasked and self.roster.wanted(generation, slot)
        facts = {"how": event.how, "status": event.status, "expected": not crashed}
        self._orders.report("worker-exited", worker.id, **facts)
        if crashed and generation.role is Role.CURRENT:
            self._on_crash(generation, worker, event, now)
            return
        del generation.workers[slot]
        if crashed:
            when = "committed" if worker.state is S.READY else "ready"
            reason = f"worker {worker.id} {event.how} before it was {when}"
            self.rollouts.fail(generation, reason, worker.id)

    def _on_crash(self, generation: Generation, worker: Worker, event: Exited, now: float) -> None:
        """Decide what becomes of a slot of the current generation whose worker died."""
        policy, was_ready = generation.policy, worker.state is S.READY
        worker.crashes += not worker.late  # a late one was counted when it was killed
        patience = policy.patience(ever_ready=self.ever_ready)
        spent = patience is not None and worker.crashes >= patience
        how = f"worker {worker.id} {event.how}"
        again = f"{how}, crash {worker.crashes} in a row"
        if generation.fails_probation(worker, now):
            generation.condemned = True
            self._orders.report("probation-failed", worker.id, reason=again)
        if generation.condemned:  # what it is replaced by is on its way
            self._back_off(generation, worker, now)
        elif policy.on_exit is OnExit.EXIT:
            del generation.workers[worker.id.slot]
            self._give_up("service-exited", worker.id, event.status, how)
        elif spent and not self.roster.candidate and not self.roster.serves_without(worker):
            del generation.workers[worker.id.slot]
            self._give_up("gave-up", worker.id, GAVE_UP, again)
        elif was_ready and worker.crashes == 1:
            self._orders.spawn(generation, worker.id.slot, now, after=worker)
        else:
            self._back_off(generation, worker, now)

    def _back_off(self, generation: Generation, worker: Worker, now: float) -> None:
        worker.waits += 1
        delay = generation.policy.delay(worker.waits, self._draw())
        worker.become(S.BACKOFF, now + delay)
        facts = {"delay": round(delay, 3), "crashes": worker.crashes}
        self._orders.report("worker-backoff", worker.id, **facts)

    def _expire_deadlines(self, now: float) -> None:
        for worker in list(self.roster.workers()):
            if worker.deadline is not None and worker.deadline <= now:
                self._expire(worker, now)

    def _expire(self, worker: Worker, now: float) -> None:
        match worker.state:
            case S.STARTING:
                self._on_late(worker)
            case S.READY:  # up long enough: forgiven
                worker.crashes, worker.waits, worker.deadline = 0, 0, None
            case S.QUIETING:
                self._orders.report("quiet-timed-out", worker.id)
                self._orders.drain(worker, now)
            case S.DRAINING:
                self._orders.report("drain-timed-out", worker.id)
                self._orders.kill(worker)
            case S.BACKOFF if self.roster.wanted(self.roster.home(worker), worker.id.slot):
                self._orders.spawn(self.roster.home(worker), worker.id.slot, now, after=worker)
            case S.BACKOFF:
                pass  # nobody wants its slot any more: a joint rule forgets it
            case S.KILLED:
                raise AssertionError(f"worker {worker.id}: a killed worker has no deadline")

    def _on_late(self, worker: Worker) -> None:
        """End a worker that was not ready in time; for a candidate that is the end.

        A candidate's workers drain: by a shared listener they may have clients already.
        """
        generation = self.roster.home(worker)
        if generation.role is Role.RETIRING:
            return  # since a moment ago: a joint rule drains it
        how = f"was not ready within {generation.policy.ready_timeout:g} s"
        self._orders.report("worker-late", worker.id, how=how)
        if generation.role is Role.CANDIDATE:
            self.rollouts.fail(generation, f"worker {worker.id} {how}", worker.id)
        else:
            worker.late, worker.crashes = True, worker.crashes + 1
            self._orders.kill(worker)

    # -- joint rules: the fleet as a whole ---------------------------------------------------

    def _advance(self, now: float) -> bool:
        """Apply the first rule that changes something; tell whether there was one."""
        rules = (
            self._begin_pending,
            self.rollouts.judge,
            self._drain_unwanted,
            self._fill_slots,
            self._notice_service,
            self._forget_empty,
            self._quit_when_nothing_is_left,
        )
        return any(rule(now) for rule in rules)

    def _begin_pending(self, now: float) -> bool:
        return not self.stopping and self.rollouts.begin_pending(now)

    def _drain_unwanted(self, now: float) -> bool:
        unwanted = self.roster.unwanted()
        waiting = [w for w in unwanted if w.state is S.BACKOFF]
        for worker in waiting:
            del self.roster.home(worker).workers[worker.id.slot]
        starting = [w for w in unwanted if w.state is S.STARTING]
        ready = [w for w in unwanted if w.state is S.READY and self.roster.dispensable(w)]
        for worker in starting:
            self._orders.drain(worker, now)
        for worker in ready:
            self._orders.let_go(worker, now)
        return bool(waiting or starting or ready)

    def _fill_slots(self, now: float) -> bool:
        vacant = self.roster.vacant()
        for generation, slot in vacant:
            self._orders.spawn(generation, slot, now)
        return bool(vacant)

    def _notice_service(self, now: float) -> bool:
        current = self.roster.current
        if self.ever_ready or current is None:
            return False
        if not all(current.ready_in(slot) for slot in range(current.size)):
            return False
        self.ever_ready = True
        self._orders.report("service-ready", current, took=round(now - current.since, 3))
        return True

    def _forget_empty(self, now: float) -> bool:
        generations = self.roster.generations
        empty = [g for g in generations.values() if g.role is Role.RETIRING and not g.workers]
        for generation in empty:
            del generations[generation.number]
            self._orders.report("generation-gone", generation)
        return bool(empty)

    def _quit_when_nothing_is_left(self, now: float) -> bool:
        if not self.leaving or self.roster.generations or self.done:
            return False
        self.done = True
        self._orders.quit(self.status)
        return True

    # -- the way out ---------------------------------------------------------------------------

    def _leave_when_due(self, now: float) -> None:
        if self.stop_at is not None and now >= self.stop_at and not self.leaving:
            self._leave()

    def _give_up(self, name: str, worker: WorkerId, status: int, reason: str) -> None:
        """Drain what is left and end, with a status that says why."""
        if self.stop_at is None:  # a stop that was asked for keeps its own status
            self.status = status
        self._orders.report(name, worker, status=status, reason=reason)
        self.rollouts.cancel(reason)
        self._leave()

    def _leave(self) -> None:
        self.leaving = True
        current = self.roster.current
        if current and current.policy.parked:
            self._orders.park()
        for generation in self.roster.generations.values():
            generation.retire()
