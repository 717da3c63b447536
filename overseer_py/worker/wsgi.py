"""WSGI: clients are told to go, one by one, before the server closes their connections.

A WSGI application must not say ``Connection: close`` (PEP 3333: it is the server's to say), so
the server is asked to: gunicorn and waitress, each as it can be asked.  Others that are told
nothing close idle connections as ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from overseer_py.worker import traffic
from overseer_py.worker.departure import LINGER, draining

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class DrainingMiddleware:
    """Let kept-alive connections end politely when the worker is to finish.

    From the drain signal on, each answer ends its connection; the server itself gets the signal
    when no client is expected any more that has come within ``linger`` seconds, and after so many
    at the latest.  With waitress, which has no handler for the signal, the process ends when all is
    answered.

    To be the outermost application.

    >>> from overseer_py.worker.wsgi import DrainingMiddleware
    >>> def hello(environ, start_response):
    ...     start_response("200 OK", [("Content-Length", "5")])
    ...     return [b"hello"]
    >>> app = DrainingMiddleware(hello)
    >>> app({}, print)
    200 OK [('Content-Length', '5')] None
    [b'hello']
    """

    def __init__(self, app: App, *, linger: float = LINGER) -> None:
        self.app = app
        self._linger = linger
        self._under_way = 0
        self._lock = threading.Lock()
        draining.linger(linger)
        draining.hold(self._all_answered, last=True)

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer one request."""
        draining.watch()  # the server may have installed its handler since

        def start(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> object:
            if draining.begun:
                _ask_to_close(environ, start_response)
            return start_response(status, headers, exc_info)

        self._count(1)
        try:
            body = self.app(environ, start)
        except BaseException:  # whatever it was, nobody waits for its end
            self._count(-1)
            raise
        if _is_whole(body, environ):
            self._count(-1)
            return body
        return _Body(body, lambda: self._count(-1))

    def _count(self, more: int) -> None:
        with self._lock:
            self._under_way += more

    def _all_answered(self) -> bool:
        # What the application has given, the server may still be sending.
        return not self._under_way and not traffic.moving(min(self._linger, LINGER))


class _Body:
    """A body that is made while it is sent, and says when that is over."""

    def __init__(self, body: Iterable[bytes], over: Callable[[], None]) -> None:
        self._body = body
        self._over: Callable[[], None] | None = over

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        """Close the application's own, as the server does once all is sent or the client gone."""
        try:
            if close := getattr(self._body, "close", None):
                close()
        finally:
            if self._over:
                self._over()
            self._over = None


def _is_whole(body: Iterable[bytes], environ: dict[str, Any]) -> bool:
    """Whether a server looks at the body's type, so that it must not be wrapped."""
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(body, Sized) or (isinstance(wrapper, type) and isinstance(body, wrapper))


def _ask_to_close(environ: dict[str, Any], start_response: Callable[..., Any]) -> None:
    response = getattr(start_response, "__self__", None)
    if force_close := getattr(response, "force_close", None):  # gunicorn's Response
        force_close()
    # waitress heeds what the client wants, and looks when it makes the head of the answer
    channel = getattr(environ.get("waitress.client_disconnected"), "__self__", None)
    for request in getattr(channel, "requests", [])[:1]:
        request.headers["CONNECTION"] = "close"
