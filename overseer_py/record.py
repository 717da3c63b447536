"""The last of what has happened, and those who follow it.

One for the events of the service and one for the lines that ``--capture`` reads.  Each entry is
encoded once, kept as long as there is room for it, and told to every follower.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from overseer_py.control import KeptRequest, RefusedError, Request


@dataclass(frozen=True, slots=True)
class KeptRecord:
    """The entries, and who follows, for the master's next image."""

    lines: list[bytes]
    followers: list[KeptRequest]


class Record:
    """The newest entries, up to so many bytes of JSON."""

    def __init__(self, key: str, most: int) -> None:
        """``key`` is what an entry is called when it is told: ``{"event": {…}}``."""
        self._key = key
        self._room = most
        self._kept: deque[bytes] = deque()
        self._followers: list[Request] = []

    def add(self, entry: Mapping[str, object]) -> None:
        """Keep an entry, encoded."""
        text = json.dumps({self._key: entry}, default=str, ensure_ascii=False)
        self.keep(text.encode(errors="replace") + b"\n")

    def keep(self, line: bytes) -> None:
        """Keep an entry that is a line of JSON already, and tell whoever follows."""
        self._kept.append(line)
        self._room -= len(line)
        while self._room < 0:
            self._room += len(self._kept.popleft())
        if self._followers:
            self._followers = [follower for follower in self._followers if not follower.over]
            for follower in self._followers:
                follower.tell(line)

    def kept(self) -> KeptRecord:
        """Return what the master's next image must know."""
        followers = [follower.kept() for follower in self._followers if not follower.over]
        return KeptRecord(list(self._kept), followers)

    def resume(self, kept: KeptRecord, request_of: Callable[[KeptRequest], Request]) -> None:
        """Go on with the entries of an earlier image, and tell those who followed."""
        for line in kept.lines:
            self.keep(line)
        self._followers = [request_of(follower) for follower in kept.followers]

    def follow(self, request: Request) -> None:
        """Tell this client of every entry from now on."""
        self._followers.append(request)

    def serve(self, request: Request) -> None:
        """Tell of the ``last`` so many entries (all that are kept), then ``follow`` or end."""
        last = request.params.get("last", len(self._kept))
        if not isinstance(last, int) or last < 0:
            raise RefusedError("bad-request", "last: a number of entries")
        kept = list(self._kept)
        request.tell(b"".join(kept[max(0, len(kept) - last) :]), sure=True)
        if request.params.get("follow"):
            self.follow(request)
        else:
            request.answer({"kept": len(kept)})
