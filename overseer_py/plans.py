"""What the next generation is to be, and what each present one was started from.

A reload is a transaction: everything is read, checked and bound before anything changes, and a
rollout that fails takes the plan back with it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import count
from typing import Any, TypeVar

from overseer_py import environment
from overseer_py.address import Address
from overseer_py.config import Config, Sources
from overseer_py.errors import LaunchError, ListenerError, OverseerError
from overseer_py.option import AUTO
from overseer_py.readiness import check
from overseer_py.recipe import Plan, Recipe, Resolved, resolve
from overseer_py.settings import Settings
from overseer_py.sockets import Sockets
from overseer_py.system import seccomp
from overseer_py.system.listeners import Listener, Seat

T = TypeVar("T")

FIXED = (
    "name",
    "control",
    "pid_file",
    "log_format",
    "log_level",
    "fdstore",
    "orphans",
)


@dataclass(frozen=True, slots=True)
class Change:
    """What a reread configuration changes."""

    plan: Plan
    keys: tuple[str, ...]  # of variables of the workers: env.NAME
    ignored: tuple[str, ...]  # keys that only a new master can change


@dataclass(frozen=True, slots=True)
class KeptPlan:
    """A plan, for the master's next image; listeners by their numbers."""

    settings: Settings
    listeners: list[int]
    loose: list[Address] = field(default_factory=list)
    learned: list[int] = field(default_factory=list)

    def plan(self, known: Sequence[Listener]) -> Plan:
        """Return it, with these listeners."""
        listeners = [known[number] for number in self.listeners]
        learned = tuple(known[number] for number in self.learned)
        return Plan(self.settings, listeners, self.loose, learned)


@dataclass(frozen=True, slots=True)
class KeptRecipe:
    """A recipe; the seats are with the sockets."""

    plan: int
    resolved: Resolved


@dataclass(frozen=True, slots=True)
class KeptPlans:
    """All plans, and which of them is whose."""

    plans: list[KeptPlan]
    plan: int
    begun: dict[int, int]
    recipes: dict[int, KeptRecipe]
    spoilt: dict[int, str]
    expected: Resolved | None
    release: str
    file: str


def is_to_be_fetched(settings: Settings, directory: str) -> bool:
    """Whether there is nothing to run yet: the service begins with the first release."""
    return bool(settings.fetch) and not os.path.lexists(os.path.join(directory, settings.to))


def _check_adoption(settings: Settings) -> None:
    """Raise ListenerError if a program's own sockets cannot be adopted on this machine."""
    if settings.adopt and (why := seccomp.obstacle()):
        raise ListenerError(f"adopt: {why}; use --listen and hand the program its socket")


