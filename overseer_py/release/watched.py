"""What is at the watched paths: which files, and what is in them.

A file counts by its content.  Inode, size and times tell only whether it must be read again; a time
stamp that is as young as the reading tells nothing, for the file may change again within it.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import PurePath

Signature = tuple[int, int, int, int, int]  # inode, mode, size, mtime_ns, ctime_ns

# What editors, version control and interpreters leave beside the files that somebody means.
DROPPINGS = ("*~", ".#*", "#*#", ".*.sw?", "*.swp", "4913", "*.pyc", "*___jb_*", ".goutputstream-*")
DIRECTORIES = {".git", ".hg", ".svn", "__pycache__"}
_DROPPING = re.compile("|".join(map(translate, DROPPINGS)))
_COARSE = 5  # CLOCK_REALTIME_COARSE, clock_gettime(2): the clock of time stamps


@dataclass(slots=True)
class Watched:
    """The watched files as they were when they were last looked at."""

    patterns: tuple[str, ...]
    contents: dict[str, str] = field(default_factory=dict)  # digests
    _signatures: dict[str, Signature | None] = field(default_factory=dict)  # None: read it again
    _follow: dict[str, bool] = field(default_factory=dict)  # what a link points to counts

    def look(self) -> list[str]:
        """Look at everything anew; return the paths of which the content has changed."""
        self._follow = dict(files(self.patterns))
        return [path for path in {*self.contents, *self._follow} if self._differs(path)]

    def look_at(self, paths: Iterable[str]) -> list[str]:
        """Look at a few files that are known already; return those that have changed."""
        return [path for path in paths if path in self.contents and self._differs(path)]

    @property
    def digest(self) -> str:
        """One digest for all contents."""
        return _hash(
            os.fsencode(f"{path}\0{self.contents[path]}\n") for path in sorted(self.contents)
        )

    def _differs(self, path: str) -> bool:
        """Note what is at a path now; tell whether that is something else than before."""
        begun, before = now(), self.contents.get(path)
        signature = _signature(path, follow=self._follow[path]) if path in self._follow else None
        if signature is None:
            self._signatures.pop(path, None)
            return self.contents.pop(path, None) is not None
        if self._signatures.get(path) != signature:
            self.contents[path] = _content(path, signature[1])
            self._signatures[path] = signature if signature[4] < begun else None
        return self.contents[path] != before


def files(patterns: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Yield every file at these paths, and whether it is followed if it is a link.

    Directories are walked, and links in them are not followed.
    """
    for pattern in patterns:
        for path in [pattern] if os.path.exists(pattern) else _matching(pattern):
            if os.path.isdir(path):
                yield from ((found, False) for found in _walk(path))
            else:
                yield path, True


def now() -> int:
    """Return the time as new time stamps have it, in ns since the epoch."""
    return time.clock_gettime_ns(_COARSE)


def changed_at(path: str) -> int:
    """Return when what is at a path, or was, has last changed, in ns since the epoch."""
    with suppress(OSError):
        at = os.lstat(path).st_ctime_ns
        return at if os.path.isdir(path) else max(at, os.stat(path).st_ctime_ns)
    for parent in PurePath(path).parents:  # it has gone, which is a change of what it was in
        with suppress(OSError):
            return os.stat(parent).st_ctime_ns
    return 0


def meant(path: str) -> bool:
    """Whether a path below a watched directory, relative to it, is more than a dropping."""
    return matters(os.path.basename(path)) and DIRECTORIES.isdisjoint(path.split("/"))


def matters(name: str) -> bool:
    """Whether a file of this name is more than a dropping."""
    return not _DROPPING.match(name)


def named(changed: Iterable[str]) -> str:
    """Return a few words for what has changed; empty for nothing."""
    names = sorted(changed)
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}" if names else ""


def without_magic(pattern: str) -> str:
    """Return the part of a path before the first wildcard."""
    parts = pattern.split("/")
    plain = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return "/".join(parts[:plain]) or "/"


def _matching(pattern: str) -> list[str]:
    found = glob.glob(pattern, recursive=True, include_hidden=True)
    base = len(without_magic(pattern))
    return [path for path in found if meant(path[base:])]


def _walk(directory: str) -> Iterator[str]:
    try:
        with os.scandir(directory) as found:
            entries = list(found)
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in DIRECTORIES:
                yield from _walk(entry.path)
        elif matters(entry.name):
            yield entry.path


def _signature(path: str, *, follow: bool) -> Signature | None:
    try:
        found = os.stat(path, follow_symlinks=follow)
    except OSError:
        return None
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _content(path: str, mode: int) -> str:
    """Return the digest of a file, or of where a link points."""
    try:
        if stat.S_ISLNK(mode):
            return _hash([b"link", os.fsencode(os.readlink(path))])
        if not stat.S_ISREG(mode):
            return str(stat.S_IFMT(mode))  # never opened: fifo(7)
        with open(path, "rb", buffering=0) as file:
            executable = b"x" if mode & stat.S_IXUSR else b"-"
            return _hash([executable, hashlib.file_digest(file, "sha256").digest()])
    except OSError:  # gone or not ours to read: as it is, until it changes
        return "unreadable"


def _hash(parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()
