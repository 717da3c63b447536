"""When a worker is ready: the rule that a user has chosen (watches.py, trials.py)."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol, TypeVar

from overseer_py import values
from overseer_py.errors import ConfigError
from overseer_py.system import procfs
from overseer_py.system.listeners import Seat
from overseer_py.trials import AcceptAs, Exec, Http, Surroundings
from overseer_py.values import ReadyRule
from overseer_py.watches import Accept, Delay, Notify, NotifyOrDelay, ReadyPipe, Rule, Told

ABOUT_LISTENERS = ("auto", "accept", "http")  # rules that look at what a worker listens on
ALIVE_LONG_ENOUGH = 1.0  # seconds: ``auto`` without listeners and without READY=1


class Named(Protocol):
    """A listener, or what stands for one."""

    @property
    def name(self) -> str:
        """Its name."""


Place = TypeVar("Place", bound=Named)


def rule_for(  # noqa: PLR0911 - one for each rule
    rule: ReadyRule,
    on_ready: Callable[[], None],
    around: Surroundings,
    *,
    tells: bool = False,
    pipe: int | None = None,
) -> Rule:
    """Return the watch for one worker; ``tells``: its convention has a word for being ready.

    ``pipe`` is what an earlier image of the master has read of rule ``fd``.
    """
    match rule.kind:
        case "auto":
            if not around.seats:
                return NotifyOrDelay(on_ready, ALIVE_LONG_ENOUGH)
            accept = _accept(on_ready, around, around.seats)
            return Told(accept) if tells else accept
        case "accept":
            return _accept(on_ready, around, named(around.seats, rule.argument))
        case "notify":
            return Notify(on_ready)
        case "fd":
            return ReadyPipe(on_ready, around.loop, pipe)
        case "http":
            name, slash, path = rule.argument.partition("/")
            (seat,) = named(around.seats, name)[:1]
            return Http(on_ready, around, seat, slash + path)
        case "exec":
            launch = replace(
                around.launch,
                argv=shlex.split(rule.argument),
                executable="",
                fds=(),
                stdout=2,
                stderr=2,
            )
            return Exec(on_ready, around.children, around.say, launch)
    return Delay(on_ready, values.duration(rule.argument))


def _accept(on_ready: Callable[[], None], around: Surroundings, seats: Sequence[Seat]) -> Rule:
    identity = around.launch.identity
    if identity and not procfs.sees_others():
        return AcceptAs(on_ready, around, seats, identity)
    return Accept(on_ready, seats)


def check(rule: ReadyRule, listeners: Sequence[Named]) -> None:
    """Raise ConfigError if the rule names a listener that is not there."""
    if rule.kind == "accept":
        named(listeners, rule.argument)
    elif rule.kind == "http":
        named(listeners, rule.argument.partition("/")[0])


def named(listeners: Sequence[Place], names: str) -> list[Place]:
    """Return the listeners of these names, comma-separated; all for no names."""
    if not listeners:
        raise ConfigError("ready: this rule needs a listener; add --listen, or use notify or delay")
    if not names:
        return list(listeners)
    found = {listener.name: listener for listener in listeners}
    with suppress(KeyError):
        return [found[name.strip()] for name in names.split(",")]
    raise ConfigError(f"ready: no listener is named {names!r}; there are: {', '.join(found)}")
