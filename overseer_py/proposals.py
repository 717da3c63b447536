"""What the master and its updater tell each other: JSON lines over a socket pair.

The updater reads what strangers wrote, so the master believes nothing that it says but what is
here: each line is bounded, and each field is of its kind or the line is refused.  A digest is 64
hexadecimal digits, a text has no control characters and an end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

VERSION = 1
LONGEST_LINE = 1 << 16  # bytes
EVENTS = (
    "watching",
    "watch-polls",
    "fetch-failed",
    "fetch-recovered",
    "release-found",
    "release-vetoed",
    "release-installed",
    "release-committed",
    "release-restored",
    "release-held",
    "release-unheld",
    "hook-failed",
    "store-failed",
)
_LONGEST_TEXT = 1000
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST = 1000  # entries of a list
# Facts that the log's lines have of their own, or that mean something to structlog.
_TAKEN = {"event", "level", "timestamp", "logger", "generation", "worker"}
_TAKEN |= {"exc_info", "stack_info", "stack", "exception", "positional_args"}


class GarbledError(Exception):
    """A line that cannot have been meant."""


# -- the updater says ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """What is watched is this, all together."""

    digest: str


@dataclass(frozen=True, slots=True)
class Changed:
    """What is watched has changed, and is still."""

    what: str


@dataclass(frozen=True, slots=True)
class Replaced:
    """The package, overseer itself, is another version than before, and is still."""

    what: str


@dataclass(frozen=True, slots=True)
class Installed:
    """A release is in place; ``ask`` is the question that this answers, 0 for none."""

    release: str
    reason: str
    reversible: bool
    restart: bool
    ask: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Which releases there are, and how the source is."""

    release: str
    previous: str
    held: tuple[str, ...]
    url: str
    last_checked_at: float  # seconds since the epoch; 0: never
    next_check_at: float
    last_error: str


@dataclass(frozen=True, slots=True)
class Note:
    """An event, of those that are known."""

    event: str
    facts: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a question: a result, or why not."""

    ask: int
    result: Mapping[str, Any]
    error: str


Said = Seen | Changed | Replaced | Installed | Standing | Note | Answer

# -- the master says -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    """Begin to work; ``seen`` is what an updater before this one saw last."""

    settings: Mapping[str, Any]
    directory: str
    seen: str
    since: int  # when what runs was started, in ns since the epoch
    running: tuple[str, ...] = ()  # the releases of what runs or is being tried
    image: int = 0  # when the master became what it is, likewise; --self-upgrade


@dataclass(frozen=True, slots=True)
class Ended:
    """A rollout of this release has ended so."""

    release: str
    outcome: str
    error: str


@dataclass(frozen=True, slots=True)
class Crashing:
    """What runs of this release, and was committed, is in a crash loop."""

    release: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Somebody wants something: ``releases``, ``rollback``, ``unhold`` or ``fetch``."""

    ask: int
    method: str
    digest: str


Told = Begin | Ended | Crashing | Ask


def encode(message: Said | Told) -> bytes:
    """Return a message as a line."""
    line = {"v": VERSION, "is": type(message).__name__, **asdict(message)}
    ours = isinstance(message, Told)  # the other side takes the master's as they are
    text = json.dumps(line if ours else _shortened(line), ensure_ascii=False)
    return text.encode(errors="replace") + b"\n"


def _shortened(value: Any) -> Any:  # noqa: ANN401 - whatever JSON can say
    """Return the same with no text longer than the other side takes: a hook may say anything."""
    match value:
        case str():
            return value[:_LONGEST_TEXT]
        case dict():
            return {key: _shortened(each) for key, each in value.items()}
        case list() | tuple():
            return [_shortened(each) for each in value]
    return value


def said(line: bytes) -> Said:
    """Return what the updater says; raise GarbledError if it is not as it must be."""
    fields = _fields(line)
    try:
        return _SAID[fields.pop("is")](fields)
    except (KeyError, TypeError, ValueError) as error:
        raise GarbledError(f"{type(error).__name__}: {error}") from None


def told(line: bytes) -> Told:
    """Return what the master says, which is believed."""
    fields = _fields(line)
    kinds = {kind.__name__: kind for kind in (Begin, Ended, Crashing, Ask)}
    return kinds[fields.pop("is")](**fields)


def _fields(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise GarbledError(f"not JSON: {error}") from None
    version = fields.pop("v", None) if isinstance(fields, dict) else None
    if version != VERSION or version is True:
        raise GarbledError(f"not of version {VERSION}")
    return dict(fields)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return "".join(c if c.isprintable() else " " for c in value[:_LONGEST_TEXT])


def _digest(value: object) -> str:
    text = _text(value)
    if text and not _DIGEST.fullmatch(text):
        raise ValueError("not a digest")
    return text


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 53:
        raise ValueError("not a number")
    return value


def _whole(value: object) -> int:
    number = _number(value)
    if not isinstance(number, int):
        raise TypeError("not a whole number")
    return number


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("not true or false")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list) or len(value) > _MOST:
        raise TypeError("not a list, or too long")
    return value


def _facts(value: object) -> dict[str, str | int | float | bool]:
    if not isinstance(value, dict) or len(value) > _MOST:
        raise TypeError("not an object, or too big")
    return {_key(key): _fact(fact) for key, fact in value.items()}


def _key(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,40}", value):
        raise ValueError("not a key")
    return value


def _fact(value: object) -> str | int | float | bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return -_number(-value) if value < 0 else _number(value)
    return _text(value)


def _noted(value: object) -> dict[str, str | int | float | bool]:
    facts = _facts(value)
    if not _TAKEN.isdisjoint(facts):
        raise ValueError("a fact that is the log's own")
    return facts


def _event(value: object) -> str:
    """Return the name of an event; others are the master's own, and mean something to it."""
    if value not in EVENTS:
        raise ValueError("not an event of the updater's")
    return str(value)


def _result(value: object) -> dict[str, Any]:
    """Return a result: texts, numbers, truths, and lists of flat objects of these."""
    if not isinstance(value, dict) or len(value) > _MOST:
        raise TypeError("not an object, or too big")
    return {
        _key(key): [_facts(entry) for entry in _list(each)]
        if isinstance(each, list)
        else _fact(each)
        for key, each in value.items()
    }


_SAID: Mapping[str, Callable[[dict[str, Any]], Said]] = {
    "Seen": lambda f: Seen(_digest(f["digest"])),
    "Changed": lambda f: Changed(_text(f["what"])),
    "Replaced": lambda f: Replaced(_text(f["what"])),
    "Installed": lambda f: Installed(
        _digest(f["release"]),
        _text(f["reason"]),
        _truth(f["reversible"]),
        _truth(f["restart"]),
        _whole(f["ask"]),
    ),
    "Standing": lambda f: Standing(
        _digest(f["release"]),
        _digest(f["previous"]),
        tuple(_digest(entry) for entry in _list(f["held"])),
        _text(f["url"]),
        _number(f["last_checked_at"]),
        _number(f["next_check_at"]),
        _text(f["last_error"]),
    ),
    "Note": lambda f: Note(_event(f["event"]), _noted(f["facts"])),
    "Answer": lambda f: Answer(_whole(f["ask"]), _result(f["result"]), _text(f["error"])),
}
