"""What the source has, as far as it need be fetched: neither what is known, nor what was judged."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from io import BytesIO
from typing import BinaryIO

from overseer_py.errors import FetchError
from overseer_py.proposals import Begin
from overseer_py.release import places, sources
from overseer_py.release.candidate import Candidate, Limits, Source
from overseer_py.release.reader import Reader

_LITTLE = Limits(look=30.0, download=60.0, size=1 << 20)  # for lists of digests, signatures
_SOURCE = "overseer.source"  # among what is known: where it is known from


class Scout:
    """Looks at the source that the settings name."""

    def __init__(self, begin: Begin) -> None:
        settings = begin.settings
        self.url: str = settings["fetch"]
        self.shown = places.shown(self.url)  # without secrets
        self.interval: float = settings["interval"] or sources.interval(self.url)
        self._limits = Limits(size=settings["max_size"])
        self._user: str = settings["fetch_user"]
        self._min_age: float = settings["min_age"]
        self._mark = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self._source: Source | None = None
        self._judged: Mapping[str, str] = {}  # by what it is recognised
        self._verdict = ""
        self._first_seen: dict[str, float] = {}  # of releases without a date, by place

    def look(self, known: Mapping[str, str]) -> Candidate | str:
        """Return what may be new, or why nothing is.

        ``known`` is of the release that was committed last; another source's means nothing here.
        """
        self._source = self._source or self._open(self.url, self._limits)
        ours = known if known.get(_SOURCE) == self._mark else {}
        plain = {key: value for key, value in ours.items() if not key.startswith("overseer.")}
        candidate = self._source.look(self._judged or plain)
        if candidate is None:
            return self._verdict or "nothing new"
        if candidate.known and candidate.known == self._judged:
            return self._verdict
        if (young := self._is_too_young(candidate)) > 0:
            return f"{candidate.name} is too young by {young:.0f} s"
        return candidate

    def download(self, candidate: Candidate, into: BinaryIO) -> None:
        """Write its bytes, and go back to their beginning."""
        assert self._source
        self._source.download(candidate, into)
        into.seek(0)

    def judge(self, candidate: Candidate, verdict: str) -> None:
        """Remember that this one need not be fetched again, and why."""
        self._judged, self._verdict = candidate.known, verdict

    def forget(self) -> None:
        """Look at it as if for the first time."""
        self._judged, self._verdict = {}, ""

    def known(self, candidate: Candidate) -> dict[str, str]:
        """Return by what this source will recognise a candidate."""
        return {**candidate.known, _SOURCE: self._mark}

    def read(self, url: str) -> bytes:
        """Return something small that lies beside a release; raise FetchError."""
        source = self._open(url, _LITTLE)
        try:
            candidate = source.look({})
            if candidate is None:
                raise FetchError(f"{places.shown(url)}: it is not there, or not whole yet")
            into = BytesIO()
            source.download(candidate, into)
        finally:
            if isinstance(source, Reader):
                source.close()
        return into.getvalue()

    def _open(self, url: str, limits: Limits) -> Source:
        if self._user:
            return Reader(url, limits, self._user)
        return sources.open_source(url, limits, os.environ)

    def _is_too_young(self, candidate: Candidate) -> float:
        """Return for how many seconds more a release must have been there."""
        now = time.time()
        seen = candidate.published or self._first_seen.get(candidate.place, now)
        self._first_seen = {candidate.place: self._first_seen.get(candidate.place, now)}
        return seen + self._min_age - now
