"""What lies at a path and beside it: what is kept of it, and what must not be replaced."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess

import pytest

from overseer_py.errors import StoreError, VetoError
from overseer_py.release.state import Facts
from overseer_py.release.store import Store
from tests.needs import cannot, need
from tests.release.installing import NEW, OLD, digest, install, read, write

A, B, C, D = (letter.encode() * 100 for letter in "ABCD")


def test_mode_and_owner_are_kept(path: str) -> None:
    """Those of the file that was there; root alone can give a file away."""
    write(path, OLD, 0o750)
    if os.geteuid() == 0:
        os.chown(path, 1234, 2345)
    before = os.stat(path)
    install(Store(path), NEW)
    after = os.stat(path)
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )


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
