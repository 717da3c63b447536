"""A directory that is filled with what an archive says, and nothing is written beside it.

The rules, whatever the archive: names are relative, have no ``..`` and no control characters, and
come once; what a member lies in is a directory, never a link; links are made last, are relative,
and lead nowhere outside, even through one another; there are no devices, sockets or pipes; modes
are 0755 or 0644, owners are ours.

tarfile's own ``filter="data"`` is not relied on: Python 3.11 has it only since 3.11.4, zip files
have nothing like it, and it follows links that members before have made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from enum import Enum, auto

from overseer_py.errors import VetoError

MOST_MEMBERS = 100_000  # files, links and directories, also those that are only implied
_DEEPEST = 64  # directories in one another; what removes them recurses
_LONGEST = 2048  # bytes of a name; PATH_MAX is 4096, and the tree lies somewhere
_LONGEST_PART = 255  # bytes; NAME_MAX
_MOST_HOPS = 40  # links on the way to one target, as in path_resolution(7)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # and what was no UTF-8

Parts = tuple[str, ...]


class Kind(Enum):
    """What a member is."""

    DIRECTORY = auto()
    FILE = auto()
    LINK = auto()


class Tree:
    """What is made below ``root``, an empty directory that nobody else can write to."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._made: dict[Parts, Kind] = {(): Kind.DIRECTORY}
        self._links: dict[Parts, str] = {}

    def directory(self, name: str) -> None:
        """Make a directory, if it is not there."""
        self._directory(parts(name), name)

    def file(self, name: str, chunks: Iterable[bytes], *, executable: bool) -> None:
        """Write a file."""
        path = self._new(name, Kind.FILE)
        write_file(path, chunks, executable=executable)

    def hard_link(self, name: str, target: str) -> None:
        """Make a second name for a file that an earlier member has made."""
        if self._made.get(parts(target)) is not Kind.FILE:
            raise VetoError(f"{_shown(name)}: a hard link to {_shown(target)}, no file before it")
        earlier = self._path(parts(target))
        os.link(earlier, self._new(name, Kind.FILE), follow_symlinks=False)

    def link(self, name: str, target: str) -> None:
        """Note a symbolic link, to be made by ``finish``."""
        if not target or _CONTROL.search(target) or len(os.fsencode(target)) > _LONGEST:
            raise VetoError(f"{_shown(name)}: a link to {_shown(target)}, which is no path")
        self._new(name, Kind.LINK)
        self._links[parts(name)] = target

    def finish(self) -> None:
        """Make the links, if all of them lead to somewhere inside; raise if there is no file."""
        if Kind.FILE not in self._made.values():
            raise VetoError("the archive is empty")
        for link, target in self._links.items():
            if not _stays_inside(link, self._links):
                raise VetoError(f"{'/'.join(link)}: a link to {_shown(target)}, outside")
        for link, target in self._links.items():
            os.symlink(target, self._path(link))

    def _new(self, name: str, kind: Kind) -> str:
        place = parts(name)
        self._directory(place[:-1], name)
        if place in self._made:
            raise VetoError(f"{_shown(name)}: it is in the archive twice")
        self._count(place, kind)
        return self._path(place)

    def _directory(self, place: Parts, name: str) -> None:
        if self._made.get(place) is Kind.DIRECTORY:
            return
        for end in range(1, len(place) + 1):
            match self._made.get(place[:end]):
                case Kind.DIRECTORY:
                    continue
                case None:
                    self._count(place[:end], Kind.DIRECTORY)
                    make_directory(self._path(place[:end]))
                case _:
                    above = "/".join(place[:end])
                    raise VetoError(f"{_shown(name)}: {_shown(above)} is not a directory")

    def _count(self, place: Parts, kind: Kind) -> None:
        if len(self._made) > MOST_MEMBERS:
            raise VetoError(f"the archive has more than {MOST_MEMBERS} members")
        self._made[place] = kind

    def _path(self, place: Parts) -> str:
        return os.path.join(self._root, *place)


def parts(name: str) -> Parts:
    """Return the directories and the name of a member; empty for the root (``./``).

    Raises VetoError for a name that could be something else than a path below the root.
    """
    if _CONTROL.search(name):
        raise VetoError(f"{_shown(name)}: control characters, or no UTF-8, in a name")
    if not name or name.startswith("/"):
        raise VetoError(f"{_shown(name)}: not a relative path")
    place = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in place:
        raise VetoError(f"{_shown(name)}: .. in a path")
    longest = max((len(part.encode()) for part in place), default=0)
    if len(place) > _DEEPEST or len(name.encode()) > _LONGEST or longest > _LONGEST_PART:
        raise VetoError(f"{_shown(name)}: the path is too long")
    return place


def make_directory(path: str) -> None:
    """Make a directory that all can read, whatever the umask."""
    os.mkdir(path)
    os.chmod(path, 0o755)  # noqa: S103 - releases are run by others than the updater


def write_file(path: str, chunks: Iterable[bytes], *, executable: bool) -> int:
    """Write a file that must not be there yet, not even as a link; return its size in bytes."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as file:
        size = sum(file.write(chunk) for chunk in chunks)
        os.fchmod(file.fileno(), 0o755 if executable else 0o644)  # whatever the umask
    return size


def _stays_inside(link: Parts, links: dict[Parts, str]) -> bool:
    """Whether the target is inside, resolved as the kernel does: path_resolution(7).

    Not by the text of the path alone: ``a/..`` is somewhere else if ``a`` is a link.
    """
    at = list(link[:-1])
    ahead = _steps(links[link])
    hops = 0
    while ahead:
        step = ahead.pop()
        if step == "/" or (step == ".." and not at):
            return False
        if step == "..":
            at.pop()
        else:
            at.append(step)
            if target := links.get(tuple(at)):
                hops += 1
                if hops > _MOST_HOPS:
                    return False  # a loop: it leads nowhere, and is of no use
                at.pop()
                ahead += _steps(target)
    return True


def _steps(target: str) -> list[str]:
    """Return the steps of a path, the last one first; ``/`` is that to the root of the system."""
    steps = [step for step in target.split("/") if step not in ("", ".")]
    return steps[::-1] + (["/"] if target.startswith("/") else [])


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:80]}…")  # noqa: PLR2004 - a line's worth
