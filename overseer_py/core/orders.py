"""The small verbs: change one worker, and note the action that makes it true."""

from __future__ import annotations

from overseer_py.core.generation import Generation
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
from overseer_py.core.roster import Roster
from overseer_py.core.worker import Worker, WorkerState

S = WorkerState


class Orders:
    """The actions decided since they were last taken, in order."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._actions: list[Action] = []

    def take(self) -> list[Action]:
        """Return what has to be done and start afresh."""
        actions, self._actions = self._actions, []
        return actions

    def spawn(
        self, generation: Generation, slot: int, now: float, after: Worker | None = None
    ) -> None:
        """Launch a process in the slot; ``after`` is the crashed worker it replaces, if any."""
        worker = Worker(generation.launch(slot), now + generation.policy.ready_timeout)
        if after:
            worker.crashes, worker.waits = after.crashes, after.waits
        generation.workers[slot] = worker
        self._actions.append(Spawn(worker.id))

    def cut_over(self, generation: Generation) -> None:
        """Let all that is new go to this generation and who shares with it, and to no other."""
        for other in self._roster.generations.values():
            other.cut_off = other.sockets != generation.sockets
        self._actions.append(CutOver(generation.number))

    def park(self) -> None:
        """Let nothing new go to anybody any more."""
        for generation in self._roster.generations.values():
            generation.cut_off = True
        self._actions.append(Park(self._roster.served))  # now: later nobody is current

    def divert(self, candidate: Generation, percent: int) -> None:
        """Let a share of what is new go to the candidate."""
        self._actions.append(Divert(candidate.number, percent))

    def let_go(self, worker: Worker, now: float) -> None:
        """End a ready worker's service: once it is quiet if nothing new comes to it, else now."""
        home = self._roster.home(worker)
        if not home.cut_off or not home.policy.quiet_timeout:
            self.drain(worker, now)
            return
        worker.become(S.QUIETING, now + home.policy.quiet_timeout)
        self.report("worker-quieting", worker.id)
        self._actions.append(Retire(worker.id))

    def drain(self, worker: Worker, now: float) -> None:
        """Ask the worker to finish; its drain time-out begins."""
        worker.become(S.DRAINING, now + self._roster.home(worker).policy.drain_timeout)
        self.report("worker-draining", worker.id)
        self._actions.append(Drain(worker.id))

    def kill(self, worker: Worker) -> None:
        """End the worker now, if it has a process that is not killed yet."""
        if worker.state in (S.STARTING, S.READY, S.QUIETING, S.DRAINING):
            worker.become(S.KILLED)
            self._actions.append(Kill(worker.id))

    def report(
        self, name: str, about: WorkerId | Generation | None = None, /, **facts: object
    ) -> None:
        """Note a fact for the observers."""
        worker = about if isinstance(about, WorkerId) else None
        generation = about.number if isinstance(about, Generation) else worker and worker.generation
        self._actions.append(Report(name, generation, worker, facts))

    def quit(self, status: int) -> None:
        """Note that the master has nothing left to do."""
        self._actions.append(Quit(status))
