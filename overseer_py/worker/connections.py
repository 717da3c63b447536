"""Connections that are counted, each with its state, for programs that serve with threads.

A connection is *new* until something comes, *active* while it is answered, *idle* from the moment
that more is read after an answer, and *closed*.  That is so for every protocol in which a client
asks and a server answers, and needs no help of whoever serves it.
"""

# ruff: noqa: ANN401 - what a socket is asked is passed on as it came

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Any, Self
from weakref import WeakSet

_LOOK = 0.02  # seconds between two looks
_ON_ITS_WAY = 1.0  # seconds from a connection to its first request


class ConnectionState(StrEnum):
    """What a connection is doing."""

    NEW = "new"  # accepted, nothing has come
    ACTIVE = "active"  # a request has begun to come, and is not answered
    IDLE = "idle"  # answered; the next request has not begun
    CLOSED = "closed"


S = ConnectionState


class Connection(socket.socket):
    """An accepted socket that knows its state."""

    @classmethod
    def of(cls, accepted: socket.socket) -> Self:
        """Take over an accepted socket, which is not to be used any more."""
        timeout = accepted.gettimeout()
        facts = accepted.family, accepted.type, accepted.proto
        connection = cls(*facts, fileno=accepted.detach())
        connection.settimeout(timeout)
        return connection

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.state = S.NEW
        self.moved = time.monotonic()  # when something came or went
        self._answered = False

    def _reading(self) -> None:
        if self._answered:
            self.state = S.IDLE

    def _came(self, something: object) -> None:
        if something:
            self.state, self.moved, self._answered = S.ACTIVE, time.monotonic(), False

    def _sent(self) -> None:
        self.moved, self._answered = time.monotonic(), True

    def close(self) -> None:
        """Close it."""
        self.state = S.CLOSED
        super().close()

    def recv(self, *arguments: Any) -> bytes:
        """Read, as socket.recv() does."""
        self._reading()
        data = super().recv(*arguments)
        self._came(data)
        return data

    def recv_into(self, *arguments: Any, **more: Any) -> int:
        """Read, as socket.recv_into() does."""
        self._reading()
        count = super().recv_into(*arguments, **more)
        self._came(count)
        return count

    def send(self, *arguments: Any) -> int:
        """Write, as socket.send() does."""
        self._sent()
        return super().send(*arguments)

    def sendall(self, *arguments: Any) -> None:
        """Write all, as socket.sendall() does."""
        self._sent()
        super().sendall(*arguments)
        self._sent()

    def sendmsg(self, *arguments: Any) -> int:
        """Write, as socket.sendmsg() does."""
        self._sent()
        return super().sendmsg(*arguments)

    def sendfile(self, *arguments: Any, **more: Any) -> int:
        """Write a file, as socket.sendfile() does."""
        count = super().sendfile(*arguments, **more)
        self._sent()
        return count


class Connections:
    """The open connections of a server.

    >>> import socket
    >>> from overseer_py import worker
    >>> connections = worker.Connections()
    >>> with socket.create_server(("127.0.0.1", 0)) as listener:
    ...     client = socket.create_connection(listener.getsockname())
    ...     connection, address = connections.accept(listener)
    >>> connections.count(), str(connection.state)
    (1, 'new')
    >>> client.close()
    >>> connections.drain(linger=0, timeout=0)  # what it had to cut off
    1
    >>> connection.close()
    """

    def __init__(self) -> None:
        self._all: WeakSet[Connection] = WeakSet()  # one that is dropped is closed, too
        self._lock = threading.Lock()

    def accept(self, listener: socket.socket) -> tuple[Connection, Any]:
        """Accept a connection; return it with its peer's address, as socket.accept() does."""
        accepted, address = listener.accept()
        return self.add(accepted), address

    def add(self, accepted: socket.socket) -> Connection:
        """Take over a socket that was accepted elsewhere."""
        connection = Connection.of(accepted)
        with self._lock:
            self._all.add(connection)
        return connection

    def open(self) -> list[Connection]:
        """Return those that are not closed."""
        with self._lock:
            self._all = WeakSet(c for c in self._all if c.state is not S.CLOSED)
            return list(self._all)

    def count(self, *states: ConnectionState) -> int:
        """Return how many are open, or in one of these states."""
        return len([c for c in self.open() if not states or c.state in states])

    def linger(self, seconds: float) -> None:
        """Wait until clients are told, by each answer, that the connection ends.

        That is when none is left of those that have moved within so many seconds; it takes
        so long at most.
        """
        end = time.monotonic() + seconds

        def told() -> bool:
            now = time.monotonic()
            return now >= end or all(c.moved < now - seconds for c in self.open())

        _wait(told, None)

    def hang_up(self) -> None:
        """End those that wait for a request: their reader sees the end of the file.

        What has come meanwhile is read, and can be answered (shutdown(2), SHUT_RD).  The first
        request of a new one is waited for a second.
        """
        late = time.monotonic() - _ON_ITS_WAY
        for connection in self.open():
            state = connection.state
            if state is S.IDLE or (state is S.NEW and connection.moved < late):
                _shut(connection, socket.SHUT_RD)

    def drain(self, linger: float = 1.0, timeout: float | None = None) -> int:
        """Let all end: idle ones after the linger, the others in ``timeout`` seconds (None: any).

        Return how many had to be cut off.
        """
        begun = time.monotonic()
        self.linger(linger)
        return self.finish(None if timeout is None else begun + timeout - time.monotonic())

    def finish(self, timeout: float | None = None) -> int:
        """Do the same without a linger."""

        def ended() -> bool:
            self.hang_up()  # again and again: what was active becomes idle
            return not self.open()

        _wait(ended, timeout)
        left = self.open()
        for connection in left:
            _shut(connection, socket.SHUT_RDWR)
        return len(left)


def _wait(over: Callable[[], bool], timeout: float | None) -> None:
    end = None if timeout is None else time.monotonic() + timeout
    while not over() and (end is None or time.monotonic() < end):
        time.sleep(_LOOK)


def _shut(connection: socket.socket, how: int) -> None:
    with suppress(OSError):  # closed, by either side
        connection.shutdown(how)
