"""One HTTP request, on urllib3: bounded in time as a whole, certificates checked, through proxies.

The time-out of a socket is for each wait, so a server that sends a byte a second never meets it.
Here the time-out of each wait is what is left of the whole, in the headers as in the body, with TLS
or without.  Names are resolved, and each address of a host is tried, with time-outs of their own
(resolv.conf(5); CONNECT): the total may be late by these, and is noticed right after.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import BufferedReader, RawIOBase, UnsupportedOperation
from typing import Any
from urllib.parse import unquote
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager, Timeout, exceptions
from urllib3.util import Url, parse_url

from overseer_py.errors import FetchError
from overseer_py.release.allowance import Allowance
from overseer_py.release.places import shown

CONNECT = 10.0  # seconds for one address of a host
IDLE = 30.0  # seconds without a byte


class Wire:
    """Sends requests; what it is to trust and which proxies to use is in the environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._trust: ssl.SSLContext | None = None

    def send(
        self, method: str, url: Url, headers: Mapping[str, str], allowance: Allowance
    ) -> BaseHTTPResponse:
        """Return the answer, its body yet unread; the caller closes it.  Raises FetchError."""
        with spoken(url.url, allowance):
            manager = self._manager(url)
            pool = manager.connection_from_url(url.url)
            pool.ConnectionCls = partial(_connection, pool.ConnectionCls, allowance)  # type: ignore[assignment]
            return manager.request(
                method,
                url.url,
                headers=dict(headers),
                timeout=Timeout(connect=min(CONNECT, allowance.left()), read=IDLE),
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
            )

    def _manager(self, url: Url) -> PoolManager:
        """Return a new manager: requests are minutes apart, and no connection is worth keeping."""
        trust = self._certificates() if url.scheme == "https" else None
        proxy = self._proxy(url)
        if not proxy:
            return PoolManager(ssl_context=trust)
        auth = parse_url(proxy).auth
        secret = {"proxy-authorization": basic(auth)} if auth else None
        return ProxyManager(proxy, proxy_headers=secret, ssl_context=trust)

    def _proxy(self, url: Url) -> str:
        """Return the proxy's URL; empty if there is none for this host."""
        names = (f"{url.scheme}_proxy", f"{url.scheme}_proxy".upper())
        proxy = next((self._environ[name] for name in names if self._environ.get(name)), "")
        spared = self._environ.get("no_proxy") or self._environ.get("NO_PROXY", "")
        if proxy and proxy_bypass_environment(url.netloc or "", {"no": spared}):
            return ""
        return proxy if not proxy or "://" in proxy else f"http://{proxy}"

    def _certificates(self) -> ssl.SSLContext:
        """Return whom to trust, made once: it is megabytes."""
        if self._trust is None:
            file, folder = (self._environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
            try:
                self._trust = ssl.create_default_context(cafile=file or None, capath=folder or None)
            except (OSError, ssl.SSLError) as error:
                raise FetchError(f"SSL_CERT_FILE {file}, SSL_CERT_DIR {folder}: {error}") from error
        return self._trust


@contextmanager
def spoken(url: str, allowance: Allowance) -> Iterator[None]:
    """Turn what goes wrong between here and the server of the URL into FetchError."""
    try:
        yield
    except (exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
        allowance.left()  # it is late: that is the reason, and says it better
        raise FetchError(f"{shown(url)}: {_reason(error)}") from error


def basic(auth: str) -> str:
    """Return the Authorization of ``user:password`` as a URL writes it."""
    return "Basic " + b64encode(unquote(auth).encode()).decode()


# The first that fits; {} is what the system or TLS said.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.NameResolutionError, "the name of the host cannot be resolved"),
    (exceptions.NewConnectionError, "no connection: {}"),
    (exceptions.ConnectTimeoutError, f"no connection after {CONNECT:g}s"),
    (exceptions.ReadTimeoutError, f"nothing came for {IDLE:g}s"),
    (exceptions.SSLError, "the certificate or TLS is not right: {}; see SSL_CERT_FILE"),
    (exceptions.ProxySchemeUnknown, "no such proxies; write HTTPS_PROXY=http://HOST:PORT"),
    (exceptions.LocationParseError, "not a URL"),
    (exceptions.ProtocolError, "the body was cut short"),  # among them IncompleteRead
    (http.client.IncompleteRead, "the body was cut short"),
    (http.client.HTTPException, "the answer is not HTTP"),
    (OSError, "the connection broke: {}"),
)


def _reason(error: BaseException) -> str:
    """Return why, without urllib3's words around it: they hold objects, and URLs with secrets."""
    if isinstance(error, exceptions.ProxyError):
        return f"the proxy does not work: {_reason(error.original_error)}; see HTTPS_PROXY"
    if isinstance(error, exceptions.ProtocolError) and isinstance(error.args[-1], Exception):
        return _reason(error.args[-1])
    told = error.__cause__ if isinstance(error, exceptions.NewConnectionError) else error
    detail = getattr(told, "strerror", None) or getattr(told, "args", ("",))[0]
    for kind, text in _REASONS:
        if isinstance(error, kind):
            return text.format(detail)
    return f"no proper HTTP: {type(error).__name__}"  # its text may quote a header that is secret


def _connection(make: Callable[..., Any], allowance: Allowance, **how: Any) -> Any:  # noqa: ANN401 - urllib3's
    connection = make(**how)
    connection.response_class = partial(_Response, allowance)
    return connection


class _Response(http.client.HTTPResponse):
    """An answer, also of a proxy, that is read within an allowance."""

    def __init__(
        self,
        allowance: Allowance,
        sock: socket.socket,
        *args: Any,  # noqa: ANN401 - http.client's
        **how: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(sock, *args, **how)
        self.fp.close()  # a file over the socket without our clock; the socket stays
        self.fp = BufferedReader(_Clocked(sock, allowance))


class _Clocked(RawIOBase):
    """What comes from a socket, for as long as an allowance lasts."""

    def __init__(self, sock: socket.socket, allowance: Allowance) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._allowance = allowance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:  # noqa: ANN401 - any buffer
        self._sock.settimeout(min(IDLE, self._allowance.left()))
        return self._raw.readinto(buffer)

    def fileno(self) -> int:
        raise UnsupportedOperation("read through the clock")

    def close(self) -> None:
        self._raw.close()
        super().close()
