"""Talk to a running master.  For scripts, and for the commands, which are built on it.

>>> from overseer_py import Client
>>> Client("app").restart(timeout=60)["generation"]     # doctest: +SKIP
8
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from overseer_py.errors import NoInstanceError, RequestError, RolloutError
from overseer_py.whereabouts import connected, find, listener_of

PATIENCE = 10  # seconds for an answer that needs no waiting, and for a master that has no room
_AGAIN = 0.05  # seconds until it may have room
_GOES_ON = "what has begun goes on, see overseer status"

Document = dict[str, Any]
Listener = Callable[[Document], object]


class Client:
    """One instance: by its name, a path of a control socket, its pid, or the only one there is.

    Each call opens a connection of its own, so that a client outlives a master.  Every one raises
    NoInstanceError if no master is there, and RequestError with what the master says otherwise.
    """

    def __init__(self, name: str | Path | None = None, *, pid: int | None = None) -> None:
        self._name = None if name is None else str(name)
        self._pid = pid

    def status(self) -> Document:
        """Return the state of the service; what the fields mean is in docs/control.md."""
        return self._ask("status")

    def restart(
        self,
        timeout: float | None = None,
        *,
        wait: bool = True,
        on_event: Listener | None = None,
    ) -> Document:
        """Roll out; return how it went (as ``last_rollout``) once the old generation is gone.

        Raises RolloutError unless it was committed, RequestError if that takes longer than
        ``timeout`` seconds: the rollout goes on then, as it does if this process dies.  Without
        ``wait`` the answer comes at once, and says nothing.
        """
        return (
            self._roll("restart", timeout, on_event) if wait else self._ask("restart", wait=False)
        )

    def reload(
        self,
        timeout: float | None = None,
        *,
        wait: bool = True,
        on_event: Listener | None = None,
    ) -> Document:
        """Have the configuration read anew, then as ``restart``; a bad one is a RequestError."""
        return self._roll("reload", timeout, on_event) if wait else self._ask("reload", wait=False)

    def upgrade_master(self, timeout: float = 120.0) -> Document:
        """Have the master become the version that is installed now; return both versions.

        Raises RequestError with the reason if that version cannot take over: the old one goes on.
        """
        return self._ask("upgrade-master", patience=timeout)

    def stop(
        self,
        timeout: float | None = None,
        *,
        wait: bool = True,
        drain: bool = True,
        on_event: Listener | None = None,
    ) -> None:
        """Stop the service, and return when its master has ended; ``drain`` false kills at once.

        Raises RequestError if that takes longer than ``timeout`` seconds: it goes on then.
        """
        if not wait:
            self._ask("stop", wait=False, drain=drain)
            return
        ends_at = None if timeout is None else time.monotonic() + timeout
        with closing(self._connect()) as connection:
            master = _process(listener_of(connection))
        try:
            with suppress(_LostError):  # what it says, or not, it is the end that counts
                asked = {"method": "stop", "drain": drain, "follow": on_event is not None}
                for message in self._converse(asked, ends_at):
                    _pass_on(message, on_event)
            _await_end(master, ends_at)
        finally:
            if master is not None:
                os.close(master)

    def scale(self, workers: int) -> Document:
        """Have this many workers from now on."""
        return self._ask("scale", workers=workers)

    def signal(self, name: str) -> Document:
        """Do what a signal to the master means: USR1 goes on to the workers, for example."""
        return self._ask("signal", signal=name)

    def releases(self) -> Document:
        """Return what is installed, and what is held: ``releases``, newest first."""
        return self._ask("releases")

    def rollback(
        self, digest: str = "", timeout: float | None = None, *, on_event: Listener | None = None
    ) -> Document:
        """Go back to the previous release, or to that of a digest; otherwise as ``restart``."""
        return self._roll("rollback", timeout, on_event, digest=digest)

    def unhold(self, digest: str) -> Document:
        """Let a release that failed be tried again."""
        return self._ask("unhold", digest=digest)

    def fetch(self, timeout: float | None = None, *, on_event: Listener | None = None) -> Document:
        """Look for a new release now; as ``restart`` if there is one.

        Without a rollout the document has no ``generation``, and ``found`` says what there is.
        """
        return self._roll("fetch", timeout, on_event)

    def events(self, last: int = 0, *, follow: bool = True) -> Iterator[Document]:
        """Yield the ``last`` so many events, then those that come, until the master ends."""
        return self._read("events", "event", last=last, follow=follow)

    def logs(self, last: int = 100, *, follow: bool = False) -> Iterator[Document]:
        """Yield the last lines that ``--capture`` keeps, then those that come."""
        return self._read("logs", "line", last=last, follow=follow)

    # -- how it is said ----------------------------------------------------------------------

    def _ask(self, method: str, patience: float = PATIENCE, **params: object) -> Document:
        *_, last = self._converse({"method": method, **params}, time.monotonic() + patience)
        result: Document = last["result"]
        return result

    def _roll(
        self, method: str, timeout: float | None, on_event: Listener | None, **params: object
    ) -> Document:
        ends_at = None if timeout is None else time.monotonic() + timeout
        rollout: Document = {}
        asked = {"method": method, "follow": on_event is not None, **params}
        try:
            for message in self._converse(asked, ends_at):
                _pass_on(message, on_event)
                rollout = message.get("rollout") or message.get("result") or rollout
        except (_LateError, _LostError):
            if rollout.get("outcome") != "committed":  # else the old one still drains
                raise
        if rollout.get("outcome", "committed") != "committed":
            raise RolloutError(rollout)
        return rollout

    def _read(self, method: str, key: str, **params: object) -> Iterator[Document]:
        with suppress(_LostError):
            for message in self._converse({"method": method, **params}, None):
                if key in message:
                    yield message[key]
                elif "dropped" in message:
                    yield message

    def _converse(self, asked: Document, ends_at: float | None) -> Iterator[Document]:
        """Send a request; yield each line of news, and at last the one with the result.

        Again if the master has no room among many who ask: it has not begun anything then.
        """
        give_up_at = time.monotonic() + PATIENCE
        if ends_at is not None:
            give_up_at = min(give_up_at, ends_at)
        while True:
            try:
                with closing(self._connect()) as connection:
                    yield from _converse(connection, asked, ends_at)
            except _BusyError:
                if time.monotonic() + _AGAIN >= give_up_at:
                    raise
            else:
                return
            time.sleep(_AGAIN)

    def _connect(self) -> socket.socket:
        path = find(self._name, self._pid)
        try:
            return connected(path, PATIENCE)
        except OSError as error:
            raise NoInstanceError(f"{path}: no overseer there: {error.strerror}") from error


class _BusyError(RequestError):
    """The master has no room for this client now, and has not looked at its request."""


class _LateError(RequestError):
    """The answer took too long."""


class _LostError(RequestError):
    """The master is gone without an answer."""


def _converse(
    connection: socket.socket, asked: Document, ends_at: float | None
) -> Iterator[Document]:
    """Do so once, on this connection."""
    method = asked["method"]
    received = bytearray()
    try:
        with suppress(BrokenPipeError):  # it has said why, which is still there to read
            connection.sendall(json.dumps(asked).encode() + b"\n")
        while True:
            connection.settimeout(_left(ends_at))
            data = connection.recv(1 << 16)
            if not data:
                raise _LostError(f"{method}: the master has ended")
            received += data
            while b"\n" in received:
                line, _, received = received.partition(b"\n")
                message: Document = json.loads(line)
                if "error" in message:
                    raise _refusal(method, **message["error"])
                yield message
                if "result" in message:
                    return
    except TimeoutError as error:
        raise _LateError(f"{method}: timed out; {_GOES_ON}") from error
    except (OSError, ValueError) as error:
        raise _LostError(f"{method}: {error}") from error


def _refusal(method: str, code: str, message: str) -> RequestError:
    kind = _BusyError if code == "busy" else RequestError
    return kind(f"{method}: {message}")


def _pass_on(message: Document, on_event: Listener | None) -> None:
    if on_event and "event" in message:
        on_event(message["event"])


def _left(ends_at: float | None) -> float | None:
    if ends_at is None:
        return None
    left = ends_at - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _process(pid: int) -> int | None:
    """Return a descriptor that tells when this process ends; None if it is not to be seen."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _await_end(process: int | None, ends_at: float | None) -> None:
    if process is None:
        return
    try:
        left = _left(ends_at)
    except TimeoutError:
        left = 0.0
    if not select.select([process], [], [], left)[0]:
        raise _LateError(f"stop: timed out; {_GOES_ON}")
