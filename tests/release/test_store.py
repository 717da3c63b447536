"""Releases beside a path: installed, committed, restored, held, and what must not be replaced."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from overseer_py.errors import StoreError, VetoError
from overseer_py.release.contents import digest_of
from overseer_py.release.state import Facts, Held, State
from overseer_py.release.store import Store
from tests.needs import cannot, need
from tests.release.installing import NEW, OLD, digest, install, read

A, B, C, D = (letter.encode() * 100 for letter in "ABCD")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """Where a release is to be; in the end nothing of what is made on the way is left there."""
    place = tmp_path / "srv"
    place.mkdir()
    yield str(place / "app")
    assert set(os.listdir(place)) <= {"app", "app.releases", "elsewhere"}
    if (place / "app.releases").is_dir():
        assert not [name for name in os.listdir(place / "app.releases") if name.startswith(".")]


def committed(store: Store, *contents: bytes, tree: bool = False) -> list[str]:
    """Install and commit releases, one after the other; return their digests."""
    done = []
    for content in contents:
        done.append(install(store, content, tree=tree))
        store.commit()
    return done


def write(path: str, content: bytes, mode: int = 0o644) -> None:
    """Put a file somewhere, as an operator would."""
    Path(path).write_bytes(content)
    os.chmod(path, mode)


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


def test_mode_and_owner_are_kept(path: str) -> None:
    """Those of the file that was there; root alone can give a file away."""
    write(path, OLD, 0o750)
    if os.geteuid() == 0:
        os.chown(path, 1234, 2345)
    before = os.stat(path)
    install(Store(path), NEW)
    after = os.stat(path)
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_an_owner_that_cannot_be_kept(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is suddenly somebody else's may not be readable for who needs it."""
    if os.geteuid() != 0:
        cannot("only root can give a file away")
    write(path, OLD)
    os.chown(path, 1234, 2345)

    def chown(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", chown)  # as for any other user
    with pytest.raises(StoreError, match="not permitted"):
        install(Store(path), NEW)
    assert read(path) == OLD


def test_no_release_runs_as_somebody_else(path: str) -> None:
    """Neither the bits of the old file nor those of a tree are taken over."""
    write(path, OLD, 0o6755)
    store = Store(path)
    install(store, NEW)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o755
    kept = f"{path}.releases/{digest(OLD)}/app"
    assert stat.S_IMODE(os.stat(kept).st_mode) == 0o755  # old holes must not stay open there
    store.restore()
    with store.stage() as staging:
        os.mkdir(f"{staging.path}/tree")
        write(f"{staging.path}/tree/app", NEW, 0o4755)
        with pytest.raises(VetoError, match="set-user-ID"):
            store.install(f"{staging.path}/tree", digest(A), Facts(0))
    assert read(path) == OLD


@pytest.mark.parametrize("plant", ["fifo", "link"])
def test_what_is_planted_in_staging(path: str, plant: str) -> None:
    """Instead of a file there is something else by now: nothing happens to where it leads."""
    write(path, OLD)
    store = Store(path)
    with store.stage() as staging:
        staged = f"{staging.path}/release"
        if plant == "fifo":
            os.mkfifo(staged)
        else:
            os.symlink(path, staged)
        with pytest.raises((VetoError, StoreError)):
            store.install(staged, digest(NEW), Facts(0))
    assert (read(path), store.trying, store.releases) == (OLD, None, [])


def test_staging_is_private(path: str) -> None:
    """Made anew, for this user alone, under a name that nobody can foretell."""
    old = os.umask(0)
    try:
        with Store(path).stage() as one, Store(path).stage() as two:
            assert one.path != two.path
            found = os.lstat(one.path)
            assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, os.geteuid())
            with one.create("artifact") as file:
                assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
            os.symlink(path, f"{one.path}/planted")
            for name in ("artifact", "planted"):
                with pytest.raises(StoreError, match="File exists"):
                    one.create(name)
    finally:
        os.umask(old)
    assert not os.path.lexists(path)
    assert stat.S_IMODE(os.stat(f"{path}.releases").st_mode) == 0o755


def test_releases_of_somebody_else(path: str) -> None:
    """A directory that was prepared for us is refused: as a link, a file, or not only ours."""
    elsewhere = os.path.join(os.path.dirname(path), "elsewhere")
    os.mkdir(elsewhere)
    os.symlink("elsewhere", f"{path}.releases")
    with pytest.raises(StoreError, match="a link or a file"):
        install(Store(path), A)
    os.unlink(f"{path}.releases")
    os.mkdir(f"{path}.releases")
    os.chmod(f"{path}.releases", 0o777)
    with pytest.raises(StoreError, match="others can write to it"):
        install(Store(path), A)
    if os.geteuid() == 0:
        os.chmod(f"{path}.releases", 0o755)
        os.chown(f"{path}.releases", 4321, 0)
        with pytest.raises(StoreError, match="others can write to it"):
            install(Store(path), A)
    assert os.listdir(elsewhere) == []
    assert not os.path.lexists(path)


