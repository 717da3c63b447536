"""What is remembered of the releases of a path, and how that is written down.  Pure.

The trail is the digests that were committed, oldest first, each once; its end is what to return to
while another one is tried.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from overseer_py.errors import StoreError

_FORMAT = 1
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,254}")  # of a release; digests, mostly
_MOST_HELD = 1000  # a source that makes a bad release every minute must not fill the disk


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a release besides its bytes."""

    installed_at: float  # seconds since the epoch
    version: str = ""
    known: Mapping[str, str] = field(default_factory=dict)  # by what its source recognises it
    size: int = 0  # bytes, installed
    single: bool = False  # a file rather than a tree


@dataclass(frozen=True, slots=True)
class Held:
    """Why a release is not tried again, and since when."""

    reason: str
    since: float  # seconds since the epoch
    known: Mapping[str, str] = field(default_factory=dict)  # so that it need not be fetched again


@dataclass(frozen=True, slots=True)
class Release:
    """A release that is kept."""

    digest: str
    facts: Facts
    held: str | None  # why it is not to be tried again


@dataclass(frozen=True, slots=True)
class Recovery:
    """What ``recover`` found and did."""

    restored: str | None = None  # the release that is in place again; None: there was no need
    swept: int = 0  # what a crash had left behind, and is removed
    complaint: str | None = None  # why ``state.json`` could not be used, and where it is now


@dataclass(frozen=True, slots=True)
class State:
    """All that ``state.json`` says."""

    trail: tuple[str, ...] = ()
    trying: str | None = None  # it may be in place, and is to be taken back if nobody commits it
    facts: Mapping[str, Facts] = field(default_factory=dict)
    held: Mapping[str, Held] = field(default_factory=dict)
    known: Mapping[str, str] = field(default_factory=dict)  # of the last release committed

    def walked(self, digest: str) -> tuple[str, ...]:
        """Return the trail with this release at its end."""
        return (*(each for each in self.trail if each != digest), digest)

    def before(self, current: str | None) -> tuple[str, ...]:
        """Return the releases that one can go back to from this one, the best first."""
        if current in self.trail and current != self.trying:  # what came after it was taken back
            return self.trail[: self.trail.index(current)][::-1]
        return tuple(each for each in reversed(self.trail) if each != current)

    def tried(self, digest: str, before: str | None, facts: Mapping[str, Facts]) -> State:
        """Return what is known while a release is tried, and ``before`` may have to return."""
        trail = self.walked(before) if before else self.trail
        return replace(self, trail=trail, trying=digest, facts={**self.facts, **facts})

    def committed(self, digest: str) -> State:
        """Return what is known once the release that was tried stays."""
        known = self.facts[digest].known
        return replace(self, trail=self.walked(digest), trying=None, known=known)

    def undone(self, current: str | None, back: str) -> State:
        """Return what is known while a release is taken back: it is as if it was still tried."""
        trail = tuple(each for each in self.trail if each not in (current, back))
        return replace(self, trail=(*trail, back), trying=current)

    def only(self, there: Collection[str | None]) -> State:
        """Return what is known without the releases that are not there any more."""
        facts = {name: each for name, each in self.facts.items() if name in there}
        return replace(self, trail=tuple(each for each in self.trail if each in facts), facts=facts)

    def holding(self, digest: str, held: Held) -> dict[str, Held]:
        """Return what is held, and this release with it."""
        others = [(name, why) for name, why in self.held.items() if name != digest]
        return dict([*others[1 - _MOST_HELD :], (digest, held)])


def the_one(prefix: str, digests: Iterable[str], what: str) -> str:
    """Return the digest that begins so; raise StoreError unless there is exactly one."""
    found = [digest for digest in digests if prefix and digest.startswith(prefix)]
    if len(found) != 1:
        how = "several begin" if found else "none begins"
        raise StoreError(f"{prefix!r}: {how} so; give the digest of a {what}")
    return found[0]


def is_name(text: str) -> bool:
    """Whether a release can be named so: no path, and none of our temporary files."""
    return bool(_NAME.fullmatch(text)) and text != "state.json"


def dumped(state: State) -> bytes:
    """Return the content of ``state.json``."""
    document = {"format": _FORMAT, **asdict(state)}
    return (json.dumps(document, indent=1) + "\n").encode()


def loaded(content: bytes) -> State:
    """Return what a ``state.json`` says; raise ValueError if it is not one of ours."""
    try:
        return _loaded(json.loads(content))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _loaded(document: Any) -> State:  # noqa: ANN401 - a JSON document
    if document["format"] != _FORMAT:
        raise ValueError(f"its format is {document['format']!r}, not {_FORMAT}")
    trying = document["trying"]
    if not {*document["trail"], trying} - {None} <= document["facts"].keys():
        raise ValueError("it names a release of which it has no facts")
    return State(
        trail=tuple(_name(each) for each in document["trail"]),
        trying=None if trying is None else _name(trying),
        facts={_name(each): _facts(**facts) for each, facts in document["facts"].items()},
        held={str(each): _held(**held) for each, held in document["held"].items()},
        known=_known(document["known"]),
    )


def _facts(
    *, installed_at: float, version: str, known: Mapping[str, str], size: int, single: bool
) -> Facts:
    return Facts(float(installed_at), str(version), _known(known), int(size), bool(single))


def _held(*, reason: str, since: float, known: Mapping[str, str]) -> Held:
    return Held(str(reason), float(since), _known(known))


def _known(document: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in document.items()}


def _name(text: str) -> str:
    if not is_name(text):
        raise ValueError(f"{text!r} names no release")
    return text
