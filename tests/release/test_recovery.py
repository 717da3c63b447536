"""The start after a process that died, or with a state that cannot be read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from overseer_py.release.store import Store
from tests.release.installing import OLD, committed, install, read, write

A, B, C, D = (letter.encode() * 100 for letter in "ABCD")


GARBAGE = [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"format": 2}', b"[" * 100_000]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("tree", [False, True])
def test_a_state_that_cannot_be_read(path: str, tree: bool, garbage: bytes) -> None:
    """It is set aside; the path itself says what is current, and the rest is told by age."""
    one, two = committed(Store(path), A, B, tree=tree)
    os.utime(f"{path}.releases/{two}")
    Path(f"{path}.releases/state.json").write_bytes(garbage)
    store = Store(path)
    recovery = store.recover()
    assert recovery.complaint
    assert "state.json.broken" in recovery.complaint
    assert Path(f"{path}.releases/state.json.broken").read_bytes() == garbage
    assert (store.current, store.previous, read(path)) == (two, one, B)
    assert Store(path).recover().complaint is None
    assert (Store(path).restore(), read(path)) == (one, A)


def test_a_state_with_other_facts(path: str) -> None:
    """Paths, unknown releases and wrong types are not believed."""
    one, _ = committed(Store(path), A, B)
    file = Path(f"{path}.releases/state.json")
    good = json.loads(file.read_text())
    cases: list[dict[str, object]] = [
        {"trail": ["../../etc"]},
        {"trail": ["f" * 64]},
        {"trying": ".."},
        {"facts": {one: {}}},
        {"facts": []},
        {"held": {one: 1}},
        {"known": 5},
    ]
    for spoilt in cases:
        file.write_text(json.dumps(good | spoilt))
        assert Store(path).recover().complaint, spoilt
        assert read(path) == B


def test_a_state_that_is_a_link(path: str) -> None:
    """It is not followed, neither to read nor to write."""
    store = Store(path)
    store.hold("0" * 64, "planted", 0)
    elsewhere = os.path.join(os.path.dirname(path), "elsewhere")
    os.rename(f"{path}.releases/state.json", elsewhere)
    planted = Path(elsewhere).read_bytes()
    os.symlink(elsewhere, f"{path}.releases/state.json")
    store = Store(path)
    assert store.held == {}
    assert store.recover().complaint
    committed(store, A)
    assert Path(elsewhere).read_bytes() == planted


def test_leftovers_are_removed_but_not_what_they_lead_to(path: str) -> None:
    """A planted link goes, its target stays."""
    elsewhere = os.path.join(os.path.dirname(path), "elsewhere")
    os.mkdir(elsewhere)
    write(f"{elsewhere}/file", OLD)
    store = Store(path)
    committed(store, A)
    staging = store.stage()
    os.symlink(elsewhere, f"{staging.path}/link")
    os.symlink(elsewhere, f"{path}.releases/.app.staging-planted")
    assert Store(path).recover().swept == 2
    assert read(f"{elsewhere}/file") == OLD


def test_a_start_without_releases(path: str) -> None:
    """Nothing is made before there is something to install."""
    assert Store(path).recover().restored is None
    assert os.listdir(os.path.dirname(path)) == []


@pytest.mark.parametrize("tree", [False, True])
def test_a_process_that_died_while_a_release_was_tried(path: str, tree: bool) -> None:
    """The next one puts the release before it in place again, once."""
    [one] = committed(Store(path), A, tree=tree)
    install(Store(path), B, tree=tree)
    store = Store(path)
    assert store.recover().restored == one
    assert (read(path), store.trying) == (A, None)
    assert Store(path).recover().restored is None


@pytest.mark.parametrize("tree", [False, True])
def test_a_trial_that_goes_on_is_left_alone(path: str, tree: bool) -> None:
    """If only the updater died the rollout is going on: it can be taken back, or committed."""
    (one,) = committed(Store(path), A, tree=tree)
    two = install(Store(path), B, tree=tree)
    store = Store(path)
    assert store.recover([one, two]).restored is None
    assert (store.trying, store.current) == (two, two)
    assert (store.restore(), read(path)) == (one, A)
    three = install(store, C, tree=tree)
    store = Store(path)
    store.recover([three])
    store.commit()
    assert (store.trying, store.current, read(path)) == (None, three, C)


def test_a_first_release_stays_although_nobody_committed_it(path: str) -> None:
    """A service without a program helps nobody."""
    one = install(Store(path), A)
    store = Store(path)
    assert store.recover().restored is None
    assert (read(path), store.current, store.trying) == (A, one, None)
    install(store, B)
    assert store.restore() == one


def test_what_an_operator_changes_in_between_stays(path: str) -> None:
    """Only the release that was tried is taken back, not what was put there instead of it."""
    committed(Store(path), A)
    install(Store(path), B)
    os.unlink(path)
    write(path, C)
    assert Store(path).recover().restored is None
    assert read(path) == C
