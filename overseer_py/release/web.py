"""The one HTTP client: what may come from the net, and what may go out to it.

- Redirects are followed here, at most five, never from https to http, and never with a secret to
  another host, port or scheme; a secret that was left behind is not taken up again.
- A look and a download end at their deadline, whatever trickles in (wire.py).
- Bytes are as they were sent: nothing is decompressed, and what comes compressed is refused.
- A body that is longer than the limit or shorter than announced is an error.
- No message holds a user, a password, a query or a token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO
from urllib.parse import urljoin

from urllib3 import BaseHTTPResponse, HTTPHeaderDict
from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from overseer_py import __version__
from overseer_py.errors import FetchError
from overseer_py.release import refusals
from overseer_py.release.allowance import CHUNK, Allowance
from overseer_py.release.candidate import Limits
from overseer_py.release.places import shown
from overseer_py.release.wire import Wire, basic, spoken

MOST_REDIRECTS = 5
_DOCUMENT = 1 << 20  # bytes of a small document, such as a list of checksums
_BEGINNING = 4096  # bytes of the body of a refusal
_REDIRECTS = (301, 302, 303, 307, 308)
_CONDITIONS = ("If-None-Match", "If-Modified-Since")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Ask:
    """One question; a user and password in the URL become a secret."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)  # for the URL's own host alone
    remedy: Callable[[int, str], str] = refusals.remedy


@dataclass(frozen=True, slots=True)
class Answer:
    """What came: 200 and a body, or 304 and none."""

    url: str  # after all redirects
    headers: HTTPHeaderDict
    _response: BaseHTTPResponse
    _allowance: Allowance

    @property
    def unchanged(self) -> bool:
        """Whether it is still what the conditions named."""
        return self._response.status == 304  # noqa: PLR2004 - RFC 9110, 15.4.5

    @property
    def size(self) -> int | None:
        """Bytes of the body, as the server says; None: it does not."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() else None

    def copy(self, into: BinaryIO) -> int:
        """Write the body and return its bytes; raise FetchError if it does not come whole."""
        return self._allowance.copy(self._chunks(), into)

    def read(self) -> bytes:
        """Return the body, of which ``look`` was told the most that it may be."""
        document = BytesIO()
        self.copy(document)
        return document.getvalue()

    def _chunks(self) -> Iterator[bytes]:
        chunks = self._response.stream(CHUNK, decode_content=False)
        while True:
            with spoken(self.url, self._allowance):  # around the reading alone, not the writing
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk


class Web:
    """Asks servers.  Everything raises FetchError."""

    def __init__(self, limits: Limits, environ: Mapping[str, str]) -> None:
        self._limits = limits
        self._wire = Wire(environ)

    @contextmanager
    def look(self, ask: Ask, most: int | None = None) -> Iterator[Answer]:
        """Give the answer, its body unread, for as long as the context lasts.

        The body may have ``most`` bytes; None: as many as a release.  A GET: there are servers
        that refuse HEAD, or answer it otherwise.
        """
        allowance = Allowance(shown(ask.url), self._limits.look, most or self._limits.size)
        with self._get(ask, allowance) as answer:
            yield answer

    def download(self, ask: Ask, into: BinaryIO) -> int:
        """Write the body and return its bytes."""
        allowance = Allowance(shown(ask.url), self._limits.download, self._limits.size)
        with self._get(ask, allowance) as answer:
            return answer.copy(into)

    def read(self, ask: Ask, most: int = _DOCUMENT) -> bytes:
        """Return a document of at most so many bytes, within the time of a look."""
        with self.look(ask, most) as answer:
            return answer.read()

    @contextmanager
    def _get(self, ask: Ask, allowance: Allowance) -> Iterator[Answer]:
        url, response = self._follow(ask, allowance)
        try:
            _accept(ask, url, response, allowance)
            yield Answer(url.url, response.headers, response, allowance)
        finally:
            response.close()

    def _follow(self, ask: Ask, allowance: Allowance) -> tuple[Url, BaseHTTPResponse]:
        """Return the first answer that is no redirect, and where it came from."""
        url, secrets = _parsed(ask.url, ask.url), dict(ask.secrets)
        if url.auth:
            secrets["Authorization"] = basic(url.auth)
        headers = {"User-Agent": f"overseer/{__version__}", "Accept-Encoding": "identity"}
        headers |= {"Accept": "*/*", **ask.headers}
        url = _bare(url)
        for _ in range(MOST_REDIRECTS + 1):
            response = self._wire.send("GET", url, headers | secrets, allowance)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return url, response
            response.close()
            there = redirected(url, location)
            if origin(there) != origin(url):
                secrets = {}  # and not taken up again: the way back is another's choice, too
            url = there
        raise FetchError(f"{shown(ask.url)}: more than {MOST_REDIRECTS} redirects; check the URL")


def redirected(url: Url, location: str) -> Url:
    """Return where a redirect goes; raise FetchError if one must not go there."""
    try:
        there = _bare(_parsed(urljoin(url.url, location), url.url))
    except ValueError as error:
        raise FetchError(f"{shown(url.url)}: redirected to what is no URL") from error
    if url.scheme == "https" and there.scheme == "http":
        raise FetchError(
            f"{shown(url.url)}: redirected from https to http, to {shown(there.url)}; "
            "not followed: anyone between could send anything"
        )
    return there


def origin(url: Url) -> tuple[str | None, str | None, int | None]:
    """Return whom a URL asks: scheme, host and port."""
    return url.scheme, url.host, url.port or _PORTS.get(url.scheme or "")


def _parsed(text: str, asked: str) -> Url:
    # With the parser of the one that connects: if two disagree on what the host is, a secret that
    # one of them lets pass goes where the other wants.
    try:
        url = parse_url(text)
    except LocationParseError as error:
        raise FetchError(f"{shown(asked)}: leads to what is no URL") from error
    if url.scheme not in _PORTS or not url.host:
        raise FetchError(
            f"{shown(asked)}: leads to {url.scheme}:…, which is neither http nor https"
        )
    return url


def _bare(url: Url) -> Url:
    return url._replace(auth=None, fragment=None)


def _accept(ask: Ask, url: Url, response: BaseHTTPResponse, allowance: Allowance) -> None:
    """Raise FetchError unless this can be what was asked for."""
    asked = any(name in ask.headers for name in _CONDITIONS)
    if response.status == 304 and asked:  # noqa: PLR2004 - RFC 9110, 15.4.5
        return
    if response.status != 200:  # noqa: PLR2004 - RFC 9110, 15.3.1; no part, and nothing else
        raise _refused(ask, url, response, allowance)
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise FetchError(
            f"{shown(url.url)}: sent with Content-Encoding {encoding[:20]!r}, which was not asked "
            "for; switch compression off there: the bytes of a release are checked as they are"
        )
    allowance.admit(Answer(url.url, response.headers, response, allowance).size)


def _refused(ask: Ask, url: Url, response: BaseHTTPResponse, allowance: Allowance) -> FetchError:
    beginning = b""
    with suppress(FetchError), spoken(url.url, allowance):  # the status says enough
        beginning = response.read(_BEGINNING, decode_content=False)
    away = refusals.stay_away(response.status, response.headers, time.time())
    pause = "" if away is None else f" (not before {away:.0f}s)"
    remedy = ask.remedy(response.status, beginning.decode(errors="replace"))
    return FetchError(f"{shown(url.url)}: {response.status}: {remedy}{pause}", away)
