"""The control socket: one JSON object a line each way, for root and the master's own user.

``{"method": "status"}`` is answered with ``{"result": {…}}`` or ``{"error": {"code": …, "message":
…}}``; news that a client asked for come before the answer, each with a key of its own.  Nobody can
take more of the master than a little: what one connection may hold is bounded (peer.py), a turn of
the loop spends some milliseconds on all of them, and when there are too many, those who wait for
nothing make room, and those who were served and go on asking.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overseer_py.errors import ConfigError
from overseer_py.logs import Log
from overseer_py.peer import KeptPeer, Peer
from overseer_py.plain import Fd
from overseer_py.system import procfs
from overseer_py.system.loop import IN, Loop

MOST_CLIENTS = 64
_AT_ONCE = 64  # connections accepted in a turn: who comes last in a crowd waits for all of it
_TURN = 0.01  # seconds a turn for all clients, as soon as one is served
_BACKLOG = 1024
_REST = 1.0  # seconds without new clients when no descriptor is left for one
_QUIET = 10.0  # seconds between two lines about those that are refused

Params = Mapping[str, Any]


class RefusedError(Exception):
    """A request that is not granted: the code is for scripts, the text for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class KeptRequest:
    """A request that waits for its answer, or for news, for the master's next image."""

    peer: int  # its descriptor
    answered: bool


@dataclass(frozen=True, slots=True)
class KeptControl:
    """The socket and its clients."""

    socket: Fd
    inode: int
    peers: list[KeptPeer]


class Request:
    """One line of a client: answered once, now or later."""

    def __init__(self, peer: Peer, params: Params) -> None:
        self.params = params
        self.pid: int = peer.pid  # who asks
        self._peer = peer
        self._answered = False

    def kept(self) -> KeptRequest:
        """Return what the master's next image must know."""
        return KeptRequest(self._peer.fd, self._answered)

    @classmethod
    def resumed(cls, kept: KeptRequest, peer: Peer) -> Request:
        """Return the request that an earlier image has taken."""
        request = cls(peer, {})
        request._answered = kept.answered
        return request

    @property
    def over(self) -> bool:
        """Whether it was answered, or nobody waits for the answer any more."""
        return self._answered or self._peer.gone

    def answer(self, result: object) -> None:
        """Send the result."""
        self._end({"result": result})

    def refuse(self, error: RefusedError) -> None:
        """Send an error instead."""
        self._end({"error": {"code": error.code, "message": str(error)}})

    def tell(self, news: bytes, *, sure: bool = False) -> None:
        """Send lines of news before the answer: ``sure``, or if the client reads fast enough."""
        self._peer.tell(news, sure=sure)

    def _end(self, line: Mapping[str, object]) -> None:
        if not self._answered:
            self._answered = True
            self._peer.answer(line)


Method = Callable[[Request], None]  # answers the request, or keeps it for later


