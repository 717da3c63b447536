"""When a worker that binds for itself is ready: first it listens, then its rule is asked.

What it has bound and listens on is known at once, from the calls that wait for the master
(adoption.py).  A rule that looks at listeners begins only then: before, there is nothing to see.
Any other one (``notify``, ``exec``, …) is watched from the start, but is not enough alone: a
version that is ready at another address is of no use at this one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from overseer_py.errors import ConfigError
from overseer_py.system.launch import Launch
from overseer_py.system.process import Process
from overseer_py.watches import KeptRule, Rule

Missing = Callable[[], Sequence[str]]


def own_rule(rule: Rule) -> Rule:
    """Return the rule that the user has chosen, which another one may wrap."""
    if not isinstance(rule, Listening):
        return rule
    return rule.own or rule.made() or rule


class Listening(Rule):
    """What a worker must listen on for itself, and its own rule."""

    def __init__(self, on_ready: Callable[[], None], missing: Missing) -> None:
        """``missing`` tells where it does not listen yet."""
        super().__init__(on_ready)
        self._missing = missing
        self.own: Rule | None = None
        self._make: Callable[[], Rule] | None = None
        self._worker: Process | None = None
        self._is_ready = False  # as far as its own rule goes

    def then(self, make: Callable[[], Rule]) -> None:
        """Ask this rule as soon as the worker listens."""
        self._make = make

    def beside(self, rule: Rule) -> None:
        """Ask this rule from the start."""
        self.own = rule

    def made(self) -> Rule | None:
        """Return its own rule, for one that was ready before this master began; None: too early."""
        with suppress(ConfigError):  # it names a port that is not bound yet
            return self._make() if self._make else None
        return None

    @property
    def next_look(self) -> float | None:
        """When its own rule wants to look."""
        return self.own.next_look if self.own else None

    @next_look.setter
    def next_look(self, at: float | None) -> None:
        if self.own:
            self.own.next_look = at

    @property
    def hint(self) -> str:  # type: ignore[override]
        """What is missing."""
        if names := self._missing():
            return f"it does not listen for itself {'; '.join(names)}"
        return self.own.hint if self.own else ""

    def listened(self) -> None:
        """Take into account that it has called listen(2) once more."""
        if self._missing() or self._worker is None:
            return
        if self._is_ready:
            self.on_ready()
        elif self._make:
            self.own = self.made()
            if self.own:
                self._make = None
                self.own.begin(self._worker, time.monotonic())

    def own_rule_is_met(self) -> None:
        """Take the word of its own rule."""
        self._is_ready = True
        if not self._missing():
            self.on_ready()
        elif self.own:
            self.own.stop()

    def fit(self, launch: Launch) -> Launch:
        """Return the launch of a worker that is told how to say that it is ready."""
        return self.own.fit(launch) if self.own else launch

    def kept(self) -> KeptRule:
        """Return what the master's next image must know; one about listeners begins anew."""
        if self.own is None or self._make:
            return KeptRule(told=True)
        return replace(self.own.kept(), met=self._is_ready)

    def go_on(self, worker: Process, now: float, kept: KeptRule) -> Rule:
        """Watch a worker that an earlier image watched."""
        self._worker, self._is_ready = worker, kept.met
        if self.own and not kept.met:
            self.own = self.own.go_on(worker, now, kept)
        self.listened()
        return self

    def begin(self, worker: Process, now: float) -> None:
        """Start to watch."""
        self._worker = worker
        if self.own:
            self.own.begin(worker, now)

    def look(self, now: float) -> None:
        """Let its own rule look."""
        if self.own:
            self.own.look(now)

    def hear(self, fields: Mapping[str, str]) -> None:
        """Pass a message on."""
        if self.own:
            self.own.hear(fields)

    def told(self, worker: Process, now: float) -> Rule:
        """Pass its convention's word on."""
        if self.own:
            self.own = self.own.told(worker, now)
        return self

    def stop(self) -> None:
        """Watch no more."""
        self._worker = None
        if self.own:
            self.own.stop()
