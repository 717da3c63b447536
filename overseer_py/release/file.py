"""``file:/path``: another path on this machine, of which somebody copies releases to it.

Whether a writer is done nobody says.  A file is taken when two looks have found the same (inode,
size, mtime and ctime in nanoseconds), or when by its own times it was left alone for a second; and
the copy counts only if it is still the same when the copy is done.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO

from overseer_py.errors import FetchError
from overseer_py.release import places
from overseer_py.release.allowance import CHUNK, Allowance
from overseer_py.release.candidate import Candidate, Limits

_STILL = 1.0  # seconds

Facts = dict[str, str]


class FileSource:
    """One path; links are followed, so a flipped link is a new file."""

    interval = 1.0

    def __init__(self, url: str, limits: Limits, environ: Mapping[str, str]) -> None:
        self._path = places.file(url)
        self._limits = limits
        self._seen: Facts = {}

    def look(self, known: Mapping[str, str]) -> Candidate | None:
        """Return the file; None if it is known, is not there, or still changes."""
        try:
            with self._failing():
                found = os.stat(self._path)
        except FileNotFoundError:
            self._seen = {}
            return None
        self._only_files(found)
        facts = _facts(found)
        before, self._seen = self._seen, facts
        if _same(facts, known) or not (facts == before or _left_alone(found)):
            return None
        self._allow(self._limits.look).admit(found.st_size)
        return Candidate(
            name=os.path.basename(self._path),
            place=self._path,
            published=found.st_mtime,
            size=found.st_size,
            known=facts,
        )

    def download(self, candidate: Candidate, into: BinaryIO) -> None:
        """Copy the file; raise FetchError if it is not, or not to the end, what was looked at."""
        with self._opened() as fd:
            self._unchanged(fd, candidate)
            self._allow(self._limits.download).copy(self._chunks(fd), into)
            self._unchanged(fd, candidate)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            with self._failing():
                # Non-blocking: by now it may be a FIFO that nobody writes to.
                fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise FetchError(f"file:{self._path}: is gone since it was looked at") from error
        try:
            yield fd
        finally:
            os.close(fd)

    def _chunks(self, fd: int) -> Iterator[bytes]:
        while True:
            with self._failing():
                chunk = os.read(fd, CHUNK)
            if not chunk:
                return
            yield chunk

    def _unchanged(self, fd: int, candidate: Candidate) -> None:
        found = os.fstat(fd)
        self._only_files(found)
        if not _same(_facts(found), candidate.known):
            raise FetchError(f"file:{self._path}: has changed since it was looked at; tried again")

    def _only_files(self, found: os.stat_result) -> None:
        if stat.S_ISDIR(found.st_mode):
            raise FetchError(f"file:{self._path}: is a directory; pack it as .tar.gz or .zip")
        if not stat.S_ISREG(found.st_mode):
            raise FetchError(f"file:{self._path}: is no regular file")

    def _allow(self, seconds: float) -> Allowance:
        return Allowance(f"file:{self._path}", seconds, self._limits.size)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Turn the system's reasons into FetchError, but let a file that is not there be told."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise FetchError(f"file:{self._path}: {error.strerror}") from error


def _facts(found: os.stat_result) -> Facts:
    return {
        "inode": str(found.st_ino),
        "size": str(found.st_size),
        "mtime_ns": str(found.st_mtime_ns),
        "ctime_ns": str(found.st_ctime_ns),
    }


def _same(facts: Facts, known: Mapping[str, str]) -> bool:
    return all(known.get(name) == value for name, value in facts.items())


def _left_alone(found: os.stat_result) -> bool:
    """Whether its times are old; mtime can be set to anything, but ctime cannot (inode(7))."""
    return time.time() - max(found.st_ctime, found.st_mtime) >= _STILL
