"""When to look at watched paths again: what inotify(7) tells, by way of watchdog.

Hints only.  A watch on a file is blind once another is renamed over it, and one on a directory once
a link before it is flipped, so the directories of every link on the way are watched as well; what
has really changed, the tree tells.  Where inotify has no watches left, or the file system is not
this machine's own, everything is looked at every second instead.
"""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.inotify import InotifyObserver

from overseer_py.release.watched import DIRECTORIES, matters

# File systems that others change without this kernel's knowledge.
ELSEWHERE = ("nfs", "cifs", "smb", "9p", "fuse", "ceph", "virtiofs", "vboxsf", "afs", "glusterfs")
_USED_UP = (errno.ENOSPC, errno.EMFILE, errno.ENOMEM, errno.ENOSYS)
_WANTED: list[type[FileSystemEvent]] = [  # not what reading them causes
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]

OnHint = Callable[[str], None]  # called in a thread of the observer's, with a path


class Hints:
    """Watches what has to be watched for these paths, and follows them where links lead."""

    def __init__(self, patterns: Iterable[str], on_hint: OnHint) -> None:
        self.blind = ""  # why inotify cannot be relied on; empty if it can
        self._patterns = list(patterns)
        self._on_hint = on_hint
        self._observer: InotifyObserver | None = None
        self._scheduled: dict[tuple[str, bool], object] = {}

    def follow(self) -> None:
        """Watch the directories that matter now, and no others."""
        if self.blind:
            return
        wanted = {place for pattern in self._patterns for place in places(pattern)}
        try:
            self._schedule(wanted)
        except OSError as error:
            if error.errno not in _USED_UP:
                raise
            self._give_up(f"inotify: {error.strerror}")
        for directory, _ in wanted:
            if kind := elsewhere(directory):
                self._give_up(f"{directory} is on {kind}")

    def close(self) -> None:
        """Watch nothing any more."""
        if self._observer:
            self._observer.stop()
            self._observer.join()
            self._observer = None
        self._scheduled.clear()

    def _schedule(self, wanted: set[tuple[str, bool]]) -> None:
        if self._observer is None:
            self._observer = InotifyObserver()
            self._observer.start()
        for place in [place for place in self._scheduled if place not in wanted]:
            self._observer.unschedule(self._scheduled.pop(place))  # type: ignore[arg-type]
        for directory, recursive in sorted(wanted - self._scheduled.keys()):
            handler = _Handler(self._on_hint, self._of_interest(directory, recursive=recursive))
            self._scheduled[directory, recursive] = self._observer.schedule(
                handler, directory, recursive=recursive, event_filter=_WANTED
            )

    def _of_interest(self, directory: str, *, recursive: bool) -> set[str] | None:
        """Return the paths in a directory that matter; None if all do."""
        if recursive or any(glob.has_magic(pattern) for pattern in self._patterns):
            return None
        ways = {way for pattern in self._patterns for way in steps(pattern)}
        return {way for way in ways if os.path.dirname(way) == directory}

    def _give_up(self, why: str) -> None:
        self.blind = why
        self.close()


class _Handler(FileSystemEventHandler):
    """Passes on what matters."""

    def __init__(self, on_hint: OnHint, interest: set[str] | None) -> None:
        self._on_hint = on_hint
        self._interest = interest

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Hear of one event."""
        for raw in (event.src_path, event.dest_path):
            path = os.fsdecode(raw)
            if path and self._matters(path):
                self._on_hint(path)

    def _matters(self, path: str) -> bool:
        if self._interest is not None:
            return path in self._interest
        parts = path.split("/")
        return matters(parts[-1]) and not set(parts) & set(DIRECTORIES)


def places(pattern: str) -> Iterator[tuple[str, bool]]:
    """Yield the directories to watch for a path, each with whether what is below counts, too."""
    for step in steps(pattern):
        parent = os.path.dirname(step)
        if os.path.isdir(parent):
            yield parent, False
    base = os.path.realpath(_without_magic(pattern))
    if os.path.isdir(base):
        deep = not glob.has_magic(pattern) or "/" in pattern[len(_without_magic(pattern)) + 1 :]
        yield base, deep


def steps(pattern: str) -> Iterator[str]:
    """Yield every link on the way to a path, and the path itself, with no link before them."""
    path, left = "/", [part for part in _without_magic(pattern).split("/") if part]
    for _ in range(40):  # as many links as the kernel follows, path_resolution(7)
        while left:
            path = os.path.normpath(os.path.join(path, left.pop(0)))
            if os.path.islink(path):
                yield path
                target = os.readlink(path)
                left = [part for part in target.split("/") if part] + left
                path = "/" if target.startswith("/") else os.path.dirname(path)
                break
        else:
            yield path
            return


def elsewhere(directory: str) -> str:
    """Return the type of a file system that others can change; empty if it is this machine's."""
    best, kind = "", ""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        mount = fields.split()[4].encode().decode("unicode_escape")
        inside = directory == mount or directory.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, rest.split()[0]
    return kind if kind.startswith(ELSEWHERE) else ""


def _without_magic(pattern: str) -> str:
    """Return the part of a path before the first wildcard."""
    parts = pattern.split("/")
    plain = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return "/".join(parts[:plain]) or "/"
