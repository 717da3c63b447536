"""The HTTP client: what comes in, what goes out, and when it ends."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from io import BytesIO
from pathlib import Path

import pytest
from urllib3.util import parse_url

from overseer_py import __version__
from overseer_py.errors import FetchError
from overseer_py.release import refusals
from overseer_py.release.candidate import Limits
from overseer_py.release.web import MOST_REDIRECTS, Ask, Web, redirected
from tests.release.servers import (
    Answer,
    Server,
    body,
    chunked,
    endless,
    raw,
    redirect,
    refusal,
    trickle,
    trickled_headers,
    truncated,
)

CONTENT = bytes(range(256)) * 1000
SHORT = Limits(look=0.3, download=0.3)
SOON = 5.0  # seconds: much more than any deadline here, much less than what is waited for
TOKEN = {"Authorization": "Bearer secret-token"}


def web(limits: Limits | None = None, **environ: str) -> Web:
    """Return a client; nothing of this process' environment has a say."""
    return Web(limits or Limits(), environ)


def fetched(ask: Ask | str, limits: Limits | None = None, **environ: str) -> bytes:
    """Return what a download writes."""
    into = BytesIO()
    asked = ask if isinstance(ask, Ask) else Ask(ask)
    assert web(limits, **environ).download(asked, into) == len(into.getvalue())
    return into.getvalue()


def fails(ask: Ask | str, limits: Limits | None = None, **environ: str) -> FetchError:
    """Return why a download fails; in one line, in time, and without a secret."""
    begun = time.monotonic()
    with pytest.raises(FetchError) as caught:
        fetched(ask, limits, **environ)
    assert time.monotonic() - begun < SOON
    message = str(caught.value)
    assert "\n" not in message
    assert "secret" not in message
    return caught.value


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
    """An endless one does no harm, and the size is as announced."""
    ask = Ask(server.at("/app", endless(Content_Length="1000000")))
    with web(SHORT).look(ask) as answer:
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
    error = fails(server.at("/app", late), SHORT)
    assert error.retry_after == 7


# -- redirects ------------------------------------------------------------------------------------


def test_redirects_are_followed(server: Server, foreign: Server) -> None:
    """To other hosts as well, and relative ones."""
    foreign.at("/there", redirect("then?signed=1"))
    foreign.at("/then", body(CONTENT))
    assert fetched(server.at("/app", redirect(f"{foreign.url}/there"))) == CONTENT
    assert [seen.path for seen in foreign.seen] == ["/there", "/then?signed=1"]


def test_five_redirects_are_followed_and_no_sixth(server: Server) -> None:
    """A loop ends."""
    steps = [redirect("/app")] * MOST_REDIRECTS
    assert fetched(server.at("/app", *steps, body(CONTENT))) == CONTENT
    error = fails(server.at("/app", redirect("/app")))
    assert "more than 5 redirects" in str(error)
    assert len(server.seen) == 2 * (MOST_REDIRECTS + 1)


def test_a_redirect_from_https_to_http_is_not_followed(
    secure: Server, server: Server, certificate: Path
) -> None:
    """It is not even asked there."""
    url = secure.at("/app", redirect(server.at("/app", body(CONTENT)) + "?secret"))
    error = fails(url, SSL_CERT_FILE=str(certificate))
    assert "redirected from https to http" in str(error)
    assert server.seen == []


@pytest.mark.parametrize(
    "there", ["file:///etc/passwd", "ftp://host/x", "https://", "http://[x", "a:b"]
)
def test_a_redirect_to_what_is_no_web_is_not_followed(server: Server, there: str) -> None:
    """Only http and https, and only with a host."""
    fails(server.at("/app", redirect(there)))
    assert len(server.seen) == 1


def test_a_token_goes_to_its_own_host_only(server: Server, foreign: Server) -> None:
    """Another port is another host, and the way back does not give it back."""
    foreign.at("/there", redirect(f"{server.url}/back"))
    server.at("/back", body(CONTENT))
    server.at("/moved", redirect(f"{foreign.url}/there"))
    fetched(Ask(server.at("/app", redirect("/moved")), secrets=TOKEN))
    given = [(seen.path, seen.headers["Authorization"]) for seen in server.seen]
    token = TOKEN["Authorization"]
    assert given == [("/app", token), ("/moved", token), ("/back", None)]
    assert [seen.headers["Authorization"] for seen in foreign.seen] == [None]


