"""The HTTP client: what comes in, and when it ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from overseer_py import __version__
from overseer_py.errors import FetchError
from overseer_py.release import refusals
from overseer_py.release.candidate import Limits
from overseer_py.release.web import Ask
from tests.master import PATIENCE
from tests.release.fetching import CONTENT, SHORT, fails, fetched, web
from tests.release.servers import (
    Answer,
    Server,
    body,
    chunked,
    endless,
    raw,
    refusal,
    trickle,
    trickled_headers,
    truncated,
)

# -- as it should be ------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [body(CONTENT), chunked(CONTENT[:1000], CONTENT[1000:])])
def test_the_bytes_are_those_that_were_sent(server: Server, answer: Answer) -> None:
    """With a length or in chunks."""
    assert fetched(server.at("/app", answer)) == CONTENT


def test_what_is_compressed_by_its_author_stays_so(server: Server) -> None:
    """A Content-Type of gzip is no reason to unpack; that is not the client's business."""
    packed = b"\x1f\x8b not really"
    assert fetched(server.at("/a.gz", body(packed, Content_Type="application/gzip"))) == packed


def test_the_request_says_who_asks_and_wants_no_compression(server: Server) -> None:
    """One header each."""
    fetched(server.at("/app", body(CONTENT)))
    headers = server.seen[0].headers
    assert headers.get_all("User-Agent") == [f"overseer/{__version__}"]
    assert headers.get_all("Accept-Encoding") == ["identity"]
    assert "Authorization" not in headers


def test_a_document_is_read_within_its_own_limit(server: Server) -> None:
    """A list of checksums is no place for a gigabyte."""
    url = server.at("/SHA256SUMS", body(b"12345"))
    assert web().read(Ask(url), 5) == b"12345"
    with pytest.raises(FetchError, match="more than 4 bytes"):
        web().read(Ask(url), 4)


def test_a_look_reads_no_body(server: Server) -> None:
    """One that comes byte by byte does no harm, and the size is as announced."""
    ask = Ask(server.at("/app", trickle(Content_Length="1000000")))
    with web(Limits(look=PATIENCE)).look(ask) as answer:
        assert (answer.size, answer.unchanged) == (1000000, False)


def test_user_and_password_of_a_url_are_sent_and_not_shown(server: Server) -> None:
    """They are decoded as URLs are."""
    url = server.at("/app", body(CONTENT)).replace("://", "://us%40er:p%C3%A4ss@")
    fetched(url)
    assert server.seen[0].headers["Authorization"] == "Basic dXNAZXI6cMOkc3M="
    server.at("/app", refusal(401))
    text = str(fails(url.replace("p%C3%A4ss", "secret") + "?key=secret"))
    assert text.startswith(f"{server.url}/app?…: 401: user and password")


# -- bodies that are not whole, or too much -------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        truncated(b"half", promised=8),
        truncated(b"", promised=8),
        chunked(b"half", end=False),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf"),
    ],
)
def test_a_truncated_body_is_an_error(server: Server, answer: Answer) -> None:
    """Whether the length was promised for the whole or chunk by chunk."""
    assert "the body was cut short" in str(fails(server.at("/app", answer)))


def test_a_body_that_is_too_big_by_its_length_is_not_read(server: Server) -> None:
    """The length is enough to refuse it, also when it is only looked at."""
    url = server.at("/app", trickle(Content_Length="1001"))
    assert "more than 1000 bytes; raise --max-size" in str(fails(url, Limits(size=1000)))
    with pytest.raises(FetchError, match="more than 1000"), web(Limits(size=1000)).look(Ask(url)):
        pytest.fail("a look goes on")


@pytest.mark.parametrize("answer", [endless(), chunked(bytes(600), bytes(600))])
def test_a_body_that_becomes_too_big_is_left(server: Server, answer: Answer) -> None:
    """Without a length it is counted."""
    assert "more than 1000 bytes" in str(fails(server.at("/app", answer), Limits(size=1000)))


