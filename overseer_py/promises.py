"""Answers that wait: for how a rollout ends, or for the end of the service."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from overseer_py.control import KeptRequest, RefusedError, Request
from overseer_py.core.messages import Event, Report, RolloutRequested
from overseer_py.ledger import Ledger

_ENDS = {"rollout-committed", "rollout-rolled-back", "rollout-cancelled"}
_OVER = {"stopping", "gave-up", "service-exited"}


@dataclass(frozen=True, slots=True)
class KeptPromise:
    """A promise, for the master's next image; the fleet has heard of what it waits for."""

    request: KeptRequest
    generation: int | None
    leaving: int | None
    result: object


@dataclass(frozen=True, slots=True)
class KeptPromises:
    """All of them."""

    open: list[KeptPromise]
    current: int | None


@dataclass(slots=True, eq=False)
class _Promise:
    """One request; its rollout is the first that begins once the fleet has heard of it.

    That is also so if several requests come to one rollout: it is no older than any of them.
    """

    request: Request
    event: Event  # by which the fleet hears of it
    heard: bool = False
    generation: int | None = None
    leaving: int | None = None  # the generation that was replaced, and has to go yet
    result: object = None

    def kept(self) -> KeptPromise:
        """Return what the master's next image must know."""
        return KeptPromise(self.request.kept(), self.generation, self.leaving, self.result)

    def tell(self, rollout: object) -> None:
        """Say what is known by now."""
        self.request.tell(json.dumps({"rollout": rollout}).encode() + b"\n", sure=True)


class Promises:
    """Keeps each promise: a commit is told of once the old generation is gone, a failure at once.

    Whoever does not wait any more changes nothing.
    """

    def __init__(self, ledger: Ledger) -> None:
        """``ledger`` must have heard each report before."""
        self._ledger = ledger
        self._open: list[_Promise] = []
        self._last: list[Request] = []
        self._current: int | None = None

    def make(self, request: Request, event: Event) -> None:
        """Answer the request when the rollout has ended that this event asks for."""
        self._open.append(_Promise(request, event))

    def make_last(self, request: Request) -> None:
        """Answer the request when the service has ended."""
        self._last = [*(r for r in self._last if not r.over), request]

    def kept(self) -> KeptPromises:
        """Return what the master's next image must know."""
        left = [promise for promise in self._open if not promise.request.over]
        return KeptPromises([promise.kept() for promise in left], self._current)

    def resume(self, kept: KeptPromises, request_of: Callable[[KeptRequest], Request]) -> None:
        """Keep what an earlier image has promised."""
        self._current = kept.current
        for each in kept.open:
            event = RolloutRequested("")  # heard before
            promise = _Promise(request_of(each.request), event, heard=True)
            promise.generation, promise.leaving = each.generation, each.leaving
            promise.result = each.result
            self._open.append(promise)

    def heard(self, event: Event) -> None:
        """Note that the fleet is about to hear of this event."""
        for promise in self._open:
            promise.heard = promise.heard or promise.event is event

    def __call__(self, report: Report) -> None:
        """See whose answer this is."""
        self._open = [promise for promise in self._open if not promise.request.over]
        for promise in list(self._open):
            if promise.heard:
                self._consider(promise, report)
        if report.name in ("service-starting", "rollout-committed"):
            self._current = report.generation

    def end(self, status: int) -> None:
        """Answer everybody: the service has ended with this exit status."""
        for promise in self._open:
            if promise.result:
                promise.request.answer(promise.result)
            else:
                promise.request.refuse(RefusedError("refused", "the service has ended"))
        for request in self._last:
            request.answer({"status": status})

    def _consider(self, promise: _Promise, report: Report) -> None:
        if promise.generation is None:
            if report.name == "rollout-started":
                promise.generation = report.generation
                promise.tell({"generation": report.generation, "outcome": None})
            elif report.name == "rollout-refused" or report.name in _OVER:
                self._open.remove(promise)
                why = str(report.facts.get("reason", "the service is stopping"))
                promise.request.refuse(RefusedError("refused", why))
        elif report.name in _ENDS and report.generation == promise.generation:
            promise.result = self._ledger.last and self._ledger.last.ended()
            promise.leaving = self._current
            if report.name == "rollout-committed":
                promise.tell(promise.result)
            else:
                self._keep(promise)
        elif report.name == "generation-gone" and report.generation == promise.leaving:
            self._keep(promise)

    def _keep(self, promise: _Promise) -> None:
        self._open.remove(promise)
        promise.request.answer(promise.result)
