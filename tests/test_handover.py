"""What a worker is told about its sockets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overseer_py.handover import (
    FIRST_FD,
    MASTERS_OWN,
    WORKER_VARIABLES,
    Inherited,
    describe,
    fill_in,
    scrub,
)

WEB = Inherited("web", "127.0.0.1:8000", 8000)
ADMIN = Inherited("admin.v6", "[::1]:9000", 9000)
LOCAL = Inherited("local", "/run/app.sock", None)


def test_the_masters_own_variables_are_not_passed_on() -> None:
    """A worker that could speak to systemd could take the unit from its master."""
    service = {"PATH": "/bin", "a.b": "", "OVERSEER_OTHER": "1", "LISTEN": "x"}
    own = dict.fromkeys([*MASTERS_OWN, *WORKER_VARIABLES, "OVERSEER_WORKERS"], "1")
    assert scrub(service | own, ["OVERSEER_WORKERS"]) == service
    assert {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} <= set(MASTERS_OWN)
    assert {"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} <= set(MASTERS_OWN)


def test_the_environment_is_copied() -> None:
    """What was given is not changed."""
    environ = {"NOTIFY_SOCKET": "/run/systemd/notify", "A": "1"}
    scrubbed = scrub(environ)
    scrubbed["B"] = "2"
    assert environ == {"NOTIFY_SOCKET": "/run/systemd/notify", "A": "1"}


def test_sockets_are_described_as_systemd_does() -> None:
    """Number and names in order; LISTEN_PID is left to the worker."""
    assert describe([WEB, ADMIN, LOCAL]) == {
        "LISTEN_FDS": "3",
        "LISTEN_FDNAMES": "web:admin.v6:local",
        "OVERSEER_NUM_FDS": "3",
    }


def test_without_sockets_there_is_nothing_to_describe() -> None:
    """LISTEN_FDS=0 would be a promise that some programs take for an error."""
    assert describe([]) == {"OVERSEER_NUM_FDS": "0"}


@pytest.mark.parametrize(
    ("word", "filled"),
    [
        ("{fd}", "3"),
        ("--fd={fd}", "--fd=3"),
        ("fd://{fd:local},{fd:web}", "fd://5,3"),
        ("{addr:web}", "127.0.0.1:8000"),
        ("{addr:admin.v6}", "[::1]:9000"),
        ("unix:{addr:local}", "unix:/run/app.sock"),
        ("{port:admin.v6}", "9000"),
        ("NGINX={fd};{fd:local};", "NGINX=3;5;"),
    ],
)
def test_placeholders(word: str, filled: str) -> None:
    """Number, address and port of a listener, by its name; ``{fd}`` is the first."""
    assert fill_in(["run", word], [WEB, ADMIN, LOCAL]) == ["run", filled]


@pytest.mark.parametrize(
    "word",
    ["{}", "{x}", '{"a": 1}', "{FD}", "{fd:}", "{fd :web}", "{addr}", "{port}", "${fd_}", "{{x}}"],
)
def test_other_braces_are_left_alone(word: str) -> None:
    """A command may hold JSON, shell variables and templates."""
    assert fill_in([word], [WEB]) == [word]


def test_what_is_filled_in_is_not_filled_in_again() -> None:
    """A path that looks like a placeholder is a path."""
    odd = Inherited("odd", "/run/{fd}", None)
    assert fill_in(["{addr:odd}"], [odd]) == ["/run/{fd}"]


@pytest.mark.parametrize(
    ("word", "missing"),
    [
        ("a{fd:gone}b", "{fd:gone}"),
        ("{addr:gone}", "{addr:gone}"),
        ("{port:gone}", "{port:gone}"),
        ("{port:local}", "{port:local}"),
    ],
)
def test_a_listener_that_is_not_there(word: str, missing: str) -> None:
    """The placeholder is told; a unix socket has no port."""
    with pytest.raises(KeyError) as caught:
        fill_in([word], [WEB, LOCAL])
    assert caught.value.args == (missing,)


def test_no_listener_at_all() -> None:
    """``{fd}`` needs one."""
    with pytest.raises(KeyError) as caught:
        fill_in(["{fd}"], [])
    assert caught.value.args == ("{fd}",)


@given(st.lists(st.text(st.characters(exclude_characters="{")), max_size=5))
def test_a_command_without_placeholders_is_as_it_was(command: list[str]) -> None:
    """Words are not split, joined or trimmed."""
    assert fill_in(command, [WEB]) == command


@given(st.lists(st.from_regex(r"[A-Za-z0-9_.-]{1,9}", fullmatch=True), unique=True, max_size=9))
def test_numbers_follow_the_order(names: list[str]) -> None:
    """The i-th listener is 3+i, by its name and in the list of names."""
    listeners = [Inherited(name, f"/{name}", None) for name in names]
    assert fill_in([f"{{fd:{name}}}" for name in names], listeners) == [
        str(FIRST_FD + index) for index in range(len(names))
    ]
    assert describe(listeners).get("LISTEN_FDNAMES", "").split(":") == (names or [""])
