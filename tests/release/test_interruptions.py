"""An install that ends or fails at any of its steps: the path is the old or the new release, whole.

strace(1) kills the process as it enters each system call that changes something, or lets each fail;
a small file system is full at each of its pages.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from overseer_py.errors import StoreError
from overseer_py.release.store import Store
from tests.needs import need
from tests.release.installing import NEW, OLD, digest, install, read
from tests.space import fill, tmpfs

ROOT = Path(__file__).parent.parent.parent
# Kinds of what is done, and by what these change something; names differ between architectures.
KINDS = ["file", "tree", "commit", "restore"]
CHANGES = "/^(rename|link|symlink|mkdir|unlink|rmdir|fsync|f?chmod|write)"
PROGRAM = [sys.executable, "-S", "-m", "tests.release.installing"]


class Ended(NamedTuple):
    """How it ended, and why."""

    status: int
    error: str


class Installer:
    """What installs releases and can be traced."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin
        assert process.stdout
        self._to, self._from = process.stdin, process.stdout

    def run(self, path: str, kind: str, *options: str) -> Ended:
        """Let it do something under strace; what is traced is in a file beside."""
        self._to.write(f"{path} {kind}\n")
        self._to.flush()
        pid, beside = int(self._from.readline()), os.path.dirname(path)
        command = [need("strace"), "-p", str(pid), "-o", f"{beside}.log", "-e", f"trace={CHANGES}"]
        with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr
            attached = strace.stderr.readline()
            os.kill(pid, signal.SIGCONT)
            assert "attached" in attached, attached
            status = int(self._from.readline())
        error = Path(f"{beside}.error")
        return Ended(status, error.read_text() if error.exists() else "")


