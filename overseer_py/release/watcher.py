"""``--watch``: what has changed, once it has been still for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from overseer_py.release.hints import Hints
from overseer_py.release.watched import Watched, changed_at, named, now

_POLL = 1.0  # seconds between two looks where nothing gives hints
_MOST_HINTS = 1000  # so many are a reason to look at everything


class Watcher:
    """Owned by one thread; hints come from another."""

    def __init__(self, patterns: Sequence[str], debounce: float, wake: Callable[[], None]) -> None:
        """``wake`` is called, from any thread, when there is something to look at."""
        self._watched = Watched(tuple(patterns))
        self._hints = Hints(patterns, self._on_hint)
        self._debounce = debounce
        self._wake = wake
        self._lock = threading.Lock()
        self._touched: set[str] = set()
        self._found: set[str] = set()  # paths that have changed, which is not told yet
        self._still_at: float | None = None  # when nothing has happened for long enough
        self._poll_at = 0.0  # if there are no hints
        self._counted = 0  # up to when changes are in what was told, ns since the epoch
        self._told = ""  # digest of all that was told, with nothing newer

    @property
    def blind(self) -> str:
        """Why everything is looked at every second; empty if hints come."""
        return self._hints.blind

    @property
    def digest(self) -> str:
        """What was there when it was last told that something has changed, or at the beginning."""
        return self._told

    @property
    def count(self) -> int:
        """How many files are watched."""
        return len(self._watched.contents)

    def begin(self, seen: str, since: int) -> str:
        """Take what is there for what runs; return what has changed since it was started.

        That is if it is not what was ``seen`` last (a digest, by an updater before this one), or
        if, with nothing seen, something is newer than ``since``, in ns since the epoch.
        """
        self._hints.follow()  # first: what changes while it is read gives a hint
        paths = self._watched.look()
        self._told = self._watched.digest
        if seen:
            return "" if seen == self._told else "what is watched"
        return named(path for path in {*paths, *self._hints.links()} if changed_at(path) > since)

    def due(self) -> float | None:
        """Return when to look."""
        times = (self._still_at, self._poll_at if self.blind else None)
        return min((at for at in times if at is not None), default=None)

    def look(self, at: float) -> str:
        """Return what has changed and is still now; empty if nothing is."""
        if self.blind and self._poll_at <= at:
            self._poll()
        with self._lock:
            if self._still_at is None or self._still_at > at:
                return ""
            self._still_at, touched = None, self._touched
            self._touched = set()
        return self._settle(touched)

    def caught_up(self) -> None:
        """Look at all the rest, after what has changed was told; what is newer still counts."""
        self._hints.follow()
        changed = self._watched.look()
        with self._lock:
            hinted = self._still_at is not None  # a tree that was moved here is new, and looks old
        every = hinted or bool(self.blind)
        newer = [path for path in changed if every or changed_at(path) >= self._counted]
        if newer:
            self._found.update(newer)
            self._on_hint(newer[0])
        else:
            self._told = self._watched.digest

    def close(self) -> None:
        """Watch no more."""
        self._hints.close()

    def _poll(self) -> None:
        """Look at everything; what has changed must be found still, once the debounce is over."""
        changed = self._watched.look()
        self._found.update(changed)
        at = time.monotonic()
        self._poll_at = at + (min(self._debounce, _POLL) if self._found else _POLL)
        if changed:
            self._still_at = at + self._debounce

    def _settle(self, touched: set[str]) -> str:
        self._counted = now()
        found, self._found = self._found, set()
        if len(touched) < _MOST_HINTS:
            found.update(self._watched.look_at(touched))
        if not found:
            self._hints.follow()
            found.update(self._watched.look())
        return named(found)

    def _on_hint(self, path: str) -> None:
        with self._lock:
            if len(self._touched) < _MOST_HINTS:
                self._touched.add(path)
            self._still_at = time.monotonic() + self._debounce
        self._wake()
