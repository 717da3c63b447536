"""Requests and visits of the master's own, to see whether this very worker answers.

A request runs in a child of the master: it may block.  A visit is a connection and nothing more.

The real address is asked, by a way that leads to this worker's generation if it has a socket of its
own; else old workers may accept, too.  Who has accepted a connection is what
the kernel says (sockdiag.py); only on one of this worker's a request is sent, the others are closed
unused at once, so that a server which takes one connection at a time is not held up.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import NoReturn

from overseer_py.system import procfs, sockdiag
from overseer_py.system.group import Entrance
from overseer_py.system.launch import Identity, change_identity, die_with, reset_signals
from overseer_py.system.listeners import Seat

ROUND = 2.0  # seconds that one child tries
_ANSWER = 3.0  # seconds that an accepted request may take
_REST = 0.25  # seconds that a piece of the rest of an answer may take
_MOST_PIECES = 16
_PAUSE = 0.002  # between two looks at who has accepted
_LOOK = 0.25  # seconds for somebody to accept
_MOST_AT_ONCE = 4
CONNECTIONS = 1 + 2 + 3 + 4  # that one child can make where each needs a way of its own


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked, and who must answer."""

    entrance: Entrance
    path: str
    worker: int  # pid; its descendants count
    identity: Identity | None = None  # whom one must be to see what the worker holds


class Visit:
    """A connection to a seat that asks for nothing: only who accepts it is of interest."""

    def __init__(self, seat: Seat) -> None:
        """Connect, and do not wait; raise OSError if that cannot be."""
        self._seat = seat
        self._entrance = seat.open_entrance(1)
        self._socket = next(connections_from(self._entrance))
        self._socket.setblocking(False)
        try:
            with suppress(BlockingIOError):
                self._socket.connect(self._entrance.place)
        except OSError:
            self.close()
            raise

    @property
    def accepted(self) -> int:
        """The inode of the server's end; 0 while nobody has accepted it."""
        try:
            return sockdiag.server_inode(self._socket)
        except OSError:  # the handshake is not done
            return 0

    @property
    def ended(self) -> bool:
        """Whether the other side has sent something, or has ended it: somebody had accepted it."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError as error:
            return error.errno == errno.ECONNRESET
        return True

    def close(self) -> None:
        """End it."""
        with suppress(OSError):  # no descriptor left: the port is nobody's, and forgotten
            self._seat.close_entrance(self._entrance)
        self._socket.close()


def connections_from(entrance: Entrance) -> Iterator[socket.socket]:
    """Yield sockets to connect from."""
    yield from entrance.sockets
    while not entrance.sockets:
        yield socket.socket(entrance.family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)


def run(target: Target, master: int, report_fd: int) -> NoReturn:
    """Exit with 0 if the worker answered 2xx, else with 1 and the reason on ``report_fd``."""
    status = 1
    try:
        if target.identity:
            change_identity(target.identity)
        die_with(master, signal.SIGKILL)
        reset_signals()
        reason = ask(target, time.monotonic() + ROUND)
        os.write(report_fd, reason.encode())
        status = 1 if reason else 0
    except OSError as error:
        os.write(report_fd, f"no answer: {error.strerror or error}".encode())
    finally:
        os._exit(status)


def ask(target: Target, give_up_at: float) -> str:
    """Return why the worker is not ready; empty if it answered 2xx."""
    supply, attempt = connections_from(target.entrance), 0
    while time.monotonic() < give_up_at:
        wanted = 1 + attempt % _MOST_AT_ONCE
        connections = [_connected(each, target) for each in islice(supply, wanted)]
        if len(connections) < wanted:
            break
        try:
            if mine := _accepted_by(target.worker, connections):
                return _request(mine, target)
        finally:
            for connection in connections:
                connection.close()
        attempt += 1
        time.sleep(_PAUSE)
    return "another worker accepted every connection, or none did"


def _connected(connection: socket.socket, target: Target) -> socket.socket:
    connection.settimeout(ROUND)
    connection.connect(target.entrance.place)
    return connection


def _accepted_by(worker: int, connections: Sequence[socket.socket]) -> socket.socket | None:
    """Wait until somebody has accepted each; return one that this worker has, if any."""
    waiting = list(connections)
    give_up_at = time.monotonic() + _LOOK
    while waiting and time.monotonic() < give_up_at:
        held = {inode for pid in procfs.tree([worker]) for inode in procfs.sockets(pid)}
        for connection in list(waiting):
            inode = sockdiag.server_inode(connection)
            if inode in held:
                return connection
            if inode and inode not in held:
                waiting.remove(connection)
                connection.close()
        time.sleep(_PAUSE)
    return None


def _request(connection: socket.socket, target: Target) -> str:
    place = target.entrance.place
    host = "localhost" if isinstance(place, str) else place[0]
    connection.settimeout(_ANSWER)
    lines = f"GET {target.path} HTTP/1.1", f"Host: {host}", "User-Agent: overseer"
    connection.sendall("\r\n".join((*lines, "Connection: close", "", "")).encode())
    answer = b""
    while len(answer) < len(b"HTTP/1.1 200") and (data := connection.recv(64)):
        answer += data
    _read_the_rest(connection)
    version, _, rest = answer.partition(b" ")
    if version.startswith(b"HTTP/") and rest[:1] == b"2":
        return ""
    said = answer[:12].decode(errors="replace") or "nothing"
    return f"GET {target.path} was answered with {said!r}"


def _read_the_rest(connection: socket.socket) -> None:
    """Let the server finish: many log a traceback when an answer is cut off."""
    with suppress(OSError):
        connection.settimeout(_REST)
        for _ in range(_MOST_PIECES):
            if not connection.recv(65536):
                return
