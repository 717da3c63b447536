"""Releases beside a path: installed, committed, restored, held, pruned."""

from __future__ import annotations

import os

import pytest

from overseer_py.errors import StoreError
from overseer_py.release.shelf import Shelf
from overseer_py.release.state import Held, State
from overseer_py.release.store import Store
from tests.release.installing import NEW, OLD, committed, digest, install, read, write

A, B, C, D = (letter.encode() * 100 for letter in "ABCD")


@pytest.mark.parametrize("tree", [False, True])
def test_a_first_release(path: str, tree: bool) -> None:
    """It is tried, committed, and known by what its source recognises."""
    store = Store(path)
    assert (store.current, store.previous, store.trying, store.releases) == (None, None, None, [])
    one = install(store, A, tree=tree, version="1.0")
    assert read(path) == A
    assert (store.current, store.trying, dict(store.known)) == (one, one, {})
    store.commit()
    again = Store(path)
    assert (again.current, again.trying, dict(again.known)) == (one, None, {"ETag": one[:8]})
    assert [each.digest for each in again.releases] == [one]
    facts = again.releases[0].facts
    assert (facts.version, facts.size, facts.single) == ("1.0", 100, not tree)
    assert os.path.islink(path) == tree


@pytest.mark.parametrize("tree", [False, True])
def test_a_release_is_taken_back(path: str, tree: bool) -> None:
    """The one before it is in place again, and the source is still asked for what is new."""
    store = Store(path)
    [one] = committed(store, A, tree=tree)
    two = install(store, B, tree=tree)
    assert (read(path), store.current, store.previous) == (B, two, one)
    assert store.restore() == one
    assert (read(path), store.current, store.trying) == (A, one, None)
    assert dict(store.known) == {"ETag": one[:8]}
    assert store.previous is None  # the one that failed is nothing to return to


@pytest.mark.parametrize("tree", [False, True])
def test_committed_releases_are_taken_back_one_after_the_other(path: str, tree: bool) -> None:
    """That is what probation, and rollback, ask for."""
    store = Store(path)
    one, two, _ = committed(store, A, B, C, tree=tree)
    assert (store.restore(), read(path)) == (two, B)
    store = Store(path)
    assert (store.restore(), read(path)) == (one, A)
    assert store.restore() is None
    assert read(path) == A


def test_a_link_to_a_tree_is_relative(path: str) -> None:
    """The directory can be moved, and mounted elsewhere."""
    committed(Store(path), A, tree=True)
    moved = os.path.join(os.path.dirname(path), "elsewhere")
    os.mkdir(moved)
    os.rename(path, f"{moved}/app")
    os.rename(f"{path}.releases", f"{moved}/app.releases")
    assert read(f"{moved}/app") == A
    assert Store(f"{moved}/app").current == digest(A + b"tree")


def test_the_file_that_was_there_first(path: str) -> None:
    """It is a release from then on: the same file, to which one can return."""
    write(path, OLD, 0o754)
    inode = os.stat(path).st_ino
    store = Store(path)
    install(store, NEW)
    assert read(path) == NEW
    assert store.previous == digest(OLD)
    assert store.restore() == digest(OLD)
    assert (read(path), os.stat(path).st_ino) == (OLD, inode)


def test_a_file_that_somebody_has_put_there_since(path: str) -> None:
    """It is kept as well, although it is not the release that was committed last."""
    store = Store(path)
    one, *_ = committed(store, A)
    os.unlink(path)
    write(path, B)
    assert store.current is None
    install(store, C)
    assert store.restore() == digest(B)
    assert read(path) == B
    assert store.restore() == one


def test_files_of_one_size_and_time(path: str) -> None:
    """Two that were made within one tick of the clock are two all the same."""
    store = Store(path)
    one, two = committed(store, A, B)
    for name in (one, two):
        os.utime(f"{path}.releases/{name}/app", (1, 1))
    assert (store.current, store.previous) == (two, one)
    assert (store.restore(), store.current, read(path)) == (one, one, A)
    os.unlink(path)
    write(path, B)
    os.utime(path, (1, 1))
    assert store.current == two  # a copy, as on a file system without hard links
    write(path, C)
    os.utime(path, (1, 1))
    assert store.current is None