def test_a_password_in_the_url_goes_to_its_own_host_only(server: Server, foreign: Server) -> None:
    """And one that a redirect brings is not used."""
    there = foreign.at("/there", body(CONTENT)).replace("://", "://other:secret@")
    fetched(server.at("/app", redirect(there)).replace("://", "://user:secret@"))
    assert server.seen[0].headers["Authorization"]
    assert foreign.seen[0].headers["Authorization"] is None


@pytest.mark.parametrize(
    ("location", "there"),
    [
        ("/b", "https://a.example/b"),
        ("//b.example/c", "https://b.example/c"),
        ("HTTPS://B.example/c#d", "https://b.example/c"),
        ("https://user:pw@b.example", "https://b.example"),
        ("https://b.example\\@c.example/", "https://b.example/%5C@c.example/"),
    ],
)
def test_where_redirects_go(location: str, there: str) -> None:
    """As one parser says, which is the one that connects."""
    assert redirected(parse_url("https://a.example/x"), location).url == there


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


# -- the connection -------------------------------------------------------------------------------


def test_a_certificate_is_checked(secure: Server, certificate: Path) -> None:
    """One that nobody vouches for is refused, before anything is asked."""
    url = secure.at("/app", body(CONTENT))
    assert "certificate" in str(fails(url))
    assert secure.seen == []
    assert fetched(url, SSL_CERT_FILE=str(certificate)) == CONTENT


def test_a_certificate_of_another_host_is_refused(secure: Server, certificate: Path) -> None:
    """It is for an address, and not for a name that leads there."""
    url = secure.at("/app", body(CONTENT)).replace("127.0.0.1", "localhost")
    assert "certificate" in str(fails(url, SSL_CERT_FILE=str(certificate)))


def test_authorities_that_cannot_be_read_are_named(secure: Server) -> None:
    """The variable is where the user has to look."""
    assert "SSL_CERT_FILE /nowhere" in str(fails(secure.url, SSL_CERT_FILE="/nowhere"))


def test_nobody_listens() -> None:
    """The error has the system's reason."""
    with Server() as server:
        pass
    assert "Connection refused" in str(fails(f"{server.url}/app?key=secret"))


@pytest.mark.parametrize(
    "answer",
    [
        raw(b""),
        raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
        raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345"),
    ],
)
def test_what_is_not_http_is_an_error(server: Server, answer: Answer) -> None:
    """Nothing at all, another protocol, too many headers, two lengths."""
    fails(server.at("/app", answer))


def test_a_header_that_cannot_be_sent_is_not_quoted(server: Server) -> None:
    """It may be a token with a line break."""
    fails(Ask(server.at("/app", body(b"")), secrets={"Authorization": "secret\n"}))


def test_a_proxy_is_used_and_spared(foreign: Server) -> None:
    """It gets its own password; hosts of NO_PROXY are asked without it."""
    proxy = foreign.url.replace("://", "://user:secret@")
    with Server() as unproxied:
        url = unproxied.at("/app", body(CONTENT))
        foreign._listener.answers[url] = [body(b"by proxy")]  # noqa: SLF001 - asks with whole URLs
        assert fetched(url, HTTP_PROXY=proxy) == b"by proxy"
        assert foreign.seen[0].headers["Proxy-Authorization"] == "Basic dXNlcjpzZWNyZXQ="
        assert unproxied.seen == []
        assert fetched(url, http_proxy=proxy, NO_PROXY="x, 127.0.0.1") == CONTENT
        assert "HTTPS_PROXY" in str(fails(url, http_proxy="socks5://secret@127.0.0.1:1"))


def test_a_proxy_that_refuses_a_tunnel_is_named(secure: Server, foreign: Server) -> None:
    """What is behind it is then not asked, and its password not shown."""
    proxy = foreign.url.replace("://", "://user:secret@")
    assert "proxy" in str(fails(secure.at("/app", body(CONTENT)), https_proxy=proxy))
    assert secure.seen == []
