"""The control socket: one JSON object a line each way, for root and the master's own user.

``{"method": "status"}`` is answered with ``{"result": {…}}`` or ``{"error": {"code": …, "message":
…}}``.  A client may send several lines; each is answered before the next is looked at.  Nobody can
take more of the master than a little: a line has 64 KiB at most and some seconds to arrive, a turn
of the loop serves one line of each client, and a client that does not read its answers loses its
connection.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overseer_py.errors import ConfigError
from overseer_py.logs import Log
from overseer_py.system.loop import IN, OUT, Loop

LONGEST_LINE = 1 << 16  # bytes
MOST_CLIENTS = 64
MOST_UNREAD = 1 << 18  # bytes of answers that a client may leave unread
HALF_LINE = 5.0  # seconds for the rest of a line
_REST = 1.0  # seconds without new clients when no descriptor is left for one
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid

Params = Mapping[str, Any]


class RefusedError(Exception):
    """A request that is not granted: the code is for scripts, the text for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True, eq=False)
class Client:
    """One connection, and what is half received and half sent of it."""

    socket: socket.socket
    pid: int
    received: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    late_at: float | None = None  # when a line that has begun must have ended
    waiting: bool = False  # for the answer to its last line
    closing: bool = False  # once what is unsent is sent


class Request:
    """One line of a client: answered once, now or later."""

    def __init__(self, control: Control, client: Client, params: Params) -> None:
        self.params = params
        self.pid = client.pid
        self._control = control
        self._client = client

    def answer(self, result: object) -> None:
        """Send the result; the client's next line is looked at then."""
        self._client.waiting = False
        self.tell({"result": result})

    def refuse(self, error: RefusedError) -> None:
        """Send an error instead."""
        self._client.waiting = False
        self.tell({"error": {"code": error.code, "message": str(error)}})

    def tell(self, line: Mapping[str, object]) -> None:
        """Send a line before the answer, such as an event."""
        self._control.send(self._client, line)

    @property
    def gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._client.socket.fileno() < 0


Method = Callable[[Request], None]  # answers the request, or keeps it for later


