"""The order of versions, which never goes down by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overseer_py.errors import VetoError
from overseer_py.release.versions import check_not_older, stated

# <https://semver.org/#spec-item-11>, and what tags look like
ORDERED = [
    ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2"],
    ["1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2", "1.10", "2.0.0"],
    ["v1.2.3", "v1.2.4-rc9", "v1.2.4-rc10", "v1.2.4", "v1.3-beta"],
    ["1.0.dev1", "1.0rc1", "1.0", "1.0.post1", "1.0.post2", "1.0.1"],
    ["2024-01-15", "2024-02-01", "2024.03", "20240401"],
    ["app-v1.9", "app-v1.10"],
    ["release/1", "release/2"],
]
SAME = [("1.2", "v1.2.0"), ("1.2.3+a", "1.2.3+b"), ("1.0-RC1", "1.0rc1"), ("nightly", "nightly")]
APART = [("app-1.0", "lib-2.0"), ("1.0", "nightly"), ("abc123", "def456"), ("1", "9" * 200)]


def ok(installed: str, offered: str) -> bool:
    """Whether one may follow the other."""
    try:
        check_not_older(installed, offered)
    except VetoError as veto:
        return "--allow-downgrade" not in str(veto)
    return True


@pytest.mark.parametrize("line", ORDERED)
def test_later_versions_may_follow(line: list[str]) -> None:
    """Each may follow those before it, and none may follow those after it."""
    for index, earlier in enumerate(line):
        for later in line[index + 1 :]:
            assert ok(earlier, later), (earlier, later)
            assert not ok(later, earlier), (later, earlier)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_version_may_follow_itself(one: str, other: str) -> None:
    """Trailing zeros, builds, capitals and a v do not count."""
    assert ok(one, other)
    assert ok(other, one)


@pytest.mark.parametrize(("one", "other"), APART)
def test_what_cannot_be_compared_vetoes(one: str, other: str) -> None:
    """Nobody knows whether that would be a downgrade."""
    assert not ok(one, other)
    assert not ok(other, one)


def test_a_version_cannot_be_taken_away() -> None:
    """An old release, signed when there were no versions yet, is no way down."""
    assert not ok("1.0", "")
    assert ok("", "1.0")
    assert ok("", "")


def test_a_trusted_comment_states_a_version() -> None:
    """It stands between whatever else is there."""
    assert stated("timestamp:1700000000\tfile:app\thashed version:1.2.3-rc1+5") == "1.2.3-rc1+5"
    assert stated("version:v2, file:x") == "v2"
    assert stated("subversion:9") == ""
    assert stated("version:1 version:1") == "1"
    with pytest.raises(VetoError, match="several versions: 1, 2"):
        stated("version:1 version:2")


NUMBERS = st.integers(0, 99)
SEMVER = st.builds(
    lambda numbers, before: ".".join(map(str, numbers)) + (before and f"-{before}"),
    st.lists(NUMBERS, min_size=1, max_size=4),
    st.sampled_from(["", "alpha", "alpha.1", "alpha.2", "beta", "rc.1", "rc.10", "1"]),
)


@given(SEMVER, SEMVER, SEMVER)
def test_the_order_is_total(one: str, two: str, three: str) -> None:
    """Of any two one may follow the other, and what follows twice follows."""
    assert ok(one, two) or ok(two, one)
    if ok(one, two) and ok(two, three):
        assert ok(one, three)


@given(st.lists(NUMBERS, min_size=3, max_size=3), st.lists(NUMBERS, min_size=3, max_size=3))
def test_numbers_are_compared_as_numbers(one: list[int], two: list[int]) -> None:
    """As tuples are."""
    assert ok(".".join(map(str, one)), ".".join(map(str, two))) == (one <= two)


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_is_answered(one: str, two: str) -> None:
    """A tag is what somebody else has written."""
    ok(one, two)
    ok("1.0", one)