class Plans:
    """The plan for the next generation, and the recipe of each present one."""

    def __init__(
        self, sources: Sources, settings: Settings, sockets: Sockets, start_directory: str
    ) -> None:
        self._sources = sources.pinned(start_directory)
        self._sockets = sockets
        self._start_directory = start_directory
        self._recipes: dict[int, Recipe] = {}
        self._begun: dict[int, Plan] = {}
        self._spoilt: dict[int, OverseerError] = {}  # generations that could not be resolved
        self._lost: set[int] = set()  # generations that were said to be
        self._expected: Resolved | None = None  # what the plan came to when it was last looked at
        self.release = ""  # digest of what a new generation is started from, if it was fetched
        self.plan = Plan(settings, [])

    def open(self, config: Config) -> None:
        """Open the listeners and resolve everything once; raise for the first thing wrong."""
        _check_adoption(config.settings)
        self.plan = Plan(config.settings, self._sockets.open(config.addresses), config.loose)
        try:
            if not is_to_be_fetched(config.settings, self._start_directory):
                self._expected = self._resolve(self.plan, []).resolved
        except Exception:  # whatever it was, nothing stays bound
            self._sockets.close()
            raise

    def kept(self) -> KeptPlans:
        """Return what the master's next image must know."""
        recipes = self._recipes.values()
        plans = _once([self.plan, *self._begun.values(), *(recipe.plan for recipe in recipes)])
        known = self._sockets.known()

        def number(plan: Plan) -> int:
            return _place_of(plan, plans)

        return KeptPlans(
            [_written(plan, known) for plan in plans],
            number(self.plan),
            {generation: number(plan) for generation, plan in self._begun.items()},
            {g: KeptRecipe(number(r.plan), r.resolved) for g, r in self._recipes.items()},
            {generation: str(error) for generation, error in self._spoilt.items()},
            self._expected,
            self.release,
            self._sources.file,
        )

    def resume(self, kept: KeptPlans) -> None:
        """Go on with the plans of an earlier image; the sockets are there already."""
        known = self._sockets.known()
        plans = [each.plan(known) for each in kept.plans]
        self.plan, self.release = plans[kept.plan], kept.release
        self._begun = {generation: plans[i] for generation, i in kept.begun.items()}
        self._spoilt = {generation: LaunchError(why) for generation, why in kept.spoilt.items()}
        self._recipes = {
            generation: Recipe(plans[r.plan], self._sockets.seats(generation), r.resolved)
            for generation, r in kept.recipes.items()
        }
        self._expected = kept.expected
        self._sources = replace(self._sources, file=kept.file)

    def begin(self, generation: int, *, sharing: bool = False) -> None:
        """Resolve the present plan for a new generation; what is wrong with it, its recipe says.

        With ``sharing`` it has the sockets of the current one, whatever could be steered.
        Now, and not with its first worker: by ``exclusive`` that may be much later.
        """
        self._begun[generation] = self.plan
        try:
            own = self.plan.steered()
            seats = self._sockets.join(generation, dict.fromkeys(own, False) if sharing else own)
            recipe = self._recipes[generation] = self._resolve(self.plan, seats)
            self._expected = recipe.resolved
        except OverseerError as error:
            self._spoilt[generation] = error

    def recipe_for(self, generation: int) -> Recipe:
        """Return what a generation is started from; raise OverseerError if it has none."""
        if generation in self._spoilt:
            raise LaunchError(f"could not be started: {self._spoilt[generation]}")
        return self._recipes[generation]

    def resolved(self, generation: int) -> Resolved | None:
        """Return what a generation is started with; None if it is unknown."""
        recipe = self._recipes.get(generation)
        return recipe.resolved if recipe else None

    def lost(self, generation: int) -> str:
        """Return why a generation cannot be had again: its release was removed from the disk.

        Said once, and again when a rollout has failed.
        """
        recipe = self._recipes.get(generation)
        gone = recipe.resolved.gone if recipe else ""
        if not gone or generation in self._lost:
            return ""
        self._lost.add(generation)
        return f"{gone} of generation {generation} is gone"

    def reread(self) -> Change:
        """Read the configuration anew; raise OverseerError, and then nothing has changed."""
        config = self._sources.load()
        old, new = self.plan.settings, config.settings
        names = [f.name for f in fields(Settings)]
        changed = [name for name in names if getattr(new, name) != getattr(old, name)]
        kept: dict[str, Any] = {key: getattr(old, key) for key in FIXED}
        _check_adoption(new)
        opened = self._sockets.open(config.addresses)
        plan = Plan(replace(new, **kept), opened, config.loose)
        if not {"adopt", "command"} & set(changed):  # it will bind what it has bound
            for listener in self.plan.learned:
                plan = plan.learning(listener)
        try:
            self._require_access(plan)
            resolved = self._resolve(plan, []).resolved
            if not is_to_be_fetched(plan.settings, self._start_directory):
                resolved.require_program()
        except Exception:  # whatever it was, what was bound for it is closed again
            self.close_unused()
            raise
        before, self._expected = self._expected, resolved
        variables = environment.changes(before.environ if before else {}, resolved.environ)
        self.plan = plan
        keys = [key for key in changed if key not in (*FIXED, "env")]
        keys += [f"env.{name}" for name in variables]
        return Change(plan, tuple(keys), tuple(key for key in changed if key in FIXED))

    def _require_access(self, plan: Plan) -> None:
        """Raise ListenerError if an open listener cannot have the mode or the owner asked for.

        Those come with the socket of a new generation; one that is shared stays as it is.
        """
        present = {listener.group: listener.wanted for listener in self.plan.listeners}
        for listener in plan.listeners:
            was = present.get(listener.group, listener.wanted)
            if was.access != listener.wanted.access and (why := plan.why_shared(listener)):
                raise ListenerError(
                    f"listen {listener.wanted}: mode, user and group of a listener that is shared "
                    f"({why}) stay; restart the master to change them"
                )

    def learn(self, generation: int, address: Address) -> Seat:
        """Take in what a program of this generation binds; raise ListenerError.

        The generations after it must bind it, too; one that has begun need not.
        """
        before = self._begun.get(generation)
        if before is None:
            raise ListenerError(f"listen {address}: generation {generation} has gone")
        taken = {listener.name for listener in before.listeners}
        names = (f"{address.name}-{n}" if n else address.name for n in count())
        address = replace(address, name=next(name for name in names if name not in taken))
        seat = self._sockets.learn(generation, address, shared=bool(before.why_all_are_shared))
        self._begun[generation] = after = before.learning(seat.listener)
        if self.plan is before and generation == max(self._begun):
            self.plan = after
        return seat

    def failed(self, generation: int, current: int | None) -> None:
        """Take back the plan of a rollout that did not become current."""
        self._lost.clear()
        if self._begun.get(generation) is self.plan and current in self._begun:
            self.plan = self._begun[current]
            self._expected = self.resolved(current)

    def gone(self, generation: int) -> list[Listener]:
        """Forget a generation; return the listeners that were closed because nobody needs them."""
        self._lost.discard(generation)
        for of_generation in (self._recipes, self._begun, self._spoilt):
            of_generation.pop(generation, None)
        self._sockets.leave(generation)
        return self.close_unused()

    def close_unused(self) -> list[Listener]:
        """Close the listeners that are in no plan."""
        plans = [self.plan, *self._begun.values()]
        return self._sockets.keep_only(listener for plan in plans for listener in plan.listeners)

    def _resolve(self, plan: Plan, seats: Sequence[Seat]) -> Recipe:
        if AUTO not in plan.settings.adopt:  # else names are made as the program binds
            check(plan.settings.ready, [*plan.listeners, *plan.loose])
        inherited = [listener.inherited() for listener in plan.inherited]
        environ, directory = self._sources.environ, self._start_directory
        resolved = resolve(plan.settings, inherited, environ, directory)
        if self.release:
            resolved = resolved.of_release(self.release)
        return Recipe(plan, seats, resolved)


def _once(plans: Sequence[Plan]) -> list[Plan]:
    """Return each of them once: two equal ones are two."""
    return list({id(plan): plan for plan in plans}.values())


def _written(plan: Plan, known: Sequence[Listener]) -> KeptPlan:
    listeners, learned = (
        [_place_of(listener, known) for listener in some] for some in (plan.listeners, plan.learned)
    )
    return KeptPlan(plan.settings, listeners, list(plan.loose), learned)


def _place_of(one: T, of: Sequence[T]) -> int:
    return next(place for place, each in enumerate(of) if each is one)