class Control:
    """Listens on a unix socket, and calls the methods that clients ask for."""

    def __init__(self, path: Path, loop: Loop, log: Log, methods: Mapping[str, Method]) -> None:
        """Bind, mode 0600; whoever calls this holds the lock on the name, so a socket that is
        there already is a dead master's.  Raises ConfigError.
        """  # noqa: D205 - one thought
        self.path = path
        self._loop, self._log, self._methods = loop, log, methods
        self._clients: list[Client] = []
        self._deaf_until: float | None = None
        self._socket = _listen(path)
        self._inode = os.lstat(path).st_ino
        loop.watch(self._socket.fileno(), IN, self._on_connection)

    def due(self, now: float) -> float | None:
        """Return when ``tick`` has something to do; ``now`` if a line waits already."""
        if any(_has_line(client) for client in self._clients):
            return now
        times = [client.late_at for client in self._clients] + [self._deaf_until]
        return min((at for at in times if at is not None), default=None)

    def tick(self, now: float) -> None:
        """Serve one line of each client, and let go of those that are late."""
        if self._deaf_until is not None and self._deaf_until <= now:
            self._deaf_until = None
            self._loop.change(self._socket.fileno(), IN)
        for client in list(self._clients):
            if _has_line(client):
                self._serve(client)
            if client.received and not client.waiting and not _has_line(client):
                client.late_at = client.late_at or now + HALF_LINE
                if client.late_at <= now:
                    self._dismiss(client, "late", f"a line took longer than {HALF_LINE:g} s")
            else:
                client.late_at = None

    def send(self, client: Client, line: Mapping[str, object]) -> None:
        """Send a line as far as the client reads; let go of one that does not."""
        if client.socket.fileno() < 0:
            return
        client.unsent += json.dumps(line, default=str).encode() + b"\n"
        self._flush(client)
        if len(client.unsent) > MOST_UNREAD:
            self._close(client)

    def close(self) -> None:
        """Let all go, and remove the socket."""
        for client in list(self._clients):
            self._close(client)
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        with suppress(OSError):
            if os.lstat(self.path).st_ino == self._inode:
                self.path.unlink()

    # -- what happens on the sockets ------------------------------------------------------------

    def _on_connection(self, _: int) -> None:
        try:
            connection, _address = self._socket.accept()
        except BlockingIOError:  # gone already
            return
        except OSError:  # no descriptor left: do not ask without end
            self._loop.change(self._socket.fileno(), 0)
            self._deaf_until = time.monotonic() + _REST
            return
        connection.setblocking(False)
        pid, uid, _gid = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        client = Client(connection, pid)
        self._clients.append(client)
        self._loop.watch(connection.fileno(), IN, lambda events: self._on_ready(client, events))
        if uid not in (0, os.geteuid()):
            self._log.warning("control-refused", pid=pid, uid=uid)
            self._dismiss(client, "forbidden", "only root and the master's own user are served")
        elif len(self._clients) > MOST_CLIENTS:
            self._dismiss(client, "busy", f"{MOST_CLIENTS} clients are connected already")

    def _on_ready(self, client: Client, events: int) -> None:
        if events & OUT:
            self._flush(client)
        if events & ~OUT and client.socket.fileno() >= 0:
            self._receive(client)
            self._watch(client)

    def _receive(self, client: Client) -> None:
        try:
            data = client.socket.recv(LONGEST_LINE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(client)
        elif not client.closing:
            client.received += data
            if (
                client.received.find(b"\n", 0, LONGEST_LINE)
                < 0
                <= len(client.received) - LONGEST_LINE
            ):
                self._dismiss(client, "too-long", f"a line has {LONGEST_LINE} bytes at most")

    def _serve(self, client: Client) -> None:
        line, _, client.received = client.received.partition(b"\n")
        client.waiting = True
        request = Request(self, client, {})
        try:
            method, request.params = _read(bytes(line))
            if method not in self._methods:
                known = ", ".join(self._methods)
                raise RefusedError("unknown-method", f"{method!r}; there are: {known}")  # noqa: TRY301
            self._methods[method](request)
        except RefusedError as error:
            request.refuse(error)
        except Exception as error:  # noqa: BLE001 - the client must hear, and the others be served
            self._log.exception("master-error")
            request.refuse(RefusedError("failed", repr(error)))
        self._watch(client)

    def _flush(self, client: Client) -> None:
        with suppress(BlockingIOError):
            try:
                while client.unsent:
                    del client.unsent[: client.socket.send(client.unsent)]
            except BlockingIOError:
                raise
            except OSError:
                self._close(client)
                return
        if client.closing and not client.unsent:
            self._close(client)
            return
        self._watch(client)

    def _watch(self, client: Client) -> None:
        """Read no more while a line waits to be served; a client's end is heard of anyway."""
        if client.socket.fileno() >= 0:
            wanted = (0 if b"\n" in client.received else IN) | (OUT if client.unsent else 0)
            self._loop.change(client.socket.fileno(), wanted)

    def _dismiss(self, client: Client, code: str, message: str) -> None:
        """Say why, if the client listens, and let go of it."""
        client.closing, client.received = True, bytearray()
        self.send(client, {"error": {"code": code, "message": message}})
        if client.socket.fileno() >= 0:
            self._close(client)

    def _close(self, client: Client) -> None:
        if client in self._clients:
            self._clients.remove(client)
            self._loop.forget(client.socket.fileno())
            client.socket.close()


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            path.unlink()
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(MOST_CLIENTS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        why = error.strerror or str(error)
        raise ConfigError(f"control: {path}: {why}; give --control PATH, or none") from error
    return listener


def _has_line(client: Client) -> bool:
    return not client.waiting and b"\n" in client.received


def _read(line: bytes) -> tuple[str, Params]:
    """Return the method and all that was said with it."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RefusedError("bad-request", f"not JSON: {error}") from None
    if not isinstance(said, dict) or not isinstance(said.get("method"), str):
        raise RefusedError("bad-request", 'write {"method": "status"}')
    return said.pop("method"), said
