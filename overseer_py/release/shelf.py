"""The releases of a path as they lie on the disk, and the path that shows one of them.

::

    PATH.releases/<digest>/NAME   a release that is a file; PATH is a second name of it (link(2))
    PATH.releases/<digest>/       a release that is a tree; PATH is a relative link to it
    PATH.releases/state.json
    PATH.releases/.NAME.*         what is being made; left behind only by a crash

A second name rather than a copy: to go back to it needs no space, also when the disk is full.
Everything is made in PATH.releases under a name with a dot, and comes into its place by rename(2).
What the system refuses is an OSError.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
from contextlib import suppress
from dataclasses import replace

from overseer_py.errors import StoreError
from overseer_py.release import durable
from overseer_py.release.annex import Annex
from overseer_py.release.contents import digest_of, size_of
from overseer_py.release.state import Facts, State, dumped, is_name, loaded
from overseer_py.release.tree import make_directory

# A file system without hard links, or a file with too many: link(2).
_NO_LINKS = {errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV}


class Shelf:
    """The releases of one path."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self.annex = Annex(self.path)
        self._parent, self._name = os.path.split(self.path)

    def where(self, release: str) -> str:
        """Return the directory of a release."""
        return self.annex.where(release)

    def names(self) -> list[str]:
        """Return the releases that are there."""
        with suppress(FileNotFoundError):
            return sorted(name for name in os.listdir(self.annex.directory) if self.has(name))
        return []

    def has(self, release: str) -> bool:
        """Whether there is such a release."""
        place = self.where(release)
        return is_name(release) and os.path.isdir(place) and not os.path.islink(place)

    def shown(self) -> str | None:
        """Return the release that the path is, or None if it is nothing, or something else."""
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(found.st_mode):
            head, release = os.path.split(os.path.join(self._parent, os.readlink(self.path)))
            ours = os.path.normpath(head) == self.annex.directory
            return release if ours and self.has(release) else None
        if not stat.S_ISREG(found.st_mode):
            return None
        return next((name for name in self.names() if self._is_copy(name, found)), None)

    def seen(self, release: str) -> Facts:
        """Return what can be seen of a release that was found rather than installed."""
        place = self.where(release)
        alone = os.listdir(place) == [self._name] and not os.path.islink(self.path)
        single = alone and os.path.isfile(self._file(release))
        return Facts(os.lstat(place).st_ctime, size=size_of(place), single=single)

    def recall(self) -> tuple[State, str | None]:
        """Return what ``state.json`` says; if it cannot be used, what can be seen, and why."""
        try:
            content = self.annex.read()
            return (State() if content is None else loaded(content)), None
        except (OSError, ValueError) as error:
            return self._guessed(), str(error)

    def remember(self, state: State) -> None:
        """Write it down."""
        self.annex.write(dumped(state))

    def accept(self) -> str | None:
        """Return the release that the path is; a file that is none becomes one, under its digest.

        Raises StoreError if something is there that cannot be replaced in one step.
        """
        if release := self.shown():
            return release
        try:
            mode = os.lstat(self.path).st_mode
        except FileNotFoundError:
            return None
        if stat.S_ISREG(mode):
            return self._adopt()
        if stat.S_ISLNK(mode):
            target = os.readlink(self.path)
            if os.path.dirname(os.path.join(self._parent, target)) == self.annex.directory:
                return None  # ours, to a release that is gone
            raise StoreError(
                f"{self.path}: a link to {target}, which is no release; name {target} itself "
                "as the place of releases, or remove the link"
            )
        if not stat.S_ISDIR(mode):
            raise StoreError(f"{self.path}: neither a file nor a directory; remove it")
        path, releases = shlex.quote(self.path), shlex.quote(self.annex.directory)
        raise StoreError(
            f"{self.path}: a directory, which no release can replace in one step; make it the "
            f"first release: mkdir -p -m 755 {releases} && mv {path} {releases}/0 && "
            f"ln -s {shlex.quote(f'{self._name}.releases/0')} {path}"
        )

    def put(self, staged: str, release: str) -> bool:
        """Move what is staged into its place, durably; return False if it was there already.

        A file gets the mode (but no set-user-ID) and the owner of the file that the path is.
        """
        if self.has(release):
            return False
        with self.annex.opened() as opened, self.annex.temporary("put") as temporary:
            source = staged
            if not os.path.isdir(staged):
                make_directory(self.where(temporary))
                source = self.where(temporary)
                self._take_on(staged)
                os.rename(staged, os.path.join(source, self._name))
            durable.sync_tree(source)  # raises VetoError for what may not be in a release
            os.rename(source, release, dst_dir_fd=opened.releases)
            os.fsync(opened.releases)
        return True

    def show(self, release: str, *, single: bool) -> None:
        """Make the path a release: its readers see the old one or the new one, whole."""
        with self.annex.opened() as opened, self.annex.temporary("show") as temporary:
            if single:
                self._link(self._file(release), self.where(temporary))
            else:
                os.symlink(f"{self._name}.releases/{release}", self.where(temporary))
            durable.replace(temporary, self._name, opened.releases, opened.parent)
            os.fsync(opened.parent)

    def hide(self) -> None:
        """Take the path away: there was none before."""
        with self.annex.opened() as opened:
            os.unlink(self._name, dir_fd=opened.parent)
            os.fsync(opened.parent)

    def drop(self, release: str) -> None:
        """Remove a release: at once under its name, and then what it consists of."""
        with self.annex.temporary("old") as temporary:
            os.rename(self.where(release), self.where(temporary))

    def _file(self, release: str) -> str:
        return os.path.join(self.where(release), self._name)

    def _is_copy(self, release: str, found: os.stat_result) -> bool:
        """Whether a release is this file; without hard links it is told by what is in it.

        Size and time alone would be too little: two that were made within one tick of the file
        system's clock have the same time, up to 10 ms before Linux 6.13.
        """
        try:
            kept = os.lstat(self._file(release))
            if os.path.samestat(kept, found) or not stat.S_ISREG(kept.st_mode):
                return os.path.samestat(kept, found)
            alike = (kept.st_size, kept.st_mtime_ns) == (found.st_size, found.st_mtime_ns)
            return alike and digest_of(self._file(release)) == digest_of(self.path)
        except OSError:
            return False

    def _adopt(self) -> str:
        with self.annex.opened() as opened, self.annex.temporary("found") as temporary:
            make_directory(self.where(temporary))
            kept = os.path.join(self.where(temporary), self._name)
            mode = os.lstat(self.path).st_mode
            self._link(self.path, kept, copied=bool(mode & (stat.S_ISUID | stat.S_ISGID)))
            durable.sync_tree(self.where(temporary))
            release = digest_of(kept)  # of what is kept, whatever the path is by now
            if not self.has(release):
                os.rename(self.where(temporary), self.where(release))
                os.fsync(opened.releases)
            return release

    def _take_on(self, staged: str) -> None:
        with suppress(FileNotFoundError):
            old = os.lstat(self.path)
            if not stat.S_ISREG(old.st_mode):
                return
            new = os.lstat(staged)
            if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
                os.chown(staged, old.st_uid, old.st_gid, follow_symlinks=False)
            os.chmod(staged, old.st_mode & 0o777)

    def _link(self, source: str, target: str, *, copied: bool = False) -> None:
        if not copied:
            try:
                os.link(source, target, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
            else:
                return
        old = os.lstat(source)
        shutil.copyfile(source, target, follow_symlinks=False)
        os.chown(target, old.st_uid, old.st_gid, follow_symlinks=False)
        os.chmod(target, old.st_mode & 0o777)
        os.utime(target, ns=(old.st_atime_ns, old.st_mtime_ns))
        durable.sync(target)

    def _guessed(self) -> State:
        """Return what can be seen without ``state.json``: the releases by age, the current last."""
        facts = {name: self.seen(name) for name in self.names()}
        trail = sorted(facts, key=lambda name: facts[name].installed_at)
        state, current = State(trail=tuple(trail), facts=facts), self.shown()
        return replace(state, trail=state.walked(current)) if current in facts else state
