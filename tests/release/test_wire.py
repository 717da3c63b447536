"""The HTTP client: with whom it speaks; redirects, secrets, certificates, proxies."""

from __future__ import annotations

from pathlib import Path

import pytest
from urllib3.util import parse_url

from overseer_py.release.web import MOST_REDIRECTS, Ask, redirected
from tests.release.fetching import CONTENT, fails, fetched
from tests.release.servers import (
    Answer,
    Server,
    body,
    nobody,
    raw,
    redirect,
)

TOKEN = {"Authorization": "Bearer secret-token"}


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
    with nobody() as url:
        assert "Connection refused" in str(fails(f"{url}/app?key=secret"))


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
