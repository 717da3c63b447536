"""The releases of one path: which is in place, which is tried, where to go back to.

An install is a trial until it is committed.  That it is one is written down before the path
changes, so that whatever happens in between, ``recover`` puts the release before it in place again.
A release is known by the digest of the bytes that were fetched.  How all this lies on the disk is
the shelf's affair.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace

from overseer_py.errors import StoreError, VetoError
from overseer_py.release.contents import size_of
from overseer_py.release.shelf import Shelf
from overseer_py.release.staging import Staging
from overseer_py.release.state import Facts, Held, Recovery, Release, State, is_name, the_one

_DIGEST = re.compile("[0-9a-f]{64}").fullmatch


class Store:
    """The releases of ``path``, of which ``keep`` besides the current one stay."""

    def __init__(self, path: str, keep: int = 3) -> None:
        """Read what is known; nothing is written.  The updater calls ``recover`` next."""
        self._shelf = Shelf(path)
        self._keep = keep
        with self._telling("read"):
            self._state, self._complaint = self._shelf.recall()

    @property
    def path(self) -> str:
        """Where the release is that runs, absolute."""
        return self._shelf.path

    @property
    def current(self) -> str | None:
        """The release that the path is now, tried or not; None if it is none of them."""
        return self._shelf.shown()

    @property
    def trying(self) -> str | None:
        """The release that is neither committed nor restored yet."""
        return self._state.trying

    @property
    def previous(self) -> str | None:
        """The release to which ``restore`` goes back: the last committed one that is not held."""
        others = {*self._shelf.names()} - self._state.held.keys()
        return next((each for each in self._state.before(self.current) if each in others), None)

    @property
    def held(self) -> Mapping[str, Held]:
        """The releases that are not to be tried again."""
        return self._state.held

    @property
    def known(self) -> Mapping[str, str]:
        """By what the source recognises the release that was committed last."""
        return self._state.known

    @property
    def releases(self) -> list[Release]:
        """The releases that are kept, the one that was installed last first."""
        facts = self._state.facts
        why = {name: held.reason for name, held in self._state.held.items()}
        names = [name for name in self._shelf.names() if name in facts]
        names.sort(key=lambda name: facts[name].installed_at, reverse=True)
        return [Release(name, facts[name], why.get(name)) for name in names]

    def stage(self) -> Staging:
        """Return a new private directory on the file system of the path."""
        with self._telling("stage"):
            return Staging(self._shelf.annex.stage())

    def install(self, staged: str, digest: str, facts: Facts) -> None:
        """Put a file or a tree in place, to be tried; what is staged is moved, and so is gone.

        Of the facts, ``size`` and ``single`` are found out here.  A file that was at the path
        before, and is no release, becomes the one to go back to.  Raises StoreError, and VetoError
        for what no release may have in it; everything is then as it was.
        """
        with self._telling("install"):
            before = self._before(digest)
            size, single = size_of(staged), stat.S_ISREG(mode := os.lstat(staged).st_mode)
            if not single and not stat.S_ISDIR(mode):  # a link to what somebody else has
                raise VetoError(f"{staged}: neither a file nor a directory")
            fresh = self._shelf.put(staged, digest)
            if not fresh and (kept := self._state.facts.get(digest)):  # it stays as it is
                size, single = kept.size, kept.single
            try:
                self._try(digest, before, replace(facts, size=size, single=single))
            except BaseException:  # whatever it was, nothing is half installed
                if fresh and self.current != digest:
                    self._shelf.drop(digest)
                raise

    def bring_back(self, prefix: str) -> str:
        """Put a release that is kept in place again, to be tried; return its digest."""
        digest = the_one(prefix, [each.digest for each in self.releases], "release")
        with self._telling("bring back"):
            self._try(digest, self._before(digest), self._state.facts[digest])
        return digest

    def commit(self) -> None:
        """Let the release that is tried stay."""
        if (digest := self._state.trying) is None:
            raise StoreError(f"{self.path}: no release is being tried")
        with self._telling("commit"):
            self._write(self._state.committed(digest))

    def restore(self) -> str | None:
        """Go back to the previous release, and return it; None if there is none: nothing changes.

        It works on a full disk, too: what cannot be written down then, ``recover`` comes to see.
        """
        with self._telling("restore"):
            current, back = self._shelf.accept(), self.previous
            if back is None:
                return None
            undone = self._state.undone(current, back)
            if undone != self._state:  # it was committed: after a crash, recover goes on from here
                with suppress(OSError):
                    self._write(undone)
            try:
                self._show(back)
            except OSError:
                if self.current != back:  # it is there, only the disk has not confirmed it
                    raise
            self._state = replace(undone, trying=None)
            with suppress(OSError):
                self._write(self._state)
        return back

    def hold(self, digest: str, reason: str, since: float) -> None:
        """Remember that a release is not to be tried again; ``since`` is seconds since the epoch.

        In this process it is held also if that cannot be written.
        """
        facts = self._state.facts.get(digest)
        held = Held(reason, since, facts.known if facts else {})
        self._state = replace(self._state, held=self._state.holding(digest, held))
        with self._telling("hold"):
            self._write(self._state)

    def unhold(self, prefix: str) -> str:
        """Let a release be tried again; return its digest."""
        digest = the_one(prefix, self._state.held, "held release")
        held = {name: why for name, why in self._state.held.items() if name != digest}
        with self._telling("unhold"):
            self._write(replace(self._state, held=held))
        return digest

    def prune(self) -> list[str]:
        """Remove the releases that need not be kept any more, and return them."""
        current = self.current
        before = [each for each in reversed(self._state.trail) if each != current]
        kept = {current, self._state.trying, self.previous, *before[: self._keep]}
        # what an operator has put there is not ours to remove
        ours = [name for name in self._shelf.names() if name in self._state.facts or _DIGEST(name)]
        surplus = [name for name in ours if name not in kept]
        with self._telling("prune"):
            pruned = self._state.only(kept)
            if pruned != self._state:
                self._write(pruned)  # first: nothing leads to a release that is half removed
            for name in surplus:
                self._shelf.drop(name)
        return surplus

    def recover(self, alive: Collection[str] = ()) -> Recovery:
        """Clean up after a process that died: call it once at the start, before all else.

        A release that was being tried makes room for the one before it; if there was none, it
        stays, and so it does if it is ``alive``: its trial goes on.  A ``state.json`` that cannot
        be used is moved aside, and what lies on the disk is taken for what was committed, by age.
        Raises StoreError.
        """
        if not os.path.lexists(self._shelf.annex.directory):
            return Recovery()
        with self._telling("recover"):
            swept, complaint = self._shelf.annex.sweep(), self._complaint
            if complaint:
                complaint, self._complaint = self._shelf.annex.set_aside(complaint), None
            state, restored = self._state.only(self._shelf.names()), None
            trying, back = state.trying, state.trail[-1] if state.trail else None
            if trying is not None and trying not in alive:
                if self.current == trying and back and back != trying:
                    self._show(restored := back)
                elif self.current == trying:
                    state = replace(state, trail=state.walked(trying))
                state = replace(state, trying=None)
            if state != self._state or complaint:
                self._state = state
                self._write(state)
        return Recovery(restored, swept, complaint)

    def _before(self, digest: str) -> str | None:
        """Return what is in place, if this release may be put there."""
        if not is_name(digest):
            raise StoreError(f"{digest!r}: not a digest")
        if held := self._state.held.get(digest):
            raise StoreError(f"{digest}: held: {held.reason}; overseer unhold {digest[:12]}")
        if self._state.trying:
            raise StoreError(f"{self._state.trying}: still being tried")
        if (before := self._shelf.accept()) == digest:
            raise StoreError(f"{digest}: installed already")
        return before

    def _try(self, digest: str, before: str | None, facts: Facts) -> None:
        old, known = self._state, {digest: facts}
        if before and before not in old.facts:
            known[before] = self._shelf.seen(before)
        try:
            self._write(old.tried(digest, before, known))
            self._show(digest)
        except BaseException:  # whatever it was, all is as before
            self._take_back(digest, before, old)
            raise

    def _take_back(self, digest: str, before: str | None, old: State) -> None:
        """Undo a trial that could not begin; what cannot be undone now is up to ``recover``."""
        with suppress(OSError):
            if self.current == digest:
                self._show(before) if before else self._shelf.hide()
        with suppress(OSError):
            if self.current != digest and self._state != old:
                self._state = old
                self._write(old)

    def _show(self, release: str) -> None:
        self._shelf.show(release, single=self._state.facts[release].single)

    def _write(self, state: State) -> None:
        self._shelf.remember(state)
        self._state = state

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise StoreError(f"{self.path}: cannot {what}: {where}{error.strerror}") from error
