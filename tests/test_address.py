"""Addresses, as users write them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overseer_py.address import BACKLOG, Address, Kind, parse


@pytest.mark.parametrize(
    ("text", "kind", "host", "port", "bracketed"),
    [
        ("127.0.0.1:8000", Kind.TCP, "127.0.0.1", 8000, False),
        ("localhost:80", Kind.TCP, "localhost", 80, False),
        ("my-host.example_1.com:0", Kind.TCP, "my-host.example_1.com", 0, False),
        (":65535", Kind.TCP, "", 65535, False),
        ("[::1]:80", Kind.TCP, "::1", 80, True),
        ("[fe80::1%eth0]:80", Kind.TCP, "fe80::1%eth0", 80, True),
        ("[::ffff:1.2.3.4]:080", Kind.TCP, "::ffff:1.2.3.4", 80, True),
        ("udp:127.0.0.1:53", Kind.UDP, "127.0.0.1", 53, False),
        ("udp::53", Kind.UDP, "", 53, False),
        ("udp:[::]:53", Kind.UDP, "::", 53, True),
    ],
)
def test_internet(text: str, kind: Kind, host: str, port: int, bracketed: bool) -> None:
    """Host and port, with IPv6 addresses in brackets; without a host, every address."""
    expected = Address("listener-3", kind, host=host, port=port, bracketed=bracketed)
    assert parse(text, 3) == expected
    assert parse(f"web={text}", 3).name == "web"
    assert str(expected) == text.replace("080", "80")


@pytest.mark.parametrize("path", ["/run/app.sock", "/a b", "/a:1", "/é", "/a=b/c=d", "/"])
def test_unix(path: str) -> None:
    """A path may hold colons and signs of equality."""
    expected = Address("listener-0", Kind.UNIX, path=path)
    assert parse(f"unix:{path}", 0) == expected
    assert parse(f"web=unix:{path}", 0).path == path
    assert str(expected) == f"unix:{path}"


def test_a_unix_socket_has_options() -> None:
    """Mode, user and group; the mode is octal with or without a sign of it."""
    found = parse("unix:/s?mode=0660&user=www&group=1000&backlog=5&nonblock=1", 0)
    assert found == Address(
        "listener-0",
        Kind.UNIX,
        path="/s",
        mode=0o660,
        user="www",
        group="1000",
        backlog=5,
        nonblock=True,
    )
    assert parse("unix:/s?mode=660", 0).mode == parse("unix:/s?mode=0o660", 0).mode == 0o660


@pytest.mark.parametrize("name", ["http", "3", "a.socket", "x_y-z"])
def test_adopted(name: str) -> None:
    """A socket that was handed over has a name or a number."""
    assert parse(f"fd:{name}", 1) == Address("listener-1", Kind.ADOPTED, path=name)
    assert parse(f"web=fd:{name}", 1).name == "web"
    assert str(parse(f"fd:{name}", 1)) == f"fd:{name}"


def test_options_of_every_socket_that_is_made() -> None:
    """Backlog and blocking can be set for each kind."""
    for text in (":80", "udp::53", "unix:/s"):
        assert parse(text, 0).backlog == BACKLOG
        found = parse(f"{text}?nonblock=1&backlog=1", 0)
        assert (found.backlog, found.nonblock) == (1, True)
        assert not parse(f"{text}?nonblock=0", 0).nonblock
        assert parse(f"{text}?", 0) == parse(text, 0)


def test_equal_addresses_are_one_listener() -> None:
    """A reload compares them: the same text is the same listener, another name another."""
    assert parse("a=:80?backlog=5", 0) == parse("a=:80?backlog=5", 7)
    assert parse(":80", 0) != parse(":80", 1)
    assert len({parse("a=:80", 0), parse("a=:80", 1)}) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is no address; write HOST:PORT, :PORT, [V6]:PORT or unix:/path"),
        ("80", "'80' is no address; write HOST:PORT"),
        ("localhost", "'localhost' is no address; write HOST:PORT"),
        ("localhost:", "'localhost:' is no address"),
        ("localhost:http", "'localhost:http' is no address"),
        (":65536", "':65536' is no address"),
        (":-1", "':-1' is no address"),
        (":8000 ", "':8000 ' is no address"),
        (":80\n", "':80\\n' is no address"),
        ("::1:80", "'::1:80': write an IPv6 address in brackets: [::1]:80"),
        ("[::1]", "'[::1]' is no address"),
        ("[]:80", "'[]:80': write an IPv6 address in brackets"),
        ("[127.0.0.1]:80", "'[127.0.0.1]:80': write an IPv6 address in brackets"),
        ("[::1:80", "'[::1:80': '[::1' is no host"),
        ("http://localhost:80", "'http://localhost:80': 'http://localhost' is no host"),
        ("tcp:localhost:80", "'tcp:localhost:80': write an IPv6 address in brackets"),
        ("udp:53", "'udp:53' is no address"),
        ("udp:", "'udp:' is no address"),
        ("unix:", "'unix:': a unix socket has an absolute path: unix:/run/app.sock"),
        ("unix:app.sock", "'unix:app.sock': a unix socket has an absolute path"),
        ("fd:", "'fd:': write fd:NAME or fd:3, as systemd handed it over"),
        ("fd:a:b", "'fd:a:b': write fd:NAME or fd:3"),
        ("=:80", "'=:80': a listener's name is made of letters, digits, '.', '_', '-'"),
        ("my web=:80", "'my web=:80': a listener's name is made of letters"),
        ("wéb=:80", "'wéb=:80': a listener's name is made of letters"),
        ("a=b=:80", "'b=:80': 'b=' is no host"),
        (":80?baklog=5", "?baklog: no such option for :80; did you mean backlog?"),
        (":80?mode=0660", "?mode: no such option for :80"),
        ("udp::53?user=a", "?user: no such option for udp::53"),
        ("fd:http?backlog=5", "?backlog: no such option for fd:http"),
        (":80?backlog", "'' is not a whole number from 1 to"),
        (":80?backlog=0", "'0' is not a whole number from 1 to"),
        (":80?nonblock=yes", "'yes' is not a whole number from 0 to 1"),
        ("unix:/s?mode=888", "'888' is not an octal mode such as 0660"),
        ("unix:/s?&", "?: no such option for unix:/s"),
    ],
)
def test_what_is_no_address(text: str, reason: str) -> None:
    """The text is told, and what would have been right."""
    with pytest.raises(ValueError, match="^" + re.escape(reason)):
        parse(text, 0)


PIECES = "= : :: [ ] ? & unix: udp: fd: / 80 a 127.0.0.1 ² 99999 0o7 - %"
OPTIONS = "mode= backlog= nonblock= user= group= no="
PARTS = st.sampled_from([*PIECES.split(), *OPTIONS.split(), " ", "\n", "\0"])
GARBAGE = st.text() | st.lists(PARTS, max_size=8).map("".join)


@settings(deadline=None, max_examples=1000)
@given(GARBAGE, st.integers(0, 9))
def test_any_text_is_an_address_or_a_value_error(text: str, index: int) -> None:
    """No text is a traceback; what is an address can be written and read again."""
    try:
        found = parse(text, index)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - both outcomes are right
        return
    assert found.name
    again = parse(f"{found.name}={found}", index)
    assert (again.kind, again.host, again.port, again.path) == (
        found.kind,
        found.host,
        found.port,
        found.path,
    )
