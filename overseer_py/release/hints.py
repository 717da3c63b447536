"""When to look at watched paths again: what inotify(7) tells, by way of watchdog.

Hints only.  A watch on a file is blind once another is renamed over it, and one on a directory once
that is renamed itself or a link before it is flipped, so every directory on the way is watched as
well; what has really changed, the tree tells.  Where inotify has no watches left, or the file
system is not this machine's own, everything is looked at every second instead.
"""

from __future__ import annotations

import glob
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from watchdog import events
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers.api import ObservedWatch
from watchdog.observers.inotify import InotifyObserver
from watchdog.observers.inotify_move_event_grouper import InotifyMoveEventGrouper

from overseer_py.release.watched import meant, without_magic

# File systems that others change without this kernel's knowledge.
ELSEWHERE = ("nfs", "cifs", "smb", "9p", "fuse", "ceph", "virtiofs", "vboxsf", "afs", "glusterfs")
_WANTED: list[type[FileSystemEvent]] = [  # not what reading them causes
    events.DirCreatedEvent,
    events.DirDeletedEvent,
    events.DirMovedEvent,
    events.FileAttribEvent,
    events.FileClosedEvent,
    events.FileCreatedEvent,
    events.FileDeletedEvent,
    events.FileModifiedEvent,
    events.FileMovedEvent,
]

# Seconds that watchdog waits for the second half of a rename: both come at once, rename(2).
InotifyMoveEventGrouper.delay = 0.02
# It says so of each directory that it sees twice, as by mkdir -p, and goes on; nobody need hear it.
warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)

OnHint = Callable[[str], None]  # called in a thread of the observer's, with a path
Place = tuple[str, bool]  # a directory, and whether what is below counts, too


class Hints:
    """Watches what has to be watched for these paths, and follows them where links lead."""

    def __init__(self, patterns: Iterable[str], on_hint: OnHint) -> None:
        self.blind = ""  # why inotify cannot be relied on; empty if it can
        self.ways: set[str] = set()  # to the watched paths, with no link before them
        self._patterns = list(patterns)
        self._on_hint = on_hint
        self._observer: InotifyObserver | None = None
        self._scheduled: dict[Place, _Handler] = {}
        self._losses = _Losses(on_hint)

    def follow(self) -> None:
        """Watch the directories that matter now, and no others."""
        if self.blind:
            return
        self.ways = {way for pattern in self._patterns for way in steps(pattern)}
        bases = {base for pattern in self._patterns for base in _base(pattern)}
        shallow = {(os.path.dirname(way), False) for way in self.ways}
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        for directory, _ in bases | shallow:
            if kind := elsewhere(directory, mounts):
                self._give_up(f"{directory} is on {kind}")
                return
        try:
            self._schedule(bases | shallow, {directory for directory, _ in bases})
        except OSError as error:
            self._give_up(f"inotify: {error.args[-1]}")

    def links(self) -> list[str]:
        """Return the links on the way."""
        return [way for way in self.ways if os.path.islink(way)]

    def close(self) -> None:
        """Watch nothing any more."""
        logging.getLogger("watchdog").removeHandler(self._losses)
        if self._observer:
            self._observer.stop()
            self._observer.join()
            self._observer = None
        self._scheduled.clear()

    def _schedule(self, wanted: set[Place], bases: set[str]) -> None:
        if self._observer is None:
            logging.getLogger("watchdog").addHandler(self._losses)
            self._observer = InotifyObserver()
            self._observer.start()
        for place, handler in list(self._scheduled.items()):
            if place not in wanted or handler.inode != _inode(place[0]):
                self._observer.unschedule(self._scheduled.pop(place).watch)
        for place in sorted(wanted - self._scheduled.keys()):
            with suppress(FileNotFoundError, NotADirectoryError):  # the one above will tell
                self._add(self._observer, place)
        for (directory, _), handler in self._scheduled.items():
            handler.whole = directory in bases
        # Of a directory further down that cannot be watched, watchdog says nothing; one more can't.
        self._observer.unschedule(self._observer.schedule(_Handler(self, ""), "/proc/self"))

    def _add(self, observer: InotifyObserver, place: Place) -> None:
        directory, deep = place
        handler = _Handler(self, directory)
        handler.watch = observer.schedule(handler, directory, recursive=deep, event_filter=_WANTED)
        self._scheduled[place] = handler

    def hint(self, path: str) -> None:
        """Pass it on."""
        self._on_hint(path)

    def _give_up(self, why: str) -> None:
        self.blind = why
        self.close()


class _Handler(FileSystemEventHandler):
    """Passes on what matters in a directory: what is on the way, or the whole of it."""

    watch: ObservedWatch

    def __init__(self, hints: Hints, directory: str) -> None:
        self.inode = _inode(directory)
        self.whole = True  # until it is known
        self._hints = hints
        self._directory = directory

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Hear of one event."""
        for raw in (event.src_path, event.dest_path):
            path = os.fsdecode(raw)
            if path == self._directory:
                self.inode = None  # it has gone; another may have its number
            if path and self._matters(path):
                self._hints.hint(path)

    def _matters(self, path: str) -> bool:
        inside = path[len(self._directory) :]
        return path in self._hints.ways or (self.whole and meant(inside))


class _Losses(logging.Handler):
    """Events were lost, as watchdog's log tells, and nothing else: anything may have changed."""

    def __init__(self, on_hint: OnHint) -> None:
        super().__init__()
        self._on_hint = on_hint

    def emit(self, record: logging.LogRecord) -> None:
        """Hear of it."""
        if "overflow" in record.getMessage():
            self._on_hint("")


def steps(pattern: str) -> Iterator[str]:
    """Yield everything on the way to a path, and the path itself, with no link before it."""
    path, left = "/", _parts(without_magic(pattern))
    links = 40  # as many as the kernel follows, path_resolution(7)
    while left and links:
        path = os.path.normpath(os.path.join(path, left.pop(0)))
        yield path
        with suppress(OSError):  # no link
            target = os.readlink(path)
            left = _parts(target) + left
            path = "/" if target.startswith("/") else os.path.dirname(path)
            links -= 1


def elsewhere(directory: str, mounts: str) -> str:
    """Return the type of a file system that others can change; empty if it is this machine's.

    ``mounts`` is what /proc/self/mountinfo says, proc_pid_mountinfo(5).
    """
    best, kind = "", ""
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        mount = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields.split()[4])
        inside = directory == mount or directory.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, rest.split()[0]
    return kind if kind.startswith(ELSEWHERE) else ""


def _base(pattern: str) -> Iterator[Place]:
    """Yield the directory that is watched as a whole for a path, if there is one."""
    plain = without_magic(pattern)
    base = os.path.realpath(plain)
    if os.path.isdir(base):
        yield base, not glob.has_magic(pattern) or "/" in pattern[len(plain) + 1 :]


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _inode(directory: str) -> tuple[int, int] | None:
    try:
        found = os.stat(directory)
    except OSError:
        return None
    return found.st_dev, found.st_ino