def test_a_body_of_just_the_limit_is_taken(server: Server) -> None:
    """The limit is the most that may be, not the least that may not."""
    assert len(fetched(server.at("/app", body(bytes(1000))), Limits(size=1000))) == 1000


@pytest.mark.parametrize("encoding", ["gzip", "br", "x" * 5000])
def test_a_body_that_was_encoded_on_the_way_is_refused(server: Server, encoding: str) -> None:
    """Unpacking it would let a bomb in; keeping it would keep what nobody has signed."""
    error = fails(server.at("/app", body(b"x", Content_Encoding=encoding)))
    assert "switch compression off" in str(error)
    assert len(str(error)) < 300


# -- deadlines ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [trickle(0.05), trickle(0.05, Content_Length="100000"), trickled_headers(0.05)],
)
def test_what_trickles_ends_at_the_deadline(server: Server, answer: Answer) -> None:
    """A byte now and then does not prolong it: not in the body, and not in the headers."""
    assert "not done after 0.3s" in str(fails(server.at("/app", answer), SHORT))


@pytest.mark.parametrize("answer", [trickle(), trickled_headers()])
def test_a_byte_a_second_ends_at_the_deadline(server: Server, answer: Answer) -> None:
    """Also while nothing comes: the wait for the next byte is no longer than the rest."""
    assert "not done after 0.3s" in str(fails(server.at("/app", answer), SHORT))


def test_what_trickles_through_tls_ends_at_the_deadline(secure: Server, certificate: Path) -> None:
    """The time-out is the socket's, whatever is on it."""
    url = secure.at("/app", trickle(0.05))
    assert "not done after" in str(fails(url, SHORT, SSL_CERT_FILE=str(certificate)))


def test_a_refusal_whose_body_trickles_is_still_that_refusal(server: Server) -> None:
    """The reason is in the status, and it is not lost with the body."""
    late = raw(b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 9\r\n\r\n")
    error = fails(server.at("/app", late))
    assert error.retry_after == 7


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 407, 410, 429, 500, 503, 204, 206])
def test_a_refusal_names_url_status_and_remedy(server: Server, status: int) -> None:
    """Anything but 200 is one, a part of a file as well."""
    url = server.at("/app", refusal(status))
    assert str(fails(url)).startswith(f"{url}: {status}: ")


def test_304_is_an_answer_only_to_who_asked(server: Server) -> None:
    """Otherwise a broken server would keep us from all updates in silence."""
    url = server.at("/app", body(b"", 304))
    assert "304" in str(fails(url))
    with web().look(Ask(url, {"If-None-Match": '"1"'})) as answer:
        assert answer.unchanged


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_a_server_that_flaps_says_when_to_come_back(server: Server, status: int) -> None:
    """What it says is in the error, and afterwards all is well."""
    url = server.at("/app", refusal(status, Retry_After="120"), refusal(status), body(CONTENT))
    assert fails(url).retry_after == 120
    assert fails(url).retry_after is None
    assert fetched(url) == CONTENT


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (503, {"Retry-After": "0"}, 0),
        (503, {"Retry-After": format_datetime(NOW + timedelta(seconds=90), usegmt=True)}, 90),
        (503, {"Retry-After": format_datetime(NOW - timedelta(seconds=90), usegmt=True)}, 0),
        (429, {"Retry-After": "9" * 15}, 86400),
        (429, {"Retry-After": "9" * 99}, None),
        (429, {"Retry-After": "soon"}, None),
        (429, {"Retry-After": "-5"}, None),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1767323105"}, 60),
        (429, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "nan"}, None),
        (403, {"X-RateLimit-Remaining": "7", "X-RateLimit-Reset": "1767323105"}, None),
        (404, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1767323105"}, None),
        (500, {}, None),
    ],
)
def test_how_long_to_stay_away(status: int, headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, a date or GitHub's reset; never more than a day, never less than nothing."""
    assert refusals.stay_away(status, headers, NOW.timestamp()) == seconds
