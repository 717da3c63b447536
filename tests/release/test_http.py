"""A file on a web server."""

from __future__ import annotations

from io import BytesIO

import pytest

from overseer_py.errors import FetchError
from overseer_py.release.candidate import Candidate, Limits
from overseer_py.release.http import HttpSource, file_name
from tests.release.servers import (
    Server,
    body,
    conditional,
    endless,
    redirect,
    refusal,
    truncated,
)

MODIFIED = "Fri, 02 Jan 2026 03:04:05 GMT"


def source(url: str, limits: Limits | None = None) -> HttpSource:
    """Return the source of a URL, in an empty environment."""
    return HttpSource(url, limits or Limits(), {})


def looked(url: str, **known: str) -> Candidate:
    """Return the candidate that there is."""
    candidate = source(url).look(known)
    assert candidate is not None
    return candidate


def test_what_a_look_tells(server: Server) -> None:
    """The name, the size, the date, and by what it is recognised."""
    url = server.at("/v1/app%20x.tar.gz", conditional(b"12345", '"e"', MODIFIED))
    candidate = looked(url)
    assert (candidate.name, candidate.size) == ("app x.tar.gz", 5)
    assert (candidate.version, candidate.published) == ("", 1767323045.0)
    assert candidate.known == {"ETag": '"e"', "Last-Modified": MODIFIED}
    into = BytesIO()
    source(url).download(candidate, into)
    assert into.getvalue() == b"12345"


def test_what_is_known_is_not_offered(server: Server) -> None:
    """The server is told both validators, and says 304."""
    url = server.at("/app", conditional(b"1", '"e"', MODIFIED))
    known = looked(url).known
    assert source(url).look(known) is None
    asked = server.seen[-1].headers
    assert (asked["If-None-Match"], asked["If-Modified-Since"]) == ('"e"', MODIFIED)
    server.at("/app", conditional(b"2", '"f"'))
    assert looked(url, **known).known == {"ETag": '"f"'}


def test_a_download_is_unconditional(server: Server) -> None:
    """It wants the bytes, whatever is known."""
    url = server.at("/app", conditional(b"1", '"e"'))
    source(url).download(looked(url), BytesIO())
    assert "If-None-Match" not in server.seen[-1].headers


def test_an_etag_that_changes_every_time_is_offered_every_time(server: Server) -> None:
    """Whether it is new is then decided by the digest."""
    url = server.at("/app", *(conditional(b"same", f'"{i}"') for i in range(9)))
    known = looked(url).known
    for _ in range(3):
        candidate = looked(url, **known)
        into = BytesIO()
        source(url).download(candidate, into)
        assert into.getvalue() == b"same"
        known = candidate.known


def test_a_server_without_validators_is_offered_every_time(server: Server) -> None:
    """Nothing is known of it, and nothing asked of it."""
    candidate = looked(server.at("/app", body(b"1")))
    assert (candidate.known, candidate.published) == ({}, None)
    long = looked(server.at("/app", body(b"1", ETag="x" * 5000, Last_Modified="yesterday")))
    assert (long.known, long.published) == ({"Last-Modified": "yesterday"}, None)


def test_a_password_is_used_and_told_nobody(server: Server) -> None:
    """Neither in the candidate nor in an error."""
    url = server.at("/app", body(b"1"), refusal(403)).replace("://", "://user:secret@")
    candidate = looked(url + "?token=secret")
    assert candidate.place == f"{server.url}/app?…"
    assert server.seen[0].headers["Authorization"]
    with pytest.raises(FetchError) as caught:
        source(url).download(candidate, BytesIO())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("answer", [truncated(b"1", 2), endless(), refusal(500)])
def test_faults_of_a_server_are_fetch_errors(server: Server, answer: object) -> None:
    """A body that is not whole, one that never is, and none."""
    url = server.at("/app", answer)  # type: ignore[arg-type]
    with pytest.raises(FetchError):
        source(url, Limits(size=1000)).download(Candidate("app", url), BytesIO())


def test_a_full_disk_is_not_the_fault_of_the_source(server: Server) -> None:
    """What writing raises comes through as it is."""
    url = server.at("/app", body(bytes(100)))
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space"):
        source(url).download(Candidate("app", url), full)


def test_a_redirect_keeps_the_conditions_and_the_name(server: Server, foreign: Server) -> None:
    """The store behind it answers 304, and what it calls the file is of no interest."""
    foreign.at("/blob/0123.bin", conditional(b"1", '"e"'))
    url = server.at("/app.gz", redirect(f"{foreign.url}/blob/0123.bin?signature=secret"))
    candidate = looked(url)
    assert candidate.name == "app.gz"
    assert source(url).look(candidate.known) is None


@pytest.mark.parametrize(
    ("disposition", "asked", "final", "name"),
    [
        ("", "http://h/a.gz", "http://h/b.zip", "a.gz"),
        ("", "http://h/latest", "http://h/app-1.zip?x=/y.gz", "app-1.zip"),
        ("", "http://h/latest", "http://h/newest", "latest"),
        ("", "http://h", "http://h/", "release"),
        ("", "http://h/%2e%2e", "http://h/..%2fx", "release"),
        ("", "http://h/.hidden", "http://h/-rf", "release"),
        ('attachment; filename="app.tar.gz"', "http://h/v1.2", "http://h/v1.2", "app.tar.gz"),
        ("attachment; filename*=UTF-8''a%20b.gz", "http://h/x", "http://h/x", "a b.gz"),
        ('attachment; filename="../../etc/passwd"', "http://h/x", "http://h/x", "x"),
        ('attachment; filename="/etc/passwd"', "http://h/x", "http://h/x", "x"),
        ('attachment; filename="a\x00b"', "http://h/x", "http://h/x", "x"),
        ("attachment; filename=" + "x" * 129, "http://h/x", "http://h/x", "x"),
        ("\r\nattachment; filename=", "http://h/x", "http://h/x", "x"),
    ],
)
def test_names(disposition: str, asked: str, final: str, name: str) -> None:
    """What the server says, if that is a plain name; else how a URL ends."""
    assert file_name(disposition, asked, final) == name
