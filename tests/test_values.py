"""How values are written."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overseer_py import values
from overseer_py.suggest import did_you_mean
from overseer_py.values import ReadyRule


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("1.5s", 1.5),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("90", 90.0),
        ("0", 0.0),
        (".5", 0.5),
        ("0.25 s", 0.25),
        (" 3s ", 3.0),
        ("366h", 366 * 3600.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """A number with a unit, or a bare number of seconds."""
    assert values.duration(text) == seconds


UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


@given(st.integers(0, 8000), st.integers(0, 999), st.sampled_from(sorted(UNITS)))
def test_what_is_written_as_a_duration_is_read(whole: int, thousandths: int, unit: str) -> None:
    """Any number with any unit is so many seconds."""
    seconds = values.duration(f"{whole}.{thousandths:03}{unit}")
    assert seconds == pytest.approx((whole + thousandths / 1000) * UNITS[unit])


@given(st.floats(0, 366 * 24 * 3600))
def test_durations_make_the_round_trip(seconds: float) -> None:
    """What is read can be written and read again, to the microsecond."""
    assert values.duration(f"{seconds:.6f}s") == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "soon",
        "-1s",
        "+1s",
        "1d",
        "1 1s",
        "1e3",
        "1,5s",
        "1.",
        "inf",
        "nan",
        "0x10",
        "1s\0",
    ],
)
def test_what_is_no_duration(text: str) -> None:
    """Anything else is told with what would be right."""
    with pytest.raises(ValueError, match=r"is not a duration; write 500ms, 1\.5s, 2m, 1h or seco"):
        values.duration(text)


@pytest.mark.parametrize("text", ["367" * 9 + "h", "8785h", "9" * 5000])
def test_a_duration_has_an_end(text: str) -> None:
    """More than a year is a typing error."""
    with pytest.raises(ValueError, match="is more than a year"):
        values.duration(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", signal.SIGTERM),
        ("SIGTERM", signal.SIGTERM),
        ("term", signal.SIGTERM),
        (" sigusr2 ", signal.SIGUSR2),
        ("15", signal.SIGTERM),
        ("RTMIN", signal.SIGRTMIN),
    ],
)
def test_signals(text: str, number: signal.Signals) -> None:
    """A name with or without SIG, in any case, or a number."""
    assert values.signal_number(text) is number


@pytest.mark.parametrize("text", ["", "SIG", "TERMX", "0", "-1", "65", "1.0", "²", "9" * 5000])
def test_what_is_no_signal(text: str) -> None:
    """Anything else is told with what would be right."""
    with pytest.raises(ValueError, match="is not a signal; write TERM, QUIT, INT, USR1"):
        values.signal_number(text)


@pytest.mark.parametrize("text", ["KILL", "sigstop", "9", "19"])
def test_signals_that_nobody_hears(text: str) -> None:
    """KILL and STOP would never be heard."""
    with pytest.raises(ValueError, match="cannot be caught; choose another signal"):
        values.signal_number(text)


@pytest.mark.parametrize(("text", "extra"), [("all", None), ("exclusive", 0), ("1", 1), ("8", 8)])
def test_surge(text: str, extra: int | None) -> None:
    """A word or a number of workers."""
    assert values.surge(text) == extra


@pytest.mark.parametrize(
    ("parse", "text", "reason"),
    [
        (values.surge, "0", "'0' is not a surge; write all, exclusive or 1 …"),
        (values.surge, "none", "'none' is not a surge; write all, exclusive or 1 …"),
        (values.workers, "0", "'0' is not a whole number from 1 to 1024"),
        (values.workers, "1025", "'1025' is not a whole number from 1 to 1024"),
        (values.count, "²", "'²' is not a whole number from 0 to 1000000"),
        (values.count, "1_000", "'1_000' is not a whole number from 0 to 1000000"),
        (values.mode, "0o", "'0o' is not an octal mode such as 0660"),
        (values.mode, "77777", "'77777' is not an octal mode such as 0660"),
    ],
)
def test_numbers_have_bounds(parse: Callable[[str], object], text: str, reason: str) -> None:
    """What is too small, too large or no number is told with the bounds."""
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        parse(text)


@given(st.integers(0, 0o7777))
def test_modes_make_the_round_trip(mode: int) -> None:
    """Octal, with or without a sign of it."""
    assert values.mode(f"{mode:o}") == values.mode(f"0o{mode:o}") == mode


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("auto", ReadyRule("auto")),
        ("accept", ReadyRule("accept")),
        ("accept:a,b", ReadyRule("accept", "a,b")),
        ("notify", ReadyRule("notify")),
        ("fd", ReadyRule("fd")),
        ("http:/health", ReadyRule("http", "/health")),
        ("http:web/a?b=c:d", ReadyRule("http", "web/a?b=c:d")),
        ("exec:curl -f http://localhost", ReadyRule("exec", "curl -f http://localhost")),
        ("delay:1.5s", ReadyRule("delay", "1.5s")),
    ],
)
def test_readiness_rules(text: str, rule: ReadyRule) -> None:
    """A rule is written as it is read."""
    assert values.ready_rule(text) == rule
    assert str(rule) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is not a readiness rule; write one of auto, accept[:NAME,…], notify, fd, http:"),
        ("accepts", "'accepts' is not a readiness rule"),
        ("auto:", "auto takes no argument"),
        ("notify:x", "notify takes no argument"),
        ("fd:3", "fd takes no argument"),
        ("http:health", "'http:health' names no path; write http:/health or http:NAME/health"),
        ("http", "'http' names no path"),
        ("exec: ", "exec names no command; write exec:COMMAND"),
        ("delay", "'' is not a duration"),
    ],
)
def test_what_is_no_readiness_rule(text: str, reason: str) -> None:
    """A rule without what it needs, or with what it does not, is refused."""
    with pytest.raises(ValueError, match="^" + re.escape(reason)):
        values.ready_rule(text)


PARSERS: list[Callable[[str], object]] = [
    values.duration,
    values.count,
    values.workers,
    values.signal_number,
    values.surge,
    values.mode,
    values.ready_rule,
]


@pytest.mark.parametrize("parse", PARSERS)
@given(text=st.text())
def test_any_text_is_a_value_or_a_value_error(parse: Callable[[str], object], text: str) -> None:
    """No text is a traceback."""
    try:
        parse(text)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - both outcomes are right


def test_the_nearest_name() -> None:
    """A hint is given if one is near, and a common beginning makes nothing nearer."""
    assert did_you_mean("workerz", ["workers", "settle"]) == "; did you mean workers?"
    assert did_you_mean("zzz", ["workers", "settle"]) == ""
    assert did_you_mean("zzz", []) == ""
    assert did_you_mean("PREFIX_Z", ["PREFIX_A", "PREFIX_B"], "PREFIX_") == ""
    assert did_you_mean("PREFIX_AAB", ["PREFIX_AAA"], "PREFIX_") == "; did you mean PREFIX_AAA?"
