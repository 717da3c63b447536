"""The processes behind the fleet's workers: started, watched until ready, told, forgotten.

The fleet knows a worker by its identity alone; what belongs to it on this machine is here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import replace
from functools import partial

from overseer_py import advice, dialects
from overseer_py.adoption import Adoption
from overseer_py.core.messages import (
    BecameReady,
    BecameUnhealthy,
    Event,
    Exited,
    Extended,
    WorkerId,
)
from overseer_py.listening import Listening, own_rule
from overseer_py.logs import Log
from overseer_py.member import KeptCrew, KeptMember, Member
from overseer_py.output import KeptOutput, Output
from overseer_py.readiness import ABOUT_LISTENERS, rule_for
from overseer_py.recipe import Recipe, mark
from overseer_py.settings import Settings
from overseer_py.system import procfs
from overseer_py.system.guard import Guard
from overseer_py.system.launch import Launch
from overseer_py.system.loop import IN, Loop
from overseer_py.system.notify import Message, microseconds
from overseer_py.system.process import Children, Process
from overseer_py.trials import Surroundings, Trial
from overseer_py.watches import KeptRule, Rule
from overseer_py.words import Words

OpenOutput = Callable[[WorkerId, Settings, KeptOutput | None], Output]

_REST = 20.0  # a look of 50 ms is followed by a second without one
_QUIET = 10.0  # seconds between two lines about strangers


class Crew:
    """All members, by worker."""

    def __init__(
        self,
        loop: Loop,
        children: Children,
        open_output: OpenOutput,
        log: Log,
        post: Callable[[Event], None],
    ) -> None:
        self.members: dict[WorkerId, Member] = {}
        # Of those that have ended: generation and slot, and the last one there.
        self.last_words: dict[tuple[int, int], tuple[WorkerId, list[str]]] = {}
        self._loop = loop
        self._children = children
        self._open_output = open_output
        self._log = log
        self._post = post
        self.adoption = Adoption(loop, log)
        self._notify_address = ""
        self._guard: Guard | None = None
        self._strangers = 0  # messages of processes that are no worker's, since the last line
        self._quiet_until = 0.0

    def watch_over(self, guard: Guard, notify_address: str) -> None:
        """Say who must know of each worker, and where workers are heard."""
        self._guard, self._notify_address = guard, notify_address

    def kept(self) -> KeptCrew:
        """Return what the master's next image must know: tries are begun anew by it."""
        members = [member.kept() for member in self.members.values()]
        return KeptCrew(members, list(self.last_words.values()))

    def resume(
        self, kept: KeptCrew, recipe_for: Callable[[int], Recipe], starting: Container[WorkerId]
    ) -> None:
        """Take up the workers of an earlier image; those that are starting are watched."""
        self.last_words = {worker[:2]: (worker, lines) for worker, lines in kept.last_words}
        for each in kept.members:
            recipe = recipe_for(each.worker.generation)
            self._take_up(each, recipe, watched=each.worker in starting)

    def _take_up(self, kept: KeptMember, recipe: Recipe, *, watched: bool) -> None:
        worker, now = kept.worker, time.monotonic()
        process = self._children.take_up(kept.process, self._on_exit(worker))
        if process.foreign and process.ended is None:
            self._loop.watch(process.pidfd, IN, lambda _: self._bury(process))
        output = self._open_output(worker, recipe.plan.settings, kept.output)
        launch = self._launch(worker, recipe, output)
        rule = self._rule(worker, recipe, launch, kept.rule)
        words = Words.resumed(kept.words, self._loop, self._on_word(worker))
        self.members[worker] = member = Member(worker, recipe, process, rule, words, output)
        member.started, member.ready = kept.started, kept.ready
        member.status, member.stopping = kept.status, kept.stopping
        if watched:
            member.rule = rule.go_on(process, now, kept.rule)
        else:
            rule.stop()
            member.rule = own_rule(rule)

    def go_on(self) -> None:
        """Wait on for what workers of another master have left behind."""
        for member in list(self.members.values()):
            if member.process.foreign and member.process.ended:
                self._bury(member.process)

    def _bury(self, process: Process) -> None:
        self._loop.forget(process.pidfd)
        if (stray := self._children.bury(process)) >= 0:

            def go_on(_: int) -> None:
                self._loop.forget(stray)
                os.close(stray)
                self._bury(process)

            self._loop.watch(stray, IN, go_on)

    # -- what the fleet orders ---------------------------------------------------------------

    def start(self, worker: WorkerId, recipe: Recipe, now: float) -> int:
        """Start a worker and return its pid; raise LaunchError, with nothing left of it."""
        recipe.resolved.require_paths()
        settings = recipe.plan.settings
        rule: Rule | None = None
        words: Words | None = None
        output: Output | None = None
        try:
            output = self._open_output(worker, settings, None)
            launch = self._launch(worker, recipe, output)
            rule = self._rule(worker, recipe, launch)
            launch = rule.fit(launch)
            words = Words(settings.inherit, self._loop, self._on_word(worker))
            launch = self.adoption.fit(worker, recipe, words.fit(launch))
            process = self._children.spawn(launch, mark(worker), self._on_exit(worker))
        except Exception:  # whatever it was, its descriptors are given back
            self.adoption.give_up(worker)
            if words:
                words.stop()
            if rule:
                rule.stop()
            if output:
                output.abandon()
            raise
        words.begin()
        self.adoption.begin(worker)
        output.handed_over()
        output.pid = process.pid
        if self._guard:
            self._guard.worker(process.pid)
        self.members[worker] = Member(worker, recipe, process, rule, words, output)
        rule.begin(process, now)
        return process.pid

    def has(self, generation: int) -> bool:
        """Whether a generation has any process."""
        return any(worker.generation == generation for worker in self.members)

    def attend(self, generation: int, now: float) -> None:
        """Go on to ask the workers of a generation for their health, where their rule can."""
        for worker, member in self.members.items():
            rule = member.rule
            if worker.generation == generation and isinstance(rule, Trial) and rule.attends:
                rule.attend(member.process, now, self._on_unhealthy(worker))

    def at_ease(self, generation: int) -> None:
        """Ask no more: the generation has been tried long enough."""
        for worker, member in self.members.items():
            if worker.generation == generation and isinstance(member.rule, Trial):
                member.rule.stop()

    def retire(self, worker: WorkerId) -> None:
        """Let the worker finish what it has; a stopped one is continued, or it never would."""
        if member := self.members.get(worker):
            member.rule.stop()
            member.process.wake()

    def drain(self, worker: WorkerId) -> None:
        """Send the drain signal."""
        if member := self.members.get(worker):  # none if it could not be started
            member.rule.stop()
            member.words.stop()  # before it is asked: stand_in.py relies on it
            member.process.drain(member.recipe.plan.settings.drains_at)

    def kill(self, worker: WorkerId) -> None:
        """SIGKILL the worker and all that is its."""
        if member := self.members.get(worker):
            member.rule.stop()
            member.words.stop()
            self._children.kill(member.process)

    # -- what the master hears ------------------------------------------------------------------

    def next_look(self) -> float | None:
        """Return when a readiness rule wants to look; at once if captured lines wait."""
        if any(member.output.behind for member in self.members.values()):
            return 0.0
        due = (member.rule.next_look for member in self.members.values())
        return min((at for at in due if at is not None), default=None)

    def look(self, now: float) -> None:
        """Let the rules look whose time has come, and captured lines go on."""
        for member in list(self.members.values()):
            rule = member.rule
            member.output.go_on()
            if rule.next_look is not None and rule.next_look <= now:
                begun = time.monotonic()
                rule.look(now)
                if rule.next_look is not None:  # a worker with a thousand children costs more
                    cost = time.monotonic() - begun
                    rule.next_look = max(rule.next_look, begun + _REST * cost)

    def hear(self, message: Message) -> WorkerId | None:
        """Take a message on NOTIFY_SOCKET from a process of a worker's group, from nobody else.

        Returns whose it was.
        """
        process = self._children.by_group(message.pid)
        found = [m for m in self.members.values() if process and m.process is process]
        if not found:
            self._ignore(message.pid)
            return None
        (member,) = found
        fields = message.fields
        if (status := fields.get("STATUS")) is not None:
            member.status = status[:200]
            self._log.debug("worker-status", worker=str(member.worker), status=member.status)
        if seconds := microseconds(fields.get("EXTEND_TIMEOUT_USEC", "")):
            self._post(Extended(member.worker, seconds))
        if fields.get("STOPPING") == "1" and not member.stopping:
            member.stopping = True
            self._log.info("worker-stopping", worker=str(member.worker))
        member.rule.hear(fields)
        return member.worker

    def _ignore(self, pid: int) -> None:
        """Say that a stranger was not heard; not each time: anybody may write there."""
        self._strangers += 1
        now = time.monotonic()
        if now >= self._quiet_until:
            facts = {"pid": pid, "reason": "not of a worker's group", "messages": self._strangers}
            self._log.warning("notify-ignored", **facts)
            self._strangers, self._quiet_until = 0, now + _QUIET

    def forward(self, workers: Iterable[WorkerId], number: int) -> None:
        """Send a signal to these workers."""
        for worker in workers:
            if member := self.members.get(worker):
                member.process.send(number)

    def last_lines(self, worker: WorkerId) -> list[str]:
        """Return the last lines that a worker wrote to stderr, also of one that has ended."""
        if member := self.members.get(worker):
            return member.output.last_lines()
        last, lines = self.last_words.get(worker[:2], (None, []))
        return lines if last == worker else []

    def hint(self, worker: WorkerId) -> str:
        """Return what a worker lacks to be ready, as far as its rule can tell."""
        member = self.members.get(worker)
        return member.rule.hint if member else ""

    def forget(self, generation: int) -> None:
        """Drop what was kept of the workers of a generation that is gone."""
        self.adoption.gone(generation)
        for key in [key for key in self.last_words if key[0] == generation]:
            del self.last_words[key]

    # -- how one is put together ------------------------------------------------------------------

    def _launch(self, worker: WorkerId, recipe: Recipe, output: Output) -> Launch:
        launch = recipe.launch(worker, {"NOTIFY_SOCKET": self._notify_address})
        return replace(launch, stdout=output.stdout, stderr=output.stderr)

    def _rule(
        self, worker: WorkerId, recipe: Recipe, launch: Launch, kept: KeptRule | None = None
    ) -> Rule:
        """Return the rule by which the worker is ready."""

        def ready() -> None:
            member = self.members[worker]
            member.rule.stop()
            member.rule = own_rule(member.rule)
            member.ready = time.time()
            self._post(BecameReady(worker))

        def say(why: str) -> None:
            self._log.info("worker-not-ready-yet", worker=str(worker), reason=why)

        settings = recipe.plan.settings
        around = Surroundings(self._loop, self._children, recipe.seats, launch, say)
        tells = dialects.says_ready(settings.inherit) and not settings.adopt
        pipe = kept.pipe if kept else None
        make = partial(rule_for, settings.ready, around=around, tells=tells, pipe=pipe)
        return self._listening(worker, settings, ready, make) if settings.adopt else make(ready)

    def _listening(
        self,
        worker: WorkerId,
        settings: Settings,
        ready: Callable[[], None],
        make: Callable[[Callable[[], None]], Rule],
    ) -> Rule:
        """Return the rule for a worker that binds for itself."""
        rule = Listening(ready, partial(self.adoption.missing, worker))
        if settings.ready.kind in ABOUT_LISTENERS:
            rule.then(partial(make, rule.own_rule_is_met))
        else:
            rule.beside(make(rule.own_rule_is_met))
        return rule

    def heard_listen(self, worker: WorkerId) -> None:
        """Take into account that a worker listens where it has bound for itself."""
        if (member := self.members.get(worker)) and isinstance(member.rule, Listening):
            member.rule.listened()

    def _on_word(self, worker: WorkerId) -> Callable[[], None]:
        def on_word() -> None:
            member = self.members[worker]
            member.rule = member.rule.told(member.process, time.monotonic())

        return on_word

    def _on_unhealthy(self, worker: WorkerId) -> Callable[[str], None]:
        return lambda how: self._post(BecameUnhealthy(worker, how))

    def _on_exit(self, worker: WorkerId) -> Callable[[str, int], None]:
        def on_exit(how: str, status: int) -> None:
            member = self.members.pop(worker)
            if self._guard:
                self._guard.gone(member.process.pid)
            member.rule.stop()
            member.words.stop()
            lines = member.output.ended()
            self.last_words[worker[:2]] = worker, lines
            if status:
                others = procfs.tree(other.process.pid for other in self.members.values())
                how += advice.about(lines, member.recipe.inherited, others)
            self._post(Exited(worker, how, status))

        return on_exit
