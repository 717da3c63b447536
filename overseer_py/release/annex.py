"""The directory of releases beside a path, ``PATH.releases``, and what is made in it.

It is made if need be; one that is a link, that somebody else can write to, or that is on another
file system, is refused each time that something is to be written.  What the system refuses is an
OSError.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from overseer_py.errors import StoreError
from overseer_py.release import durable

_STATE = "state.json"
_STATE_MOST = 1 << 24  # bytes
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Opened(NamedTuple):
    """Descriptors of the directory that the path is in, and of its releases."""

    parent: int
    releases: int


class Annex:
    """The directory of the releases of an absolute path."""

    def __init__(self, path: str) -> None:
        self._parent, self._name = os.path.split(path)
        if not self._name:
            raise StoreError(f"{path}: no place for a release; name a file or a directory")
        self.directory = f"{path}.releases"

    def where(self, name: str) -> str:
        """Return the path of what is in it."""
        return os.path.join(self.directory, name)

    @contextmanager
    def opened(self) -> Iterator[Opened]:
        """Open it and the directory that it is in, to write to them."""
        with ExitStack() as stack:
            parent = durable.open_directory(self._parent, follow=True)
            stack.callback(os.close, parent)
            made = self._make(parent)
            releases = durable.open_directory(self.directory)
            stack.callback(os.close, releases)
            if made:
                os.fchmod(releases, 0o755)  # whatever the umask
                os.fsync(parent)
            self._check(os.fstat(releases), os.fstat(parent))
            yield Opened(parent, releases)

    @contextmanager
    def temporary(self, what: str) -> Iterator[str]:
        """Yield a name in it, not used yet; what has it in the end is removed."""
        name = self._unused(what)
        try:
            yield name
        finally:
            self._remove(name)

    def stage(self) -> str:
        """Make a directory that only this user can enter; return its path."""
        with self.opened() as opened:
            name = self._unused("staging")
            os.mkdir(name, 0o700, dir_fd=opened.releases)
            return self.where(name)

    def sweep(self) -> int:
        """Remove what a crash has left behind; return how much."""
        leftovers = [name for name in os.listdir(self.directory) if name.startswith(".")]
        for name in leftovers:
            self._remove(name)
        return sum(not os.path.lexists(self.where(name)) for name in leftovers)

    def read(self) -> bytes | None:
        """Return the content of ``state.json``, None if there is none."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = os.open(self.where(_STATE), flags)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as file:
            return file.read(_STATE_MOST)

    def write(self, content: bytes) -> None:
        """Replace ``state.json``."""
        with self.opened() as opened:
            durable.write(_STATE, self._unused("state"), content, opened.releases)

    def set_aside(self, why: str) -> str:
        """Move ``state.json`` out of the way; return what is to be said of it."""
        path = self.where(_STATE)
        os.replace(path, f"{path}.broken")
        return f"{path}: {why}; it is now {path}.broken, and which releases are held is forgotten"

    def _unused(self, what: str) -> str:
        return f".{self._name[:100]}.{what}-{secrets.token_hex(8)}"

    def _remove(self, name: str) -> None:
        path = self.where(name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)  # follows no links
        elif os.path.lexists(path):
            with suppress(OSError):
                os.unlink(path)

    def _make(self, parent: int) -> bool:
        """Make it unless it is there; return whether it was made."""
        name = os.path.basename(self.directory)
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=parent)
            return True
        if not stat.S_ISDIR(found.st_mode):
            raise StoreError(f"{self.directory}: a link or a file; remove it")
        return False

    def _check(self, releases: os.stat_result, parent: os.stat_result) -> None:
        if releases.st_uid != os.geteuid() or releases.st_mode & _OTHERS:
            raise StoreError(f"{self.directory}: others can write to it; remove it")
        if releases.st_dev != parent.st_dev:
            raise StoreError(f"{self.directory}: not on the file system of {self._parent}")
