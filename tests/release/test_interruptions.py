"""An install that ends or fails at any of its steps: the path is the old or the new release, whole.

strace(1) kills the process as it enters each system call that changes something, or lets each fail;
a small file system is full at each of its pages.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from overseer_py.errors import StoreError
from overseer_py.release.store import Store
from tests.needs import cannot, need
from tests.release.installing import NEW, OLD, digest, install, read

ROOT = Path(__file__).parent.parent.parent
# Kinds of what is done, and by what these change something; names differ between architectures.
KINDS = ["file", "tree", "commit", "restore"]
CHANGES = "/^(rename|link|symlink|mkdir|unlink|rmdir|fsync|f?chmod|write)"
PROGRAM = [sys.executable, "-S", "-B", "-m", "tests.release.installing"]


def traced(path: str, kind: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run what installs under strace."""
    strace = [need("strace"), "-f", "-qq", "--seccomp-bpf", *options]
    return subprocess.run(
        [*strace, *PROGRAM, path, kind], cwd=ROOT, capture_output=True, text=True, check=False
    )


def prepared(directory: Path, kind: str) -> str:
    """Return a path with an old release, to which the new one is to come, or from which to go."""
    directory.mkdir()
    path = str(directory / "app")
    store = Store(path)
    if kind == "restore":
        install(store, NEW)
        store.commit()
    install(store, OLD, tree=kind == "tree")
    store.commit()
    return path


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, int]]]:
    """Return each step of each kind: which system call, for which time."""
    found = {}
    for kind in KINDS:
        directory = tmp_path_factory.mktemp("steps") / kind
        done = traced(prepared(directory, kind), kind, "-e", f"trace={CHANGES}", "-o", f"{directory}.log")
        assert done.returncode == 0, done.stderr
        calls = re.findall(r"^\d+ +(\w+)\(", Path(f"{directory}.log").read_text(), re.MULTILINE)
        found[kind] = [(call, n + 1) for call, count in Counter(calls).items() for n in range(count)]
        assert len(found[kind]) > 15
    return found


def is_whole(path: str, kind: str) -> bytes:
    """Return the release that a path is, and that it is in accord with what is remembered."""
    content = read(path)
    assert content in (OLD, NEW)
    store = Store(path)
    tree = kind == "tree" and content == OLD
    assert store.current in (digest(content), digest(content + b"tree" * (tree or kind == "tree")))
    return content


def recovers(path: str, kind: str) -> bytes:
    """Clean up, and install something; return the release that was there in between."""
    store = Store(path)
    before = store.trying
    recovery = store.recover()
    assert recovery.complaint is None
    content = is_whole(path, kind)
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
    tmp_path: Path, kind: str, steps: dict[str, list[tuple[str, int]]]
) -> None:
    """The path is a whole release at that moment, and the next start cleans up."""
    after = []
    for number, (call, when) in enumerate(steps[kind]):
        path = prepared(tmp_path / str(number), kind)
        done = traced(path, kind, "-e", f"inject={call}:signal=KILL:when={when}")
        assert done.returncode == -9, (call, when, done.stderr)
        is_whole(path, kind)
        after.append(recovers(path, kind))
    assert OLD in after
    if kind in ("commit", "restore"):
        assert NEW in after


@pytest.mark.parametrize("error", ["EIO", "EROFS", "ENOSPC"])
@pytest.mark.parametrize("kind", ["file", "tree"])
def test_failing_at_any_step(
    tmp_path: Path, kind: str, error: str, steps: dict[str, list[tuple[str, int]]]
) -> None:
    """Either it succeeds all the same, or the old release is in place and the error says why."""
    failed = 0
    for number, (call, when) in enumerate(steps[kind]):
        path = prepared(tmp_path / str(number), kind)
        # one step and, as a disk does not get well again, all of this kind that follow
        done = traced(path, kind, "-e", f"inject={call}:error={error}:when={when}+")
        content = is_whole(path, kind)
        if done.returncode:
            failed += 1
            assert re.match(rf"StoreError: .*{os.strerror(getattr(__import__('errno'), error))}", done.stderr), done.stderr
            if call not in ("fsync", "rename"):
                assert content == OLD, (call, when)
        recovers(path, kind)
    assert failed > len(steps[kind]) / 2


@pytest.mark.parametrize("error", ["ETXTBSY", "EBUSY", "EINTR"])
def test_what_passes_is_tried_again(tmp_path: Path, error: str) -> None:
    """A rename that the system refuses for a moment is no failure."""
    path = prepared(tmp_path / "a", "file")
    done = traced(path, "file", "-e", f"inject=/^rename:error={error}:when=4..5")
    assert (done.returncode, done.stderr) == (0, "")
    assert read(path) == NEW


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 400 KiB."""
    if os.geteuid() != 0:
        cannot("only root can mount a file system")
    place = tmp_path / "small"
    place.mkdir()
    mount = [need("mount"), "-t", "tmpfs", "-o", "size=400k,nr_inodes=60", "none", str(place)]
    if subprocess.run(mount, check=False).returncode:
        cannot("a file system cannot be mounted here")
    yield place
    subprocess.run([need("umount"), str(place)], check=True)


def fill(place: Path) -> int:
    """Take all space that is left, and return it in bytes."""
    with (place / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return file.tell()


@pytest.mark.parametrize("kind", ["file", "tree"])
@pytest.mark.parametrize("what", ["pages", "inodes"])
def test_a_disk_that_is_full_at_any_write(small: Path, kind: str, what: str) -> None:
    """So much fits and no more: nothing is half installed, and to go back needs no space at all."""
    tree, installed = kind == "tree", 0
    for room in range(24):
        path = prepared(small / "srv", kind)
        store = Store(path)
        if what == "pages":
            os.truncate(small / "filler", max(0, fill(small) - room * 4096))
        else:
            left = os.statvfs(small).f_ffree - room
            for number in range(left):
                (small / f"inode{number}").touch()
        try:
            install(store, NEW, tree=tree)
        except (StoreError, OSError):
            assert read(path) == OLD
            assert store.trying is None
        else:
            installed += 1
            assert read(path) == NEW
            if what == "pages":
                fill(small)
            assert store.restore() == store.current
            assert read(path) == OLD
        assert not [name for name in os.listdir(f"{path}.releases") if name.startswith(".")]
        for each in small.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    assert 0 < installed < 24
