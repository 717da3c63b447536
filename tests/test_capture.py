"""Captured lines: whole, tagged, in every form of the log; and too many of them."""

from __future__ import annotations

import json
import re

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from overseer_py.capture import Capture, renderer

TAGS = {"generation": 7, "slot": 0, "pid": 812, "stream": "stderr"}
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=40)


class Captured:
    """A stream, and what has become of it."""

    def __init__(self, form: str = "json") -> None:
        self.written: list[bytes] = []
        self.kept: list[bytes] = []
        self.capture = Capture(lambda: TAGS, form, self.written.append, self.kept.append)

    @property
    def lines(self) -> list[str]:
        """The texts that are kept."""
        return [json.loads(line)["line"]["line"] for line in self.kept]

    @property
    def log(self) -> list[str]:
        """The lines that went into the log."""
        return b"".join(self.written).decode().splitlines()

    def finish(self) -> None:
        """Let all turns pass, and the stream end."""
        while self.capture.behind:
            self.capture.go_on()
        self.capture.feed(b"")


@given(st.lists(TEXT, max_size=20), st.integers(1, 50))
def test_lines_come_whole_and_in_order(texts: list[str], size: int) -> None:
    """Whatever the pieces in which they were read, in the log as in what is kept."""
    data = "".join(f"{text}\n" for text in texts).encode()
    stream = Captured()
    for start in range(0, len(data), size):
        stream.capture.feed(data[start : start + size])
        if start % 3:
            stream.capture.go_on()
    stream.finish()
    assert stream.lines == texts
    facts = [json.loads(line) for line in b"".join(stream.written).split(b"\n") if line]
    assert [fact["line"] for fact in facts] == texts


def test_the_tags() -> None:
    """Each line says when, and of whom; in the log it is a fact like others."""
    stream = Captured()
    stream.capture.feed(b'said "so"\n')
    stream.finish()
    kept = json.loads(stream.kept[0])["line"]
    at = kept.pop("timestamp")
    assert kept == {**TAGS, "line": 'said "so"'}
    (fact,) = map(json.loads, stream.log)
    assert fact == {
        "timestamp": at,
        "level": "info",
        "event": "worker-output",
        **TAGS,
        "line": 'said "so"',
    }


@given(TEXT)
def test_logfmt_is_the_same_as_everywhere_in_the_log(text: str) -> None:
    """A value is quoted as structlog quotes it."""
    model = structlog.processors.LogfmtRenderer()
    event = {"timestamp": "T", "level": "info", "event": "worker-output", **TAGS, "line": text}
    assert renderer("logfmt", TAGS)("T", text) == model(None, "", event)


def test_for_people() -> None:
    """The time, the worker, the stream, and what it said."""
    stream = Captured("console")
    stream.capture.feed(b"hello\n")
    stream.finish()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} 7/0 stderr │ hello", stream.log[0])


def test_a_level_that_hides_them_keeps_them() -> None:
    """In no form nothing is written, but what is kept is kept."""
    stream = Captured(form="")
    stream.capture.feed(b"one\n")
    stream.finish()
    assert (stream.written, stream.lines) == ([], ["one"])


def test_a_turn_takes_a_little() -> None:
    """The master goes on with other things while there is much to pass on."""
    stream = Captured()
    stream.capture.feed(b"x" * 99 + b"\n" + (b"x" * 99 + b"\n") * 999)
    assert stream.capture.behind
    stream.capture.go_on()
    assert 10 < len(stream.lines) < 100
    stream.finish()
    assert len(stream.lines) == 1000


def test_what_is_too_much_is_counted() -> None:
    """Beyond a megabyte lines are left out, said once, and what comes then is whole again."""
    stream = Captured()
    line = b"%07d" + b"x" * 92 + b"\n"
    data = b"".join(line % number for number in range(40_000))
    for start in range(0, len(data), 65_536):
        stream.capture.feed(data[start : start + 65_536])
    while stream.capture.behind:
        stream.capture.go_on()
    assert stream.capture.behind is False
    *said, last = stream.lines
    stream.capture.feed(b"the rest of a torn line\nand a whole one\n")
    stream.finish()
    found = re.fullmatch(r"… (\d+) lines were written too fast, and are not here", last)
    assert found
    assert len(said) + int(found[1]) == pytest.approx(40_000, abs=1)
    assert all(re.fullmatch(r"\d{7}x{92}", text) for text in said)
    assert stream.lines[-1] == "and a whole one"


def test_what_comes_after_the_end_of_the_worker_is_passed_on_at_once() -> None:
    """Its heirs may write on, and nobody calls for turns."""
    stream = Captured()
    stream.capture.feed(b"before\n")
    stream.capture.ended()
    stream.capture.feed(b"after\n")
    assert stream.lines == ["before", "after"]
