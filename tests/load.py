"""Clients that open a new connection for every request, and remember how each ended."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Self

PATIENCE = 60.0  # seconds a request may take before it counts as failed


@dataclass(frozen=True)
class Answer:
    """One request and what came of it."""

    begun: float
    ended: float
    body: str  # empty if it failed
    failure: str = ""

    @property
    def took(self) -> float:
        """Seconds from connect to the last byte."""
        return self.ended - self.begun


def fetch(place: int | str, path: str = "/") -> str:
    """Return the body of one GET on a new connection; raise OSError if anything is amiss.

    ``place`` is a port of 127.0.0.1, or the path of a unix socket.
    """
    family = socket.AF_UNIX if isinstance(place, str) else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(place if isinstance(place, str) else ("127.0.0.1", place))
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        answer = b""
        while data := connection.recv(65536):
            answer += data
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end or b" 200 " not in head.split(b"\r\n")[0]:
        raise ConnectionError(f"answered with {answer[:100]!r}")
    return body.decode()


class Load:
    """Several clients at once, from ``with`` to its end."""

    def __init__(self, place: int | str, clients: int = 4, path: str = "/") -> None:
        self.answers: list[Answer] = []
        self.clients = clients
        self._place, self._path = place, path
        self._stop = threading.Event()
        self._news = threading.Condition()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def _run(self) -> None:
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                body, failure = fetch(self._place, self._path), ""
            except OSError as error:
                body, failure = "", f"{type(error).__name__}: {error}"
            answer = Answer(begun, time.monotonic(), body.strip(), failure)
            with self._news:
                self.answers.append(answer)
                self._news.notify_all()

    def reached(self, count: int, patience: float = 300.0) -> None:
        """Wait until so many requests have ended."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.answers) >= count, patience)

    def more(self, count: int = 20) -> None:
        """Wait until so many more requests have ended."""
        self.reached(len(self.answers) + count)

    @property
    def failures(self) -> list[Answer]:
        """The requests that were not answered."""
        return [answer for answer in list(self.answers) if answer.failure]

    @property
    def bodies(self) -> list[str]:
        """What was answered, in the order in which the requests began."""
        answers = sorted(self.answers, key=lambda answer: answer.begun)
        return [answer.body for answer in answers if not answer.failure]

    def longest_gap(self) -> float:
        """Return the longest time between two answers, in seconds."""
        ends = sorted(answer.ended for answer in self.answers)
        return max(b - a for a, b in pairwise(ends))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