def test_from_a_file_to_a_tree_and_back(path: str) -> None:
    """What a source packs differently from one day on."""
    store = Store(path)
    one, *_ = committed(store, A)
    install(store, B, tree=True)
    assert os.path.islink(path)
    assert store.restore() == one
    assert (read(path), os.path.islink(path)) == (A, False)


def test_the_same_release_is_not_installed_twice(path: str) -> None:
    """Nor is a second one while the first is tried."""
    store = Store(path)
    install(store, A)
    with pytest.raises(StoreError, match="still being tried"):
        install(store, B)
    store.commit()
    with pytest.raises(StoreError, match="installed already"):
        install(store, A)
    assert read(path) == A


def test_an_older_release_comes_back(path: str) -> None:
    """Offered again by the source or asked for by its digest, it is the one that was kept."""
    store = Store(path)
    one, two, _ = committed(store, A, B, C)
    inode = os.stat(f"{path}.releases/{one}/app").st_ino
    assert committed(store, A) == [one]
    assert (os.stat(path).st_ino, read(path)) == (inode, A)
    assert store.bring_back(two[:10]) == two
    assert (store.trying, read(path)) == (two, B)
    assert store.restore() == one
    with pytest.raises(StoreError, match="none begins so"):
        store.bring_back("x")


def test_held_releases(path: str) -> None:
    """They are not tried again, by this process or the next one, until they are let go."""
    store = Store(path)
    committed(store, A)
    two = install(store, B)
    store.restore()
    store.hold(two, "exit status 1", 123.0)
    store.prune()
    store = Store(path)
    assert store.held[two].reason == "exit status 1"
    assert dict(store.held[two].known) == {"ETag": two[:8]}
    for _ in range(2):
        with pytest.raises(StoreError, match="held: exit status 1; overseer unhold"):
            install(store, B)
    assert read(path) == A
    install(store, C)
    store.commit()
    with pytest.raises(StoreError, match="none begins so"):
        store.unhold("")
    assert store.unhold(two[:6]) == two
    install(Store(path), B)
    assert read(path) == B


def test_a_held_release_is_nothing_to_return_to(path: str) -> None:
    """The one before it is."""
    store = Store(path)
    one, two, _ = committed(store, A, B, C)
    store.hold(two, "leaks", 0)
    assert store.previous == one
    held = {each.digest: each.held for each in store.releases}
    assert held[two] == "leaks"


def test_what_is_held_is_bounded() -> None:
    """A source that makes a bad release every minute fills no disk; the latest are held."""
    state = State()
    for number in range(1005):
        state = State(held=state.holding(f"{number}", Held("", 0)))
    assert list(state.held) == [f"{number}" for number in range(5, 1005)]


@pytest.mark.parametrize("tree", [False, True])
def test_old_releases_go(path: str, tree: bool) -> None:
    """So many stay as are wanted, besides the current one; an operator's own never go."""
    store = Store(path, keep=1)
    os.makedirs(f"{path}.releases/mine")
    one, two, three = committed(store, A, B, C, tree=tree)
    four = install(store, D, tree=tree)
    assert sorted(store.prune()) == sorted([one, two])
    store.commit()
    assert store.prune() == []
    assert {each.digest for each in store.releases} == {three, four}
    assert store.previous == three
    assert os.path.isdir(f"{path}.releases/mine")
    assert (store.restore(), read(path)) == (three, C)
    assert store.prune() == [four]


def test_the_previous_release_always_stays(path: str) -> None:
    """Also if none is to be kept, or it has become the last of many by being held."""
    store = Store(path, keep=0)
    one, two, three = committed(store, A, B, C)
    store.hold(two, "leaks", 0)
    assert store.prune() == [two]
    assert (store.previous, store.current) == (one, three)


def test_what_is_half_removed_is_no_release(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is removed it is forgotten."""
    store = Store(path, keep=0)
    one, two, _ = committed(store, A, B, C)

    def drop(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Shelf, "drop", drop)
    with pytest.raises(StoreError, match="cannot prune: Input/output error"):
        store.prune()
    store = Store(path)
    assert one not in {each.digest for each in store.releases}
    assert (store.restore(), store.restore()) == (two, None)
