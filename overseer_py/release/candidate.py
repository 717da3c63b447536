"""What a source offers, and what a source is.

A source is looked at now and then.  It says what is new there, as far as it can tell from what is
known of the last release that was installed, and writes its bytes.  It neither judges nor installs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class Candidate:
    """A release that a source has and that may be new."""

    name: str  # of the file: its ending says how it is packed
    place: str  # where its bytes are; means something to its source alone
    version: str = ""  # a tag, where the source has one
    published: float | None = None  # seconds since the epoch, as the source says; None: it does not
    size: int | None = None  # bytes, as the source says
    # By what the source recognises it (an ETag, an id); given to ``look`` once it is installed.
    known: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how much a source may take.  Totals, whatever trickles in meanwhile."""

    look: float = 30.0  # seconds
    download: float = 600.0  # seconds
    size: int = 1 << 30  # bytes


class Source(Protocol):
    """A place where releases come from."""

    interval: float  # seconds between two looks, if nothing else is asked for

    def look(self, known: Mapping[str, str]) -> Candidate | None:
        """Return what is there, or None if it is what is ``known``, or nothing, or not yet whole.

        Raises FetchError.
        """

    def download(self, candidate: Candidate, into: BinaryIO) -> None:
        """Write the bytes of a candidate; raise FetchError if they do not come, or not whole."""
