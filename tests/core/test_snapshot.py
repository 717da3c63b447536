"""A fleet that was written down and read again goes on as the one that was not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings

from overseer_py.core import snapshot
from overseer_py.core.fleet import Fleet
from overseer_py.core.messages import Action, Event
from overseer_py.core.snapshot import FleetSnapshot
from overseer_py.plain import from_plain, to_plain
from tests.core.test_histories import (
    CONFIGURATION,
    DEEDS,
    SURGES,
    History,
    begin,
    end,
    histories,
    live,
    told,
)
from tests.core.transcript import BoundedFleet
from tests.core.world import World

pytestmark = pytest.mark.timeout(900)

DRAW = 0.25


def written(fleet: Fleet) -> str:
    """Return the fleet as the text that another process would read."""
    return json.dumps(to_plain(snapshot.take(fleet)))


def read(text: str) -> Fleet:
    """Return the fleet of a text."""
    return snapshot.restore(from_plain(FleetSnapshot, json.loads(text)), lambda: DRAW)


class TwinFleet(BoundedFleet):
    """Has a twin before each event: read from what is written of this one, it decides alike."""

    def handle(self, event: Event, now: float) -> list[Action]:
        """Compare; from each state that can be reached, so for every later history."""
        before = written(self)
        twin = read(before)
        assert written(twin) == before
        assert twin.next_deadline() == self.next_deadline()
        actions = super().handle(event, now)
        assert twin.handle(event, now) == actions
        assert written(twin) == written(self)
        return actions


@settings(max_examples=500)  # each of them has a twin, and takes ten times as long
@given(histories(DEEDS, [*SURGES, "exclusive"], CONFIGURATION))
def test_it_goes_on_from_every_state(history: History) -> None:
    """Whatever has happened, and whatever happens then."""
    world = World()
    world.fleet = TwinFleet(lambda: DRAW)
    with told(world):
        begin(world, history)
        for step in history.steps:
            live(world, step, history.reload)
        end(world, history)