def test_what_cannot_be_replaced(path: str) -> None:
    """Each says what to do, and is as it was."""
    write(os.path.join(os.path.dirname(path), "elsewhere"), OLD)
    os.symlink("elsewhere", path)
    with pytest.raises(StoreError, match="a link to elsewhere, which is no release"):
        install(Store(path), A)
    assert read(path) == OLD
    os.unlink(path)
    os.mkfifo(path)
    with pytest.raises(StoreError, match="neither a file nor a directory"):
        install(Store(path), A)
    with pytest.raises(StoreError, match="no place for a release"):
        Store("/")


def test_a_directory_becomes_a_release(path: str) -> None:
    """The remedy that the refusal names can be run as it is, and nothing is lost."""
    os.makedirs(f"{path}/bin")
    os.symlink("bin/app", f"{path}/link")
    write(f"{path}/bin/app", OLD)
    with pytest.raises(StoreError, match="first release: ") as refused:
        install(Store(path), A, tree=True)
    subprocess.run(str(refused.value).rpartition("release: ")[2], shell=True, check=True)
    assert read(path) == OLD
    store = Store(path)
    assert store.current == "0"
    install(store, A, tree=True)
    assert (store.restore(), read(path)) == ("0", OLD)


def test_from_a_file_to_a_tree_and_back(path: str) -> None:
    """What a source packs differently from one day on."""
    store = Store(path)
    one, *_ = committed(store, A)
    install(store, B, tree=True)
    assert os.path.islink(path)
    assert store.restore() == one
    assert (read(path), os.path.islink(path)) == (A, False)


def test_a_program_that_runs(path: str) -> None:
    """It cannot be written to (ETXTBSY, execve(2)), but it can be replaced."""
    shutil.copy(need("sleep"), path)
    with subprocess.Popen([path, "100"]) as process:
        with pytest.raises(OSError, match="Text file busy"):
            os.close(os.open(path, os.O_WRONLY))
        store = Store(path)
        install(store, NEW)
        store.restore()
        assert process.poll() is None
        process.kill()


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
    for spoilt in (
        {"trail": ["../../etc"]},
        {"trail": ["f" * 64]},
        {"trying": ".."},
        {"facts": {one: {}}},
        {"facts": []},
        {"held": {one: 1}},
        {"known": 5},
    ):
        file.write_text(json.dumps(good | spoilt))
        assert Store(path).recover().complaint, spoilt
        assert read(path) == B


def test_a_state_that_is_a_link(path: str) -> None:
    """It is not followed, neither to read nor to write."""
    elsewhere = os.path.join(os.path.dirname(path), "elsewhere")
    write(elsewhere, OLD)
    os.mkdir(f"{path}.releases")
    os.symlink(elsewhere, f"{path}.releases/state.json")
    store = Store(path)
    assert store.recover().complaint
    committed(store, A)
    assert read(elsewhere) == OLD


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


def test_a_file_system_without_hard_links(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is copied instead, with its mode, and is still known."""

    def link(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    write(path, OLD, 0o711)
    store = Store(path)
    two = install(store, NEW)
    assert (read(path), store.current) == (NEW, two)
    store.commit()
    assert store.restore() == digest(OLD)
    assert (read(path), stat.S_IMODE(os.stat(path).st_mode)) == (OLD, 0o711)


def test_the_digest_of_a_tree(tmp_path: Path) -> None:
    """Names, contents, link targets and the bit for execution count; times and owners do not."""
    root = tmp_path / "tree"
    (root / "d").mkdir(parents=True)
    write(str(root / "d" / "a"), b"a")
    (root / "link").symlink_to("/etc/passwd")
    seen = [digest_of(str(root))]

    def differs() -> bool:
        seen.append(digest_of(str(root)))
        return len(set(seen)) == len(seen)

    os.utime(root / "d" / "a", (0, 0))
    os.chmod(root / "d" / "a", 0o600)
    assert not differs()
    seen.pop()
    os.chmod(root / "d" / "a", 0o700)
    assert differs()
    write(str(root / "d" / "a"), b"b", 0o700)
    assert differs()
    (root / "d" / "a").rename(root / "a")
    assert differs()
    (root / "link").unlink()
    (root / "link").symlink_to("/etc/shadow")
    assert differs()
    os.mkfifo(root / "fifo")
    assert differs()
    (root / "e").mkdir()
    assert differs()
    (tmp_path / "shown").symlink_to("tree")
    assert digest_of(str(tmp_path / "shown")) == seen[-1]
    assert digest_of(str(root), lambda name: name in ("e", "fifo")) == seen[-3]
    assert digest_of(str(root / "a")) == digest(b"b")
    with pytest.raises(FileNotFoundError):
        digest_of(str(tmp_path / "nothing"))
