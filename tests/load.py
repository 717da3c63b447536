"""Clients that open a new connection for every request, and remember how each ended."""

from __future__ import annotations

import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE = 60.0  # seconds a request may take before it counts as failed
HELD_UP = 0.9  # seconds: a fresh connection that is silent for a second is taken for an idle one

_CHOSEN = Path("/proc/sys/net/ipv4/ip_local_port_range")
_BEGIN, _ENOUGH = 10_000, 1000
_lot = random.SystemRandom()  # two runs at once do not draw alike
_given: set[int] = set()

Place = int | str | tuple[str, int]
OnConnected = Callable[[socket.socket], None]

_TOTAL_RETRANS = 100  # where it is in struct tcp_info, linux/tcp.h


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


class HeldUpError(ConnectionError):
    """The client itself was held up between connect and request, and was not waited for."""


def fetch(place: Place, path: str = "/", connected: OnConnected | None = None) -> str:
    """Return the body of one GET on a new connection; raise OSError if anything is amiss.

    ``place`` is a port of 127.0.0.1, a host and its port, or the path of a unix socket.
    """
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    return _exchange(place, head, connected=connected)


def upload(place: Place, path: str, size: int) -> str:
    """Return what a POST of so many bytes is answered with; otherwise as ``fetch``."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    return _exchange(place, f"{head}Content-Length: {size}\r\n\r\n", bytes(size))


def _exchange(
    place: Place, head: str, body: bytes = b"", connected: OnConnected | None = None
) -> str:
    place = ("127.0.0.1", place) if isinstance(place, int) else place
    family = socket.AF_UNIX if isinstance(place, str) else socket.AF_INET
    with socket.socket(socket.AF_INET6 if ":" in place[0] else family) as connection:
        connection.settimeout(PATIENCE)
        begun = time.monotonic()
        connection.connect(place)
        if connected:
            connected(connection)
        held_up = time.monotonic() - begun > HELD_UP
        try:
            connection.sendall(head.encode() + body)
            answer = b"".join(iter(partial(connection.recv, 65536), b""))
        except ConnectionError:
            if not held_up:
                raise
            answer = b""
    if held_up and not answer:
        raise HeldUpError("asked too late, and closed unanswered")
    return _body(answer)


def _body(answer: bytes) -> str:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end or b" 200 " not in head.split(b"\r\n")[0]:
        raise ConnectionError(f"answered with {answer[:100]!r}")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if length and len(body) != int(length[1]):
        raise ConnectionError(f"answered in part: {answer[:100]!r}")
    return body.decode()


def free_port() -> int:
    """Return a port that nobody has right now, and that nobody is given by chance before its use.

    What the kernel chooses, for port 0 and for each client, is from a range of its own (ip(7)).
    Nor is it the same port twice: several may be asked for before the first one is used.
    """
    end = int(_CHOSEN.read_text().split()[0])
    ports = range(_BEGIN, end) if end - _BEGIN > _ENOUGH else [0]
    while True:
        with suppress(OSError), closing(socket.create_server(("", _lot.choice(ports)))) as server:
            port = int(server.getsockname()[1])
            if port not in _given:
                _given.add(port)
                return port


def other_worker(port: int, than: str) -> str:
    """Return the answer of the first worker that is another one."""
    give_up_at = time.monotonic() + PATIENCE
    while time.monotonic() < give_up_at:
        if (body := fetch(port).strip()) != than:
            return body
    raise AssertionError(f"nobody else than {than!r} answers")


@contextmanager
def half_a_request(port: int, path: str = "/") -> Iterator[socket.socket]:
    """Give a connection that a worker waits for: accepted, but the request has no end yet."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n".encode())
        fetch(port)  # connections are accepted in order: if this one was, so was the other
        yield connection


class Load:
    """Several clients at once, from ``with`` to its end; ``size`` bytes, if any, are uploaded."""

    def __init__(self, place: Place, clients: int = 4, path: str = "/", size: int = 0) -> None:
        self.answers: list[Answer] = []
        self.clients = clients
        self.retries = 0  # connections for which one SYN was not enough; uploads are not counted
        get = partial(fetch, place, path, self._on_connected)
        self._ask = partial(upload, place, path, size) if size else get
        self._stop = threading.Event()
        self._news = threading.Condition()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def _run(self) -> None:
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                body, failure = self._ask(), ""
            except HeldUpError:  # as a browser does: no server can tell it from one that is idle
                continue
            except OSError as error:
                body, failure = "", f"{type(error).__name__}: {error}"
            answer = Answer(begun, time.monotonic(), body.strip(), failure)
            with self._news:
                self.answers.append(answer)
                self._news.notify_all()

    def _on_connected(self, connection: socket.socket) -> None:
        if connection.family != socket.AF_UNIX:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TOTAL_RETRANS + 4)
            self.retries += bool(struct.unpack_from("=I", info, _TOTAL_RETRANS)[0])

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

    def slow(self, seconds: float = 0.9) -> list[Answer]:
        """Return the requests that took longer: a few, if the machine is busy with other things."""
        return [answer for answer in list(self.answers) if answer.took > seconds]

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
