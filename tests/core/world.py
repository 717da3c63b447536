"""A fake world for a fleet: processes that do as they like, and an eye on every promise.

The world performs what the fleet orders, remembers which processes really exist, and checks
after every event what the head of ``overseer_py/core/fleet.py`` says (the numbers of the
checks are the numbers there).  It keeps its own books: nothing is checked by asking the code
that is being checked, wherever that can be helped.
"""

from __future__ import annotations

from collections import Counter

from overseer_py.core.generation import Generation, Role
from overseer_py.core.messages import (
    Action,
    CutOver,
    Divert,
    Drain,
    Kill,
    Park,
    Quit,
    Report,
    Retire,
    Spawn,
    WorkerId,
)
from overseer_py.core.worker import WorkerState
from tests.core.process import Process
from tests.core.traffic import Traffic
from tests.core.transcript import BoundedFleet, read, write

MOST_STEPS = 500  # until a world in which all goes well has come to rest
MOST_GENERATIONS = 4


class World:
    """Everything outside of one fleet."""

    def __init__(self, *, always_exclusive: bool = False) -> None:
        """``always_exclusive``: check that no two generations ever have a process."""
        self.now = 0.0
        self.processes: dict[WorkerId, Process] = {}
        self.past: list[WorkerId] = []
        self.quits = 0
        self.crowded_out: set[int] = set()
        self.traffic = Traffic(self.processes)
        self.draws = 0
        self.fleet = BoundedFleet(self._draw)
        self._always_exclusive = always_exclusive
        self._lines: list[str] = []
        self._promised: str | None = None  # the rollout that was queued and has to come
        self._committed: dict[int, float] = {}  # when
        self._tried: dict[int, Generation] = {}  # those that have been committed
        self._condemned: set[int] = set()  # generations that failed their probation
        self._launched: set[WorkerId] = set()
        self._roles: dict[int, Role] = {}  # before the event
        self._proven: dict[int, int] = {}  # before the event
        self._served: set[WorkerId] = set()  # before the event: who had the users

    # -- what happens ------------------------------------------------------------------------

    def happens(self, what: str) -> list[Action]:
        """Tell the fleet, perform its orders, check its promises."""
        generations = self.fleet.roster.generations
        self._roles = {number: g.role for number, g in generations.items()}
        self._proven = {number: g.proven for number, g in generations.items()}
        self._served = self.serving()
        self._lines.append(f"{self.now:<8g}{what}")
        actions = self.fleet.handle(read(what), self.now)
        self._lines += [f"{'':12}{write(action)}" for action in actions]
        dismissed = [worker for action in actions if (worker := self._perform(action))]
        self._check_generations()
        self._check_books(actions)
        roster = self.fleet.roster
        self.traffic.check_live(roster.current, roster.candidate, dismissed)
        if what == "time passes":
            self._check_time()
        self._check_dismissed(dismissed)
        return actions

    def serving(self) -> set[WorkerId]:
        """Return who serves all users: the shares of a canary do not count."""
        here, goes_to = self.processes.items(), self.traffic.is_live
        return {worker for worker, p in here if p.serves and goes_to(worker.generation)}

    def becomes_ready(self, worker: WorkerId) -> None:
        """Let the process serve from now on."""
        self.processes[worker].ready_at = self.now
        self.happens(f"ready {worker}")

    def becomes_quiet(self, worker: WorkerId) -> None:
        """Let the process have nothing left to do; then it is asked to exit."""
        self.processes[worker].quiet = True
        actions = self.happens(f"quiet {worker}")
        assert Drain(worker) in actions, f"{worker} is quiet for nothing"

    def becomes_unhealthy(self, worker: WorkerId) -> None:
        """Let the process serve badly: a failure in a canary, else nobody's affair."""
        self.happens("time passes")  # so that all that is due has been done
        tried = self.traffic.share == worker.generation and self.processes[worker].serves
        if not tried:
            self.late_news(f"unhealthy {worker}")
            return
        self.happens(f"unhealthy {worker}")
        assert not self.traffic.reaches(worker.generation), f"{worker} still has users"

    def exits(self, worker: WorkerId, status: int) -> None:
        """Let the process end, for whatever reason."""
        del self.processes[worker]
        self.past.append(worker)
        self.happens(f"exited {worker} {status}")

    def late_news(self, what: str) -> None:
        """5. Late news of a past worker, or of a past state, changes nothing."""
        self.happens("time passes")  # so that all that is due has been done
        before = repr(self.fleet.roster.generations)
        assert self.happens(what) == [], what
        assert repr(self.fleet.roster.generations) == before, what

    def transcript(self) -> str:
        """Return all that happened, in the form in which stories are written."""
        return "\n".join(self._lines)

    def _draw(self) -> float:
        self.draws += 1
        return self.draws % 4 / 4

    # -- what the fleet orders -----------------------------------------------------------------

    def _perform(self, action: Action) -> WorkerId | None:
        """Do it; return the worker if it served until now."""
        match action:
            case Spawn(worker):
                self._spawn(worker)
            case CutOver(generation):
                to = self.fleet.roster.generations.get(generation)
                self.traffic.cut_over(generation, self._roles.get(generation), to, self.now)
            case Park():
                self.traffic.park()
            case Divert(generation, percent):
                to = self.fleet.roster.generations[generation]
                self.traffic.divert(to, percent, self.now)
            case Retire() | Drain() | Kill():
                return self._dismiss(action)
            case Report():
                self._note(action)
            case Quit():
                self.quits += 1
                assert self.quits == 1, "7: it quits twice"
                assert not self.processes, "7: it quits before all are gone"
        return None

    def _spawn(self, worker: WorkerId) -> None:
        assert worker not in self._launched, f"{worker} is launched twice"
        assert not self.fleet.leaving, f"{worker} is launched on the way out"
        for other in self.processes:
            assert other[:2] != worker[:2], f"{worker} in the slot of {other}"
            same = other.generation == worker.generation
            assert same or not self._always_exclusive, f"4: {worker} beside {other}"
        self._launched.add(worker)
        self.processes[worker] = Process()

    def _dismiss(self, action: Retire | Drain | Kill) -> WorkerId | None:
        worker, process = action.worker, self.processes[action.worker]
        served = process.serves
        match action:
            case Retire():
                assert served, f"9: {worker} retires, but it did not serve"
                assert not self.traffic.reaches(worker.generation), f"9: {worker} is never quiet"
                process.retired_at = self.now
            case Drain():
                assert not process.asked, f"{worker} is asked twice"
                home = self.fleet.roster.generations[worker.generation]
                self.traffic.check_drain(worker, home, self.now)
                process.drained = True
            case Kill():
                assert not process.killed, f"{worker} is killed twice"
                process.killed = True
        return worker if served else None

    def _note(self, report: Report) -> None:
        """Keep the books of promised rollouts, crowded-out generations, sockets and probations."""
        if report.name in {"service-starting", "rollout-started"}:
            assert report.generation
            current = self.fleet.roster.current
            rescues = bool(current and current.number in self._condemned)
            begun = self.fleet.roster.generations[report.generation]
            self.traffic.begin(begun, rescues=rescues)
        match report.name:
            case "rollout-queued":
                assert self._promised is None
                self._promised = str(report.facts["reason"])
            case "rollout-superseded":
                assert self._promised == report.facts["reason"]
                self._promised = str(report.facts["by"])
            case "rollout-started":
                assert self._promised in (None, report.facts["reason"])
                self._promised = None
            case "stopping" | "gave-up" | "service-exited":
                self._promised = None
            case "generation-crowded-out":
                assert report.generation
                self.crowded_out.add(report.generation)
            case "rollout-committed":
                assert report.generation
                self._committed[report.generation] = self.now
                # By the time that it fails its probation another one may have replaced it.
                self._tried[report.generation] = self.fleet.roster.generations[report.generation]
            case "probation-failed":
                self._condemn(report.generation)
        if report.name in {"gave-up", "service-exited"}:
            assert report.generation not in self._condemned, "10: it is about to be replaced"

    def _condemn(self, number: int | None) -> None:
        """10. A generation fails its probation at most once, and only within it."""
        assert number
        assert number not in self._condemned, f"10: {number} fails twice"
        generation = self._tried[number]
        assert generation.reversible, f"10: {number} cannot be taken back"
        assert self.now < self._committed[number] + generation.policy.probation, "10: too late"
        self._condemned.add(number)

    # -- what must hold --------------------------------------------------------------------------

    def _check_generations(self) -> None:
        generations = self.fleet.roster.generations.values()
        roles = Counter(generation.role for generation in generations)
        assert roles[Role.CANDIDATE] <= 1, "1: two candidates"
        expected = bool(self._launched) and not self.fleet.leaving
        assert roles[Role.CURRENT] == expected, "1: none or two current generations"
        living = [g for g in generations if g.role is not Role.RETIRING or self._unkilled(g)]
        assert len(living) <= MOST_GENERATIONS, "a fifth generation"
        for generation in generations:
            self._check_settled(generation)

    def _unkilled(self, generation: Generation) -> bool:
        return any(w.state is not WorkerState.KILLED for w in generation.workers.values())

    def _check_settled(self, generation: Generation) -> None:
        """3. Nothing is proven that was not ready, all of it, for the settle time."""
        if self._roles.get(generation.number) is not Role.CANDIDATE:
            return
        if generation.proven <= self._proven[generation.number]:
            return
        for slot in range(generation.proven):
            worker = generation.workers[slot].id
            ready_at = self.processes[worker].ready_at
            assert ready_at is not None, f"3: {worker} is not ready"
            assert self.now >= ready_at + generation.policy.settle, f"3: {worker} is not settled"

    def _check_books(self, actions: list[Action]) -> None:
        known = {worker.id for worker in self.fleet.roster.workers() if worker.alive}
        assert known == self.processes.keys(), "the fleet's workers are not the world's"
        if self.quits:
            assert self.fleet.next_deadline() is None
            assert not [a for a in actions if not isinstance(a, (Park, Report, Quit))]

    def _check_time(self) -> None:
        """6, 9. Nothing that is due has been left."""
        deadline = self.fleet.next_deadline()
        assert deadline is None or deadline > self.now, f"6: in the past, {deadline}"
        for worker, process in self.processes.items():
            patience = self.fleet.roster.generations[worker.generation].policy.quiet_timeout
            overdue = process.finishes and process.may_drain(self.now, patience)
            assert not overdue, f"9: {worker} stays"

    def _check_dismissed(self, dismissed: list[WorkerId]) -> None:
        """2, 3. Whoever served and must go has a successor that serves and has settled."""
        roster = self.fleet.roster
        current, candidate = roster.current, roster.candidate
        for worker in dismissed:
            if worker not in self._served:
                continue  # nobody misses it: all that is new goes elsewhere
            home = roster.generations[worker.generation]
            parties = [g for g in (home, current, candidate) if g]
            if self.fleet.leaving or any(g.policy.exclusive for g in parties):
                continue
            if current and worker.slot >= current.size:
                continue  # scaled down, or a smaller generation was committed
            if worker.generation in self.crowded_out:
                continue
            successors = [w for w in self.serving() if w.slot == worker.slot]
            assert any(self._may_succeed(w) for w in successors), f"2: {worker} has no successor"

    def _may_succeed(self, worker: WorkerId) -> bool:
        """Whether the worker was the slot's own already, or has just proven itself."""
        if self._roles.get(worker.generation) is not Role.CANDIDATE:
            return True
        settle = self.fleet.roster.generations[worker.generation].policy.settle
        return self.processes[worker].settled(self.now, settle)

    # -- how it ends -------------------------------------------------------------------------

    def rests(self) -> None:
        """Let everything go well from now on, until nothing is left to happen."""
        for _ in range(MOST_STEPS):
            if not self._goes_well():
                return
        message = "it never comes to rest"
        raise AssertionError(message)

    def check_rest(self) -> None:
        """Every rollout has ended, and the service is whole again."""
        assert self._promised is None, f"the rollout {self._promised} never came"
        if self.quits or not self._launched:
            return
        (generation,) = self.fleet.roster.generations.values()
        assert generation.role is Role.CURRENT
        assert sorted(worker.slot for worker in self.processes) == list(range(generation.size))
        assert all(process.serves for process in self.processes.values())

    def check_end(self) -> None:
        """7. Once a stop is asked for, every history ends with exactly one Quit."""
        assert self.quits == 1
        assert not self.processes
        assert not self.fleet.roster.generations
        assert self.fleet.next_deadline() is None

    def _goes_well(self) -> bool:
        """Do the next good thing; tell whether there was one."""
        for worker, process in self.processes.items():
            # Some do not hear the drain: they must be killed.
            if process.killed or (process.drained and worker.launch % 3):
                self.exits(worker, 0)
                return True
            if process.ready_at is None and not process.drained:
                self.becomes_ready(worker)
                return True
            # Some have clients that do not leave.
            if process.finishes and worker.generation % 3:
                self.becomes_quiet(worker)
                return True
        deadline = self.fleet.next_deadline()
        if deadline is None:
            return False
        self.now = max(self.now, deadline)
        self.happens("time passes")
        return True
