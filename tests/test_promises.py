"""Whose rollout is whose: answers to those who wait for one."""

from __future__ import annotations

from typing import Any, cast

from overseer_py.control import RefusedError, Request
from overseer_py.core.messages import Report, RolloutRequested
from overseer_py.ledger import Ledger
from overseer_py.promises import Promises


class Waiting:
    """Stands for a request, and keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.over = False

    def tell(self, news: bytes, *, sure: bool = False) -> None:
        """Hear how far it is."""

    def answer(self, result: dict[str, Any]) -> None:
        """Hear the end."""
        self.said.append(result["generation"])
        self.over = True

    def refuse(self, error: RefusedError) -> None:
        """Hear why not."""
        self.said.append(error.code)
        self.over = True


class Service:
    """Reports as the fleet makes them, to a ledger and to promises."""

    def __init__(self) -> None:
        self.ledger = Ledger(lambda _: [])
        self.promises = Promises(self.ledger)
        self.reports("service-starting", 1)

    def reports(self, name: str, generation: int | None = None, **facts: object) -> None:
        """Report a fact."""
        report = Report(name, generation, facts={"reason": "asked for", **facts})
        self.ledger(report)
        self.promises(report)

    def asked(self) -> tuple[Waiting, RolloutRequested]:
        """Return somebody who waits for the rollout that an event asks for."""
        waiting, event = Waiting(), RolloutRequested("restart")
        self.promises.make(cast("Request", waiting), event)
        return waiting, event


def test_a_rollout_that_began_before_the_fleet_heard_is_not_the_one() -> None:
    """An event that was posted earlier in the same turn begins one of its own."""
    service = Service()
    waiting, event = service.asked()
    service.reports("rollout-started", 2)
    service.promises.heard(event)
    service.reports("rollout-queued")
    service.reports("rollout-committed", 2)
    service.reports("generation-gone", 1)
    assert waiting.said == []
    service.reports("rollout-started", 3)
    service.reports("rollout-committed", 3)
    assert waiting.said == []  # the old one is still here
    service.reports("generation-gone", 2)
    assert waiting.said == [3]


def test_all_that_wait_for_one_are_answered() -> None:
    """Two requests that come to one rollout have asked for it both."""
    service = Service()
    (first, one), (second, two) = service.asked(), service.asked()
    service.promises.heard(one)
    service.reports("rollout-started", 2)
    service.promises.heard(two)
    service.reports("rollout-queued")
    service.reports("rollout-rolled-back", 2)
    assert (first.said, second.said) == ([2], [])
    service.reports("stopping")
    assert second.said == ["refused"]


def test_the_end_of_the_service_is_an_answer() -> None:
    """A commit stands even if the old generation has not gone yet; nobody waits for ever."""
    service = Service()
    (committed, one), (early, two) = service.asked(), service.asked()
    service.promises.heard(one)
    service.reports("rollout-started", 2)
    service.reports("rollout-committed", 2)
    service.promises.heard(two)
    service.promises.end(0)
    assert (committed.said, early.said) == ([2], ["refused"])
