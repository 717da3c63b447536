"""What released versions wrote down for their next image, this one can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from overseer_py import __version__, snapshot
from overseer_py.core import snapshot as fleets
from overseer_py.core.messages import BecameReady, Divert, Exited
from overseer_py.errors import OverseerError
from overseer_py.plain import descriptors

FOLDER = Path(__file__).parent / "snapshots"
VERSIONS = sorted(path.stem for path in FOLDER.glob("*.json"))


def document(version: str) -> dict[str, Any]:
    """Return what that version wrote: a master in the middle of a rollout."""
    found: dict[str, Any] = json.loads((FOLDER / f"{version}.json").read_text())
    return found


def test_this_version_has_one() -> None:
    """Recorded by tests/snapshots/record.py."""
    assert __version__ in VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_it_can_be_read(version: str) -> None:
    """All that is in it is there again."""
    written = document(version)
    kept = snapshot.decode(json.dumps(written).encode())
    assert kept.version == version
    assert [each.number for each in kept.fleet.generations] == [1, 2]
    assert [group.kind for group in kept.sockets.groups] == ["steered", "renamed", "steered"]
    plan = kept.plans.plans[kept.plans.plan]
    assert (plan.settings.name, plan.settings.workers) == ("app", 2)
    assert kept.plans.recipes[1].resolved.environ["OVERSEER_INSTANCE"] == "app"
    assert len(kept.crew.members) == 4
    assert kept.crew.members[0].output.tail.lines == [b"up"]
    assert kept.crew.members[0].output.captures[0].line == b"half a line"
    assert {left.name for left in kept.errands.left} == {"cache"}
    assert kept.updates.memory.wanted
    assert kept.updates.link.process
    assert any(b"rollout-started" in line for line in kept.events.lines)
    assert len(set(descriptors(kept))) > 20


@pytest.mark.parametrize("version", VERSIONS)
def test_the_fleet_goes_on(version: str) -> None:
    """The rollout that was going on comes to its end, either way."""
    for way in ("ready", "dies"):
        kept = snapshot.decode(json.dumps(document(version)).encode())
        fleet = fleets.restore(kept.fleet, lambda: 0.5)
        candidate = fleet.roster.candidate
        assert candidate
        workers = [worker.id for worker in candidate.workers.values()]
        now = max(kept.at, candidate.since)
        if way == "dies":
            names = [getattr(a, "name", "") for a in fleet.handle(Exited(workers[0], "died"), now)]
            assert "rollout-rolled-back" in names
        else:
            actions = [a for worker in workers for a in fleet.handle(BecameReady(worker), now)]
            assert Divert(2, 10) in actions


def test_a_later_format_is_refused() -> None:
    """With both versions, so that it is known which one to install."""
    written = {**document(__version__), "format": snapshot.FORMAT + 1, "version": "9.9"}
    with pytest.raises(OverseerError, match=r"written by overseer 9\.9, in a format \(2\)"):
        snapshot.decode(json.dumps(written).encode())


def test_what_is_new_has_a_default_and_what_is_gone_is_passed_over() -> None:
    """So fields can be added to, and taken from, a format."""
    written = document(__version__)
    written["of_tomorrow"] = [1, 2]
    written["fleet"]["generations"][0]["of_tomorrow"] = "x"
    del written["fleet"]["generations"][0]["policy"]["probation"]
    del written["plans"]["plans"][0]["settings"]["orphans"]
    kept = snapshot.decode(json.dumps(written).encode())
    assert kept.fleet.generations[0].policy.probation == 0
    assert kept.plans.plans[0].settings.orphans == "drain"


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b"nonsense", b'{"format": 1}'])
def test_what_cannot_be_read_is_refused(damage: bytes) -> None:
    """In one line."""
    with pytest.raises(OverseerError, match="cannot be read"):
        snapshot.decode(damage)


@pytest.mark.parametrize("place", ["fleet", "sockets", "crew", "inbox", "limit"])
def test_a_field_of_another_kind_is_refused(place: str) -> None:
    """With its place."""
    written = {**document(__version__), place: "a text"}
    with pytest.raises(OverseerError, match=f"cannot be read: Snapshot.{place}"):
        snapshot.decode(json.dumps(written).encode())
