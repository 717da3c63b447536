"""Another path on this machine."""

from __future__ import annotations

import os
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from overseer_py.errors import FetchError
from overseer_py.release import file as module
from overseer_py.release.candidate import Candidate, Limits
from overseer_py.release.file import FileSource
from overseer_py.release.watched import changed_at, now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file that was just written."""
    path = tmp_path / "app.tar.gz"
    path.write_bytes(b"one")
    return path


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no file be old enough by its times, however slow the machine is."""
    monkeypatch.setattr(module, "_STILL", 3600.0)


def source(path: Path, limits: Limits | None = None) -> FileSource:
    """Return the source of a path."""
    return FileSource(f"file:{path}", limits or Limits(), {})


def looked(path: Path) -> Candidate:
    """Return the candidate of a file at rest."""
    there = source(path)
    there.look({})
    candidate = there.look({})
    assert candidate is not None
    a_tick_passes(path)
    return candidate


def a_tick_passes(path: Path) -> None:
    """Wait until a change has another time stamp: they are of a coarse clock before Linux 6.13."""
    while now() <= max(changed_at(str(path)), path.stat().st_mtime_ns):
        pass


def test_a_file_is_offered_when_two_looks_find_the_same(path: Path) -> None:
    """Once is not enough: somebody may be writing."""
    there = source(path)
    assert there.look({}) is None
    candidate = there.look({})
    found = path.stat()
    assert candidate == Candidate(
        name="app.tar.gz",
        place=str(path),
        published=found.st_mtime,
        size=3,
        known={
            "inode": str(found.st_ino),
            "size": "3",
            "mtime_ns": str(found.st_mtime_ns),
            "ctime_ns": str(found.st_ctime_ns),
        },
    )
    into = BytesIO()
    there.download(candidate, into)
    assert into.getvalue() == b"one"


def test_a_slow_writer_is_waited_for(path: Path) -> None:
    """Between any two looks something has come; then nothing does."""
    there = source(path)
    with path.open("ab", buffering=0) as writer:
        for _ in range(5):
            assert there.look({}) is None
            writer.write(b"more")
    assert there.look({}) is None
    candidate = there.look({})
    assert candidate is not None
    assert candidate.size == len(b"one" + 5 * b"more")


def test_a_writer_that_turns_the_clock_back_is_waited_for(path: Path) -> None:
    """Like cp -p and rsync -t: the size and the mtime stay, the ctime cannot."""
    there = source(path)
    for content in (b"two", b"six"):
        a_tick_passes(path)
        path.write_bytes(content)
        os.utime(path, (1, 1))
        assert there.look({}) is None
    assert there.look({}) is not None


def test_a_file_that_was_left_alone_is_offered_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own times it has been as it is for long."""
    later = time.time() + 7200
    monkeypatch.setattr(time, "time", lambda: later)
    assert source(path).look({}) is not None


def test_what_is_known_is_not_offered_until_it_changes(path: Path) -> None:
    """By content, by rename, by link: each makes other facts."""
    candidate = looked(path)
    there = source(path)
    assert [there.look(candidate.known) for _ in range(3)] == [None] * 3
    new = path.with_name("new")
    new.write_bytes(b"two")
    new.replace(path)
    assert there.look(candidate.known) is None
    assert there.look(candidate.known) is not None


def test_a_flipped_link_is_a_new_file(path: Path, tmp_path: Path) -> None:
    """The link is followed; its own times are of no interest."""
    link, other = tmp_path / "current", tmp_path / "other"
    other.write_bytes(b"two")
    link.symlink_to(path)
    candidate = looked(link)
    flipped = tmp_path / "flipped"
    flipped.symlink_to(other)
    flipped.replace(link)
    there = source(link)
    there.look(candidate.known)
    new = there.look(candidate.known)
    assert new is not None
    assert (new.name, new.known["inode"]) == ("current", str(other.stat().st_ino))


def test_no_file_is_nothing_new(path: Path) -> None:
    """It may come; when it does, it is looked at twice as any other."""
    there = source(path)
    there.look({})
    path.rename(path.with_name("away"))
    assert there.look({}) is None
    path.with_name("away").rename(path)
    assert there.look({}) is None
    assert there.look({}) is not None


def test_a_file_that_changes_while_it_is_copied_is_an_error(path: Path) -> None:
    """What was written is then of two files."""
    candidate = looked(path)

    class Meanwhile(BytesIO):
        def write(self, content: Any, /) -> int:
            path.write_bytes(b"two")
            return super().write(content)

    with pytest.raises(FetchError, match="has changed since"):
        source(path).download(candidate, Meanwhile())


def test_a_file_that_was_changed_before_the_copy_is_an_error(path: Path) -> None:
    """Nothing of it is written."""
    candidate, into = looked(path), BytesIO()
    path.write_bytes(b"two")
    with pytest.raises(FetchError, match="has changed since"):
        source(path).download(candidate, into)
    assert into.getvalue() == b""


def test_a_file_that_is_gone_before_the_copy_is_an_error(path: Path) -> None:
    """The next look says nothing of it any more."""
    candidate = looked(path)
    path.unlink()
    with pytest.raises(FetchError, match="is gone since"):
        source(path).download(candidate, BytesIO())


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    """A directory has to be packed, and a FIFO is not waited for."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name, reason in (("folder", "is a directory; pack it"), ("fifo", "is no regular file")):
        with pytest.raises(FetchError, match=reason):
            source(tmp_path / name).look({})
        with pytest.raises(FetchError, match=reason):
            source(tmp_path / name).download(Candidate(name, ""), BytesIO())


def test_what_the_system_refuses_has_its_reason(path: Path) -> None:
    """Here a path through what is no directory, and a link to itself."""
    with pytest.raises(FetchError, match="Not a directory"):
        source(path / "below").look({})
    link = path.with_name("link")
    link.symlink_to(link)
    with pytest.raises(FetchError, match="symbolic links"):
        source(link).look({})


def test_a_file_that_is_too_big_is_refused(path: Path) -> None:
    """When it is looked at, and when it is copied."""
    small = source(path, Limits(size=2))
    small.look({})
    with pytest.raises(FetchError, match="more than 2 bytes"):
        small.look({})
    with pytest.raises(FetchError, match="more than 2 bytes"):
        small.download(looked(path), BytesIO())


def test_a_copy_ends_at_its_deadline(path: Path) -> None:
    """A dead network file system may take for ever."""
    with pytest.raises(FetchError, match="not done after"):
        source(path, Limits(download=0.0)).download(looked(path), BytesIO())


def test_a_full_disk_is_not_the_fault_of_the_file(path: Path) -> None:
    """What writing raises comes through as it is."""
    candidate = looked(path)
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space"):
        source(path).download(candidate, full)
