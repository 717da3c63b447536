"""``--watch``: what has changed, once it has been still for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from overseer_py.release.hints import Hints
from overseer_py.release.watched import Watched, named

_POLL = 1.0  # seconds between two looks where nothing gives hints
_MOST_HINTS = 1000  # more are a reason to look at everything


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
        self._poll_at: float | None = None
        self._counted = 0  # up to when changes are in what was told, ns since the epoch

    @property
    def blind(self) -> str:
        """Why everything is looked at every second; empty if hints come."""
        return self._hints.blind

    @property
    def digest(self) -> str:
        """What was there at the last look."""
        return self._watched.digest

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
        self._counted = time.time_ns()
        paths = self._watched.look()
        if self.blind:
            self._poll_at = time.monotonic() + _POLL
        if seen:
            return "" if seen == self.digest else "what is watched"
        newer = [p for p in paths if self._watched.signatures[p][4] > since]
        return named(newer)

    def due(self) -> float | None:
        """Return when to look."""
        times = (self._still_at, self._poll_at)
        return min((at for at in times if at is not None), default=None)

    def look(self, now: float) -> str:
        """Return what has changed and is still now; empty if nothing is."""
        if self._poll_at is not None and self._poll_at <= now:
            self._poll_at = now + _POLL
            if changed := self._watched.look():
                self._found.update(changed)
                self._still_at = now + self._debounce
        with self._lock:
            if self._still_at is None or self._still_at > now:
                return ""
            self._still_at, touched = None, self._touched
            self._touched = set()
        return self._settle(touched)

    def caught_up(self) -> None:
        """Look at all the rest, after what has changed was told; what is newer still counts."""
        self._hints.follow()
        changed = self._watched.look()
        newer = [p for p in changed if self._is_newer(p)]
        self._found.update(newer)
        if newer:
            self._on_hint(newer[0])

    def close(self) -> None:
        """Watch no more."""
        self._hints.close()

    def _settle(self, touched: set[str]) -> str:
        self._counted = time.time_ns()
        found, self._found = self._found, set()
        if len(touched) <= _MOST_HINTS:
            found.update(self._watched.look_at(touched))
        if not found:
            self._hints.follow()
            found.update(self._watched.look())
        return named(found)

    def _is_newer(self, path: str) -> bool:
        signature = self._watched.signatures.get(path)
        return signature is None or signature[4] > self._counted

    def _on_hint(self, path: str) -> None:
        with self._lock:
            self._touched.add(path)
            self._still_at = time.monotonic() + self._debounce
        self._wake()