class Control:
    """Listens on a unix socket, and calls the methods that clients ask for."""

    def __init__(
        self,
        path: Path,
        loop: Loop,
        log: Log,
        methods: Mapping[str, Method],
        kept: KeptControl | None = None,
    ) -> None:
        """Bind, mode 0600; whoever calls this holds the lock on the name, so a socket that is
        there already is a dead master's.  Raises ConfigError.
        """  # noqa: D205 - one thought
        self.path = path
        self._loop, self._log, self._methods = loop, log, methods
        self._peers: list[Peer] = []  # the next to be served first
        self._deaf_until: float | None = None
        self._refused = 0  # of other users, since the last line about them
        self._quiet_until = 0.0
        self._socket = socket.socket(fileno=int(kept.socket)) if kept else _listen(path)
        self._inode = kept.inode if kept else os.lstat(path).st_ino
        self._peers += [Peer.resumed(peer, loop) for peer in kept.peers] if kept else []
        loop.watch(self._socket.fileno(), IN, self._on_connections)

    def kept(self) -> KeptControl:
        """Return what the master's next image must know."""
        peers = [peer.kept() for peer in self._peers if not peer.gone]
        return KeptControl(Fd(self._socket.fileno()), self._inode, peers)

    def request(self, kept: KeptRequest) -> Request:
        """Return the request of a client that an earlier image has taken."""
        peer = next(peer for peer in self._peers if peer.fd == kept.peer)
        return Request.resumed(kept, peer)

    def due(self, now: float) -> float | None:
        """Return when ``tick`` has something to do; ``now`` if a line waits already."""
        if any(peer.has_line for peer in self._peers):
            return now
        times = [peer.due for peer in self._peers] + [self._deaf_until]
        return min((at for at in times if at is not None), default=None)

    def tick(self, now: float) -> None:
        """Serve one line of each client, as far as the time allows; let go of the late."""
        if self._deaf_until is not None and self._deaf_until <= now:
            self._deaf_until = None
            self._loop.change(self._socket.fileno(), IN)
        if not self._peers:
            return
        self._peers = [peer for peer in self._peers if not peer.gone]
        for peer in [peer for peer in self._peers if peer.has_line]:
            self._peers.remove(peer)
            self._peers.append(peer)  # whoever was served comes last next time
            self._serve(peer)
            if time.monotonic() > now + _TURN:
                break
        for peer in self._peers:
            if why := peer.why_late(now):
                peer.dismiss("late", why)

    def close(self) -> None:
        """Let all go, and remove the socket."""
        for peer in self._peers:
            peer.close()
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        with suppress(OSError):
            if os.lstat(self.path).st_ino == self._inode:
                self.path.unlink()

    # -- who comes ---------------------------------------------------------------------------

    def _on_connections(self, _: int) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptor left: do not ask without end
                self._loop.change(self._socket.fileno(), 0)
                self._deaf_until = time.monotonic() + _REST
                return
            self._welcome(Peer(connection, self._loop))

    def _welcome(self, peer: Peer) -> None:
        if peer.uid not in (0, os.geteuid()):
            peer.dismiss("forbidden", "only root and the master's own user are served")
            self._note_refused(peer)
            return
        if len(self._peers) >= MOST_CLIENTS:
            self._peers = [known for known in self._peers if not known.gone]
        if len(self._peers) >= MOST_CLIENTS:
            spare = next((known for known in self._peers if known.spare), None)
            if spare is None:
                peer.dismiss("busy", f"{MOST_CLIENTS} clients wait for something already")
                return
            spare.dismiss("busy", "others came, and this connection waited for nothing")
            self._peers.remove(spare)
        self._peers.append(peer)
        peer.receive()  # what it has asked already counts when the next one comes

    def _note_refused(self, peer: Peer) -> None:
        """Say who was refused; not each time, for it may try without end."""
        self._refused += 1
        now = time.monotonic()
        if now >= self._quiet_until:
            facts = {"uid": peer.uid, **procfs.described(peer.pid), "times": self._refused}
            self._log.warning("control-refused", **facts)
            self._refused, self._quiet_until = 0, now + _QUIET

    def _serve(self, peer: Peer) -> None:
        request = Request(peer, {})
        try:
            name, request.params = _read(peer.take_line())
            method = self._methods.get(name)
            if method is None:
                known = ", ".join(self._methods)
                raise RefusedError("unknown-method", f"{name!r}; there are: {known}")  # noqa: TRY301
            method(request)
        except RefusedError as error:
            request.refuse(error)
        except Exception as error:  # noqa: BLE001 - the client must hear, and the others be served
            self._log.exception("master-error")
            request.refuse(RefusedError("failed", repr(error)))


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
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        why = error.strerror or str(error)
        raise ConfigError(f"control: {path}: {why}; give --control PATH, or none") from error
    return listener


def _read(line: bytes) -> tuple[str, Params]:
    """Return the method and all that was said with it."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RefusedError("bad-request", f"not JSON: {error}") from None
    if not isinstance(said, dict) or not isinstance(said.get("method"), str):
        raise RefusedError("bad-request", 'write {"method": "status"}')
    return said.pop("method"), said
