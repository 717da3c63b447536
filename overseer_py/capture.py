"""Lines that workers write, tagged with generation, slot and pid: into the log, and kept.

A talkative worker may write a hundred thousand a second, so what is the same for all lines of a
stream is rendered once, and those that come together share a timestamp and a write(2).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from json import JSONEncoder

from overseer_py.ledger import timestamp
from overseer_py.relay import Splitter

_A_TURN = 1 << 12  # bytes a turn of the loop: a hundred lines, but four thousand empty ones
_BACKLOG = 1 << 20  # bytes that wait for their turn; the worker never does
_AT_ONCE = 256  # lines a write: all of them are dropped where the log's reader is slow
_quoted = JSONEncoder(ensure_ascii=False).encode
Tags = Mapping[str, object]
Render = Callable[[str, str], str]  # (timestamp, line) -> a line of the log


@dataclass(frozen=True, slots=True)
class KeptCapture:
    """What has been read and not passed on yet, for the master's next image."""

    waiting: bytes
    line: bytes  # the beginning of one
    skipping: bool
    skipped: int
    torn: bool


class Capture:
    """One stream of one worker."""

    def __init__(
        self,
        tags: Callable[[], Tags],
        form: str,
        write: Callable[[bytes], None],
        keep: Callable[[bytes], None],
    ) -> None:
        """``tags`` are known once the worker runs.  In no ``form``, lines are only kept."""
        self._tags, self._form, self._write, self._keep = tags, form, write, keep
        self._waiting = bytearray()
        self._lines: list[str] = []
        self._splitter = Splitter(self._lines.append)
        self._skipping = False  # until all that waits is passed on
        self._skipped = 0  # lines
        self._torn = False  # the next line has lost its beginning
        self._ended = False  # the worker is gone, and nobody calls for its turns

    def kept(self) -> KeptCapture:
        """Return what the master's next image must know."""
        states = self._skipping, self._skipped, self._torn
        return KeptCapture(bytes(self._waiting), self._splitter.rest, *states)

    def resume(self, kept: KeptCapture) -> None:
        """Go on with what an earlier image has read."""
        self._waiting[:], self._splitter.rest = kept.waiting, kept.line
        self._skipping, self._skipped, self._torn = kept.skipping, kept.skipped, kept.torn

    @property
    def behind(self) -> bool:
        """Whether something waits for its turn."""
        return bool(self._waiting)

    def feed(self, data: bytes) -> None:
        """Take what has been written; nothing: the end."""
        if self._torn:
            _, newline, data = data.partition(b"\n")
            self._torn = not newline
        self._skipping = self._skipping or len(self._waiting) + len(data) > _BACKLOG
        if self._skipping:
            self._skipped += data.count(b"\n")
        else:
            self._waiting += data
        if self._ended or not data:
            self.go_on(_BACKLOG)
        if not data:
            self._split(data)

    def go_on(self, most: int = _A_TURN) -> None:
        """Pass on so many bytes of what waits."""
        if piece := bytes(self._waiting[:most]):
            del self._waiting[:most]
            self._split(piece)
        if self._skipping and not self._waiting:
            self._splitter.forget()  # the end of what has begun is among what is missing
            self._pass_on([f"… {self._skipped} lines were written too fast, and are not here"])
            self._skipping, self._skipped, self._torn = False, 0, True

    def ended(self) -> None:
        """Pass on all that waits, and from now on at once what the worker's heirs write."""
        self._ended = True
        self.go_on(_BACKLOG)

    def _split(self, piece: bytes) -> None:
        self._splitter.feed(piece)
        lines, self._lines[:] = self._lines[:], []
        for start in range(0, len(lines), _AT_ONCE):
            self._pass_on(lines[start : start + _AT_ONCE])

    @cached_property
    def _entry(self) -> Render:
        return as_json(self._tags())

    @cached_property
    def _render(self) -> Render:
        return renderer(self._form, self._tags())

    def _pass_on(self, lines: list[str]) -> None:
        at = timestamp(time.time())
        for line in lines:
            self._keep(f'{{"line": {self._entry(at, line)}}}\n'.encode(errors="replace"))
        if self._form:
            rendered = "\n".join([self._render(at, line) for line in lines])
            self._write(f"{rendered}\n".encode(errors="replace"))


def renderer(form: str, tags: Tags) -> Render:
    """Return what makes a line of the log, in the same form as all else in it."""
    match form:
        case "json":
            return as_json({"level": "info", "event": "worker-output", **tags})
        case "logfmt":
            return _as_logfmt(tags)
    return _for_people(tags)


def as_json(tags: Tags) -> Render:
    """Return what makes an object of a line: the time, the tags, and the line last."""
    same = "".join(f", {_quoted(key)}: {_quoted(value)}" for key, value in tags.items())

    def render(at: str, line: str) -> str:
        return f'{{"timestamp": "{at}"{same}, "line": {_quoted(line)}}}'

    return render


def _as_logfmt(tags: Tags) -> Render:
    same = " ".join(f"{key}={value}" for key, value in tags.items())

    def render(at: str, line: str) -> str:
        return f"timestamp={at} level=info event=worker-output {same} line={_value(line)}"

    return render


def _value(text: str) -> str:
    """Return a value as logfmt has it: in quotes where it would not end with itself."""
    if not ('"' in text or " " in text or "=" in text or "\r" in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "\\r")
    return f'"{escaped}"'


def _for_people(tags: Tags) -> Render:
    who = f"{tags['generation']}/{tags['slot']} {tags['stream']}"

    def render(at: str, line: str) -> str:
        return f"{at[11:23]} {who} │ {line}"

    return render
