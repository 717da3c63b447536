"""What the master and its updater tell each other, and what the master refuses to believe."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overseer_py import proposals
from overseer_py.proposals import (
    Answer,
    Ask,
    Begin,
    Changed,
    Crashing,
    Ended,
    GarbledError,
    Installed,
    Note,
    Said,
    Seen,
    Standing,
    Told,
    encode,
    said,
    told,
)

FEW = settings(max_examples=300)  # also in CI: a document takes long to think up
DIGEST, OTHER = "0123456789abcdef" * 4, "f" * 64

SAID: list[Said] = [
    Seen(""),
    Seen(DIGEST),
    Changed("/srv/app/main.py and 2 more"),
    Installed(DIGEST, "fetched 1.2.3", reversible=True, restart=False, ask=0),
    Installed(OTHER, "rollback", reversible=False, restart=True, ask=7),
    Standing("", "", (), "", 0, 0, ""),
    Standing(DIGEST, OTHER, (DIGEST, OTHER), "https://example.org/app", 1.5, 2e9, "time-out"),
    Note("watching"),
    Note("watch-polls", {"reason": "inotify: no space", "count": -3, "took": 0.5, "again": True}),
    Answer(3, {}, "no such release"),
    Answer(4, {"text": "done", "count": 2, "new": False, "releases": []}, ""),
    Answer(5, {"releases": [{"digest": DIGEST, "current": True, "age": 2.5}, {}]}, ""),
]
TOLD: list[Told] = [
    Begin({"watch": ["/srv/app"], "debounce": 0.25, "fetch": ""}, "/srv", DIGEST, 1_700_000_000),
    Ended(DIGEST, "rolled-back", "worker 2/0#1 exited with status 1"),
    Crashing(DIGEST, "crash 3 in a row"),
    Ask(9, "rollback", OTHER),
]
LINES = {type(message).__name__: json.loads(encode(message)) for message in SAID}
WRONG: dict[type, list[Any]] = {
    str: [None, 1, True, [], {}, ["text"]],
    bool: [None, 0, 1, "true", [], {}],
    int: [None, "1", True, -1, 1 << 53, [], {}],
    float: [None, "1.5", False, -0.5, 1e300, [], {}],
    list: [None, "", 1, {}, [1], [None], [[]], [{"a": None}], [""] * 1001],
    dict: [None, "", 1, [], {"A": 1}, {"": 1}, {"a": None}, {"a": {"b": {}}}, {"a b": 1}],
}


def refuses(line: bytes) -> None:
    """Assert that it is garbled, and that this is what is raised."""
    with pytest.raises(GarbledError) as refused:
        said(line)
    assert str(refused.value)


def lines_of(**fields: object) -> bytes:
    """Return these fields as a line."""
    return json.dumps(fields).encode()


@pytest.mark.parametrize("message", SAID, ids=repr)
def test_what_the_updater_says_comes_as_it_was_said(message: Said) -> None:
    """All of it, in one line."""
    line = encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert said(line) == message


@pytest.mark.parametrize("message", TOLD, ids=repr)
def test_what_the_master_says_comes_as_it_was_said(message: Told) -> None:
    """All of it, in one line; the updater's side is no business of the master's, and refused."""
    line = encode(message)
    assert line.count(b"\n") == 1
    heard = told(line)
    assert type(heard) is type(message)
    assert encode(heard) == line
    refuses(line)


@pytest.mark.parametrize("kind", LINES)
def test_every_field_is_of_its_kind(kind: str) -> None:
    """And is there."""
    for name, value in LINES[kind].items():
        rest = {key: LINES[kind][key] for key in LINES[kind] if key != name}
        refuses(json.dumps(rest).encode())
        for wrong in WRONG[type(value)]:
            refuses(json.dumps({**rest, name: wrong}).encode())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400])
def test_numbers_that_are_none(number: str) -> None:
    """They pass for JSON in Python, and nowhere else."""
    line = json.dumps(LINES["Standing"]).replace('"last_checked_at": 1.5', '"last_checked_at": @')
    assert "@" in line
    refuses(line.replace("@", number).encode())
    refuses(b'{"v":1,"is":"Note","event":"watching","facts":{"a":%s}}' % number.encode())
    refuses(b'{"v":1,"is":"Answer","ask":1,"error":"","result":{"a":%s}}' % number.encode())
    refuses(b'{"v":1,"is":"Answer","ask":%s,"error":"","result":{}}' % number.encode())


def test_a_question_has_a_whole_number() -> None:
    """A half is not rounded to somebody else's."""
    refuses(lines_of(v=1, **{"is": "Answer"}, ask=1.5, result={}, error=""))


