"""What is at the watched paths: which files, and what is in them.

A file counts by its content.  Inode, size and times tell only whether it must be read again: a stat
misses nothing if it compares all of them in nanoseconds.
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch

Signature = tuple[int, int, int, int, int]  # inode, mode, size, mtime_ns, ctime_ns

# What editors, version control and interpreters leave beside the files that somebody means.
DROPPINGS = ("*~", ".#*", "#*#", ".*.sw?", "*.swp", "4913", "*.pyc", "*___jb_*", ".goutputstream-*")
DIRECTORIES = (".git", ".hg", ".svn", "__pycache__")


@dataclass(slots=True)
class Watched:
    """The watched files as they were when they were last looked at."""

    patterns: tuple[str, ...]
    signatures: dict[str, Signature] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)  # digests

    def look(self) -> list[str]:
        """Look at everything anew; return the paths of which the content has changed."""
        found = dict(files(self.patterns))
        changed = [path for path in self.contents if path not in found]
        for path in changed:
            del self.contents[path], self.signatures[path]
        for path, signature in found.items():
            if self.signatures.get(path) != signature and self._read(path, signature):
                changed.append(path)
        return changed

    def look_at(self, paths: Iterable[str]) -> list[str]:
        """Look at a few files that are known already; return those that have changed."""
        changed = []
        for path in paths:
            signature = _signature(path, follow=True) if path in self.contents else None
            if signature and self.signatures[path] != signature and self._read(path, signature):
                changed.append(path)
        return changed

    @property
    def digest(self) -> str:
        """One digest for all contents."""
        return _hash(f"{path}\0{self.contents[path]}\n".encode() for path in sorted(self.contents))

    def _read(self, path: str, signature: Signature) -> bool:
        """Note what is in a file now; tell whether that is something else than before."""
        before = self.contents.get(path)
        try:
            now = _content(path, signature[1])
        except OSError:  # gone or not ours to read: as it is, until it changes
            now = "unreadable"
        self.signatures[path], self.contents[path] = signature, now
        return now != before


def files(patterns: Iterable[str]) -> Iterator[tuple[str, Signature]]:
    """Yield every file at these paths; directories are walked, links in them are not followed."""
    for pattern in patterns:
        paths = glob.glob(pattern, recursive=True, include_hidden=True)
        for path in [pattern] if os.path.exists(pattern) else paths:
            if os.path.isdir(path):
                yield from _walk(path)
            elif signature := _signature(path, follow=True):
                yield path, signature


def matters(name: str) -> bool:
    """Whether a file of this name is more than a dropping."""
    return not any(fnmatch(name, pattern) for pattern in DROPPINGS)


def named(changed: Iterable[str]) -> str:
    """Return a few words for what has changed; empty for nothing."""
    names = sorted(changed)
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}" if names else ""


def _walk(directory: str) -> Iterator[tuple[str, Signature]]:
    try:
        with os.scandir(directory) as found:
            entries = list(found)
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in DIRECTORIES:
                yield from _walk(entry.path)
        elif matters(entry.name) and (signature := _signature(entry.path, follow=False)):
            yield entry.path, signature


def _signature(path: str, *, follow: bool) -> Signature | None:
    try:
        found = os.stat(path, follow_symlinks=follow)
    except OSError:
        return None
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _content(path: str, mode: int) -> str:
    """Return the digest of a file, or of where a link points; raise OSError."""
    if stat.S_ISLNK(mode):
        return _hash([b"link", os.fsencode(os.readlink(path))])
    if not stat.S_ISREG(mode):
        return str(stat.S_IFMT(mode))  # never opened: fifo(7)
    with open(path, "rb", buffering=0) as file:
        executable = b"x" if mode & stat.S_IXUSR else b"-"
        return _hash([executable, hashlib.file_digest(file, "sha256").digest()])


def _hash(parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()
