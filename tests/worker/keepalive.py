"""Clients that keep their connection, think between two requests, and never repeat one.

A request is lost if its connection ends without an answer, whoever is to blame: a client that has
not been told that the connection ends (``Connection: close``) relies on it.  But for one that was
itself held up for longer than any server lingers: it comes too late, as it must expect (RFC 9112,
9.5).
"""

from __future__ import annotations

import re
import socket
import threading
import time
from types import TracebackType
from typing import Self

from overseer_py.worker.departure import LINGER

PATIENCE = 60.0  # seconds a request may take before it counts as lost
_HELD_UP = 0.9 * LINGER  # seconds from one request to the next

_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class KeepAlive:
    """Several clients at once, from ``with`` to its end."""

    def __init__(self, place: int | str, think: float, clients: int = 4) -> None:
        self.answers: list[str] = []
        self.lost: list[str] = []
        self.kept = 0  # answers on a connection that had been used before
        self.told = 0  # answers with Connection: close
        self.late = 0  # requests that came later than anybody has to wait for them
        self.clients = clients
        self._place = place
        self._think = think
        self._stop = threading.Event()
        self._news = threading.Condition()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def _run(self) -> None:
        asked = time.monotonic()
        while not self._stop.is_set():
            try:
                with self._connect() as connection:
                    asked = self._converse(connection, asked)
            except OSError as error:
                self._note(lost=f"{type(error).__name__}: {error}")

    def _connect(self) -> socket.socket:
        if isinstance(self._place, int):
            return socket.create_connection(("127.0.0.1", self._place), PATIENCE)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE)
        connection.connect(self._place)
        return connection

    def _converse(self, connection: socket.socket, asked: float) -> float:
        """Ask over and over; return when that was for the last time."""
        kept = False
        while not self._stop.is_set():
            before, asked = asked, time.monotonic()
            held_up = asked - before > _HELD_UP
            self.late += held_up
            try:
                connection.sendall(_REQUEST)
                head, body = _answer(connection)
            except ConnectionError:
                if not held_up:
                    raise
                break
            told = bool(_CLOSE.search(head))
            self._note(body.decode().strip(), kept=kept, told=told)
            if told:
                break
            kept = True
            self._stop.wait(self._think)  # what a client does between two requests
        return asked

    def _note(
        self, answer: str = "", *, lost: str = "", kept: bool = False, told: bool = False
    ) -> None:
        with self._news:
            if lost:
                self.lost.append(lost)
            else:
                self.answers.append(answer)
                self.kept += kept
                self.told += told
            self._news.notify_all()

    def more(self, count: int) -> None:
        """Wait until so many more requests have ended."""
        with self._news:
            goal = len(self.answers) + len(self.lost) + count
            assert self._news.wait_for(lambda: len(self.answers) + len(self.lost) >= goal, PATIENCE)

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


def _answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return head and body; raise OSError if they are not whole."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(connection, data)
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError(f"answered with {head[:100]!r}")
    length = _LENGTH.search(head)
    assert length, head
    while len(body) < int(length[1]):
        body += _more(connection, data)
    return head, body


def _more(connection: socket.socket, so_far: bytes) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError(f"closed after {so_far[:100]!r}")
    return data