@pytest.mark.parametrize("version", [None, 0, 2, "1", True, 1.5, []])
def test_another_version(version: object) -> None:
    """It is refused, not guessed at."""
    refuses(lines_of(v=version, **{"is": "Seen"}, digest=""))


@pytest.mark.parametrize(
    "event", ["", "stopping", "service-ready", "rollout-committed", "updater-started", "Watching"]
)
def test_events_that_are_the_master_s(event: str) -> None:
    """They mean something to it: none is taken from the updater."""
    refuses(lines_of(v=1, **{"is": "Note"}, event=event, facts={}))


@pytest.mark.parametrize(
    "key",
    [*sorted(proposals._TAKEN), "_name", "a" * 42, "a.b", "é"],  # noqa: SLF001
)
def test_facts_that_are_the_log_s(key: str) -> None:
    """The updater writes no line of the master's log but its own."""
    refuses(lines_of(v=1, **{"is": "Note"}, event="watching", facts={key: "x"}))


@pytest.mark.parametrize(
    "digest", ["0" * 63, "0" * 65, "A" * 64, "g" * 64, "../../etc", "0" * 63 + "\n"]
)
def test_digests(digest: str) -> None:
    """64 hexadecimal digits or nothing: they become names of files."""
    refuses(lines_of(v=1, **{"is": "Seen"}, digest=digest))
    refuses(json.dumps({**LINES["Standing"], "held": [digest]}).encode())


@FEW
@given(st.text())
def test_texts_have_no_control_characters(text: str) -> None:
    """Nothing that moves a terminal's cursor, breaks a line, or cannot be encoded; and an end."""
    for words in (text, text * 5000):
        message = said(json.dumps({"v": 1, "is": "Changed", "what": words}).encode())
        assert isinstance(message, Changed)
        assert message.what.isprintable()
        assert len(message.what) == min(len(words), 1000)
        message.what.encode()


def test_what_a_terminal_would_obey() -> None:
    """Escapes, carriage returns, and marks that turn the direction of writing."""
    message = said(
        lines_of(v=1, **{"is": "Changed"}, what="a\x1b[2Jb\rc\n\u202ed\x00e\x7f\x9bf\ud800")
    )
    assert message == Changed("a [2Jb c  d e  f ")


# -- whatever comes ------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def survives(line: bytes) -> None:
    """Assert that it is a message, which can be said again, or is garbled; nothing else."""
    try:
        message = said(line)
    except GarbledError:
        return
    assert said(encode(message)) == message


@FEW
@given(st.binary() | st.text().map(str.encode))
def test_any_bytes(line: bytes) -> None:
    """They are garbled, and that is all that happens."""
    survives(line)
    survives(b'{"v": 1, "is": "Seen", "digest": "' + line + b'"}')


@FEW
@given(JSON)
def test_any_json(value: object) -> None:
    """The same."""
    survives(json.dumps(value).encode())
    survives(json.dumps({"v": 1, "is": value}).encode())


@FEW
@given(st.sampled_from(sorted(LINES)), st.data())
def test_any_field(kind: str, data: st.DataObject) -> None:
    """One field of a message is anything at all."""
    fields = LINES[kind]
    name = data.draw(st.sampled_from([*fields, "more"]))
    survives(json.dumps({**fields, name: data.draw(JSON)}).encode())


@FEW
@given(st.dictionaries(st.text(string.ascii_lowercase, min_size=1), JSON))
def test_any_facts(facts: dict[str, object]) -> None:
    """Facts and results are anything at all."""
    survives(json.dumps({**LINES["Note"], "facts": facts}).encode())
    survives(json.dumps({**LINES["Answer"], "result": facts}).encode())


def test_a_line_that_is_deep() -> None:
    """As many brackets as a line has room for."""
    for bracket in ("[", '{"a":'):
        refuses((bracket * (proposals.LONGEST_LINE // len(bracket))).encode())


def test_what_is_said_is_short_enough_to_be_heard() -> None:
    """A hook may print a line of megabytes; what the master tells is not cut."""
    long = "€" * 100_000
    note = encode(Note("hook-failed", {"reason": long}))
    assert len(note) < proposals.LONGEST_LINE
    heard = said(note)
    assert isinstance(heard, Note)
    assert heard.facts["reason"] == "€" * 1000
    begin = Begin({"check": long}, "/", "", 0)
    heard_too = told(encode(begin))
    assert isinstance(heard_too, Begin)
    assert heard_too.settings["check"] == long