@pytest.fixture(scope="module")
def installer() -> Iterator[Installer]:
    """Start what installs releases."""
    pipe = subprocess.PIPE
    with subprocess.Popen(PROGRAM, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        yield Installer(process)
        assert process.stdin
        process.stdin.close()


def prepared(directory: Path, kind: str) -> str:
    """Return a path with an old release, which is to be replaced."""
    directory.mkdir()
    path = str(directory / "app")
    if kind == "commit":  # a file that is to become a release, and one that is to be pruned
        Path(path).write_bytes(OLD)
        os.makedirs(f"{path}.releases/{'f' * 64}/bin", 0o755)
        return path
    store = Store(path)
    if kind == "restore":
        install(store, NEW)
        store.commit()
    install(store, OLD, tree=kind == "tree")
    store.commit()
    return path


@pytest.fixture(scope="module")
def steps(
    installer: Installer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[tuple[str, int]]]:
    """Return each step of each kind: which system call, for which time."""
    found = {}
    for kind in KINDS:
        directory = tmp_path_factory.mktemp("steps") / kind
        assert installer.run(prepared(directory, kind), kind) == (0, "")
        calls = re.findall(r"^(\w+)\(", Path(f"{directory}.log").read_text(), re.MULTILINE)
        counts = Counter(calls).items()
        found[kind] = [(call, when) for call, n in counts for when in range(1, n + 1)]
        assert len(found[kind]) > 5
    return found


def is_whole(path: str, kind: str) -> bytes:
    """Return the release that a path is, and that it is in accord with what is remembered."""
    content = read(path)
    assert content in (OLD, NEW)
    assert os.path.isfile(f"{path}.releases/state.json") or kind == "commit"  # never in between
    current = Store(path).current
    assert current == digest(content + b"tree" * (kind == "tree")) or (
        (kind, current, content) == ("commit", None, OLD)  # a file still, and no release
    )
    return content


def recovers(path: str, kind: str) -> bytes:
    """Clean up, and install something; return the release that was there in between."""
    store = Store(path)
    before = store.trying
    recovery = store.recover()
    assert recovery.complaint is None
    content = is_whole(path, kind)
    if (kind, content) == ("restore", NEW):
        assert store.previous is None  # what was taken back is nothing to return to
    if before and kind != "restore":
        assert content == OLD
    assert store.trying is None
    assert not [name for name in os.listdir(f"{path}.releases") if name.startswith(".")]
    install(store, b"next", tree=kind == "tree")
    assert read(path) == b"next"
    store.restore()
    assert read(path) == content
    return content


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_step(
    installer: Installer, tmp_path: Path, kind: str, steps: dict[str, list[tuple[str, int]]]
) -> None:
    """The path is a whole release at that moment, and the next start cleans up."""
    after = []
    for number, (call, when) in enumerate(steps[kind]):
        path = prepared(tmp_path / str(number), kind)
        done = installer.run(path, kind, "-e", f"inject={call}:signal=KILL:when={when}")
        assert done.status == -9, (call, when, done)
        is_whole(path, kind)
        after.append(recovers(path, kind))
    assert OLD in after
    if kind in ("commit", "restore"):
        assert NEW in after


@pytest.mark.parametrize("kind", ["file", "tree", "restore"])
def test_failing_at_any_step(
    installer: Installer, tmp_path: Path, kind: str, steps: dict[str, list[tuple[str, int]]]
) -> None:
    """Either it succeeds all the same, or the release before is in place and the error says why."""
    failed = 0
    for number, (call, when) in enumerate(steps[kind]):
        path = prepared(tmp_path / str(number), kind)
        error = [errno.EIO, errno.EROFS, errno.ENOSPC][number % 3]
        # once or, as a disk does not get well again, from then on; but it is to write why
        for_ever = "" if call == "write" else "+"
        inject = f"inject={call}:error={errno.errorcode[error]}:when={when}{for_ever}"
        done = installer.run(path, kind, "-e", inject)
        is_whole(path, kind)
        if done.status:
            failed += 1
            # an OSError: while it fills its staging directory itself
            assert re.match(rf"\w+Error: .*{os.strerror(error)}", done.error), done
            assert read(path) == OLD, (call, when)
        recovers(path, kind)
    assert failed > (0 if kind == "restore" else len(steps[kind]) / 2)


@pytest.mark.parametrize("error", ["ETXTBSY", "EBUSY", "EINTR"])
def test_what_passes_is_tried_again(installer: Installer, tmp_path: Path, error: str) -> None:
    """A rename that the system refuses for a moment is no failure."""
    path = prepared(tmp_path / "a", "file")
    done = installer.run(path, "file", "-e", f"inject=renameat:error={error}:when=2..4")
    assert done == (0, "")
    assert read(path) == NEW


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 400 KiB."""
    with tmpfs(tmp_path / "small", "size=400k,nr_inodes=60") as place:
        yield place


@pytest.mark.parametrize("kind", ["file", "tree"])
@pytest.mark.parametrize("what", ["pages", "inodes"])
def test_a_disk_that_is_full_at_any_write(small: Path, kind: str, what: str) -> None:
    """So much fits and no more: nothing is half installed, and to go back needs no space at all."""
    tree, installed = kind == "tree", 0
    for room in range(24):
        path = prepared(small / "srv", kind)
        store = Store(path)
        if what == "pages":
            os.truncate(small / "filler", max(0, fill(small / "filler") - room * 4096))
        else:
            left = os.statvfs(small).f_ffree - room
            for number in range(left):
                (small / f"inode{number}").touch()
        try:
            install(store, NEW, tree=tree)
        except (StoreError, OSError):
            assert read(path) == OLD
            assert store.trying is None
            assert len(os.listdir(f"{path}.releases")) == 2  # the old release and the state
        else:
            installed += 1
            assert read(path) == NEW
            if what == "pages":
                fill(small / "filler")
            assert store.restore() == store.current
            assert read(path) == OLD
        assert not [name for name in os.listdir(f"{path}.releases") if name.startswith(".")]
        for each in small.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    assert 0 < installed < 24
