"""How the master hears what programs of other conventions say: to their parent, or to einhorn.

Each way in is one worker's own, so nobody's name has to be asked for, and what is said there is
never parsed: it is there or it is not.  Heard is the first word; after it a way in stays open, for
programs that say it again, and is not read any more.  It is closed before a drain is asked for.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from overseer_py import dialects
from overseer_py.errors import LaunchError
from overseer_py.handover import FIRST_FD
from overseer_py.plain import Fd
from overseer_py.system.launch import Launch
from overseer_py.system.loop import IN, Loop
from overseer_py.system.stand_in import StandIn

Heard = Callable[[], None]

_ACK = b"worker:ack"  # in JSON, in YAML, or in YAML with its newlines escaped
_LONGEST = 1024  # bytes up to the word; more is not einhorn's language
_MOST = 8  # sockets of the master's for one worker


@dataclass(frozen=True, slots=True)
class KeptWords:
    """The ways in, for the master's next image."""

    parent: Fd | None = None
    einhorn: list[Fd] | None = None
    heard: bool = False


class Words:
    """All the ways in for one worker; none for a program that has none of those conventions."""

    def __init__(self, names: Collection[str], loop: Loop, heard: Heard) -> None:
        """Raise LaunchError, with nothing left open, if there is no descriptor for them."""
        self._loop, self._tell, self._heard = loop, heard, False
        self._ways: list[ToParent | ToEinhorn] = []
        try:
            if meanings := dialects.meant_for_parent(names):
                self._ways.append(ToParent(loop, self._on_word, meanings))
            if "einhorn" in names:
                self._ways.append(ToEinhorn(loop, self._on_word))
        except OSError as error:
            self.stop()
            raise LaunchError(f"could not be started: {error.strerror}") from error

    def kept(self) -> KeptWords:
        """Return what the master's next image must know."""
        parent = next((way.kept() for way in self._ways if isinstance(way, ToParent)), None)
        einhorn = next((way.kept() for way in self._ways if isinstance(way, ToEinhorn)), None)
        return KeptWords(parent, einhorn, self._heard)

    @classmethod
    def resumed(cls, kept: KeptWords, loop: Loop, heard: Heard) -> Words:
        """Return the ways that an earlier image has opened."""
        words = cls((), loop, heard)
        words._heard = kept.heard
        if kept.parent is not None:
            words._ways.append(ToParent(loop, words._on_word, {}, kept.parent))
        if kept.einhorn is not None:
            words._ways.append(ToEinhorn(loop, words._on_word, kept.einhorn))
        if kept.heard:
            for way in words._ways:
                way.look_away()
        return words

    def _on_word(self) -> None:
        self._heard = True
        self._tell()

    def fit(self, launch: Launch) -> Launch:
        """Return the launch of a worker that can speak."""
        for way in self._ways:
            launch = way.fit(launch)
        return launch

    def begin(self) -> None:
        """Let go of what the worker has now."""
        for way in self._ways:
            way.begin()

    def stop(self) -> None:
        """Hear nothing more."""
        while self._ways:
            self._ways.pop().stop()


class ToParent:
    """A signal to the program's parent, which is a process that stands in for the master."""

    def __init__(
        self,
        loop: Loop,
        heard: Heard,
        meanings: dict[signal.Signals, bool],
        kept: int | None = None,
    ) -> None:
        self._loop, self._heard, self._meanings = loop, heard, meanings
        if kept is None:
            self._fd, self._write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        else:
            self._fd, self._write_end = int(kept), -1
        loop.watch(self._fd, IN, self._on_readable)

    def kept(self) -> Fd:
        """Return the end that is ours."""
        return Fd(self._fd)

    def look_away(self) -> None:
        """Hear no more, and keep it open."""
        self._loop.forget(self._fd)

    def fit(self, launch: Launch) -> Launch:
        """Put the stand-in between."""
        return replace(launch, stand_in=StandIn(self._write_end, self._meanings))

    def begin(self) -> None:
        """Close the end that the stand-in has now."""
        os.close(self._write_end)
        self._write_end = -1

    def _on_readable(self, _: int) -> None:
        self.look_away()
        if os.read(self._fd, 1):  # else the stand-in has ended
            self._heard()

    def stop(self) -> None:
        """Close it: from now on the stand-in knows that nobody waits for a word."""
        self.look_away()
        os.close(self._fd)
        if self._write_end >= 0:
            os.close(self._write_end)


class ToEinhorn:
    """``worker:ack`` on EINHORN_SOCK_FD, or on a connection to EINHORN_SOCK_PATH.

    The path leads through the worker's own descriptors to a socket whose name in the file system
    is gone: it needs no place to live, and who may not look into the worker cannot reach it.
    """

    def __init__(self, loop: Loop, heard: Heard, kept: Iterable[int] | None = None) -> None:
        self._loop, self._heard = loop, heard
        self._open: list[socket.socket] = []
        self._theirs: list[int] = []
        if kept is not None:
            self._resume(kept)
            return
        ours, theirs = socket.socketpair()
        self._theirs.append(theirs.detach())
        self._listen_to(ours)
        with suppress(OSError):  # no place to bind: there is no path then
            self._listen()

    def kept(self) -> list[Fd]:
        """Return the sockets that are ours."""
        return [Fd(each.fileno()) for each in self._open]

    def _resume(self, kept: Iterable[int]) -> None:
        for fd in kept:
            each = socket.socket(fileno=int(fd))
            if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                self._open.append(each)
                self._watch(each)
            else:
                self._listen_to(each)

    def fit(self, launch: Launch) -> Launch:
        """Hand the descriptors over behind those that it has."""
        first = FIRST_FD + len(launch.fds)
        environ = {**launch.environ, "EINHORN_SOCK_FD": str(first)}
        if self._theirs[1:]:
            environ["EINHORN_SOCK_PATH"] = f"/proc/self/fd/{first + 1}"
        return replace(launch, environ=environ, fds=[*launch.fds, *self._theirs])

    def begin(self) -> None:
        """Close the ends that the worker has now."""
        while self._theirs:
            os.close(self._theirs.pop())

    def stop(self) -> None:
        """Close everything."""
        self.begin()
        self.look_away()
        while self._open:
            self._open.pop().close()

    def _listen(self) -> None:
        """Bind, and keep a way to the socket's inode (O_PATH) instead of its name."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._open.append(listener)
        with tempfile.TemporaryDirectory(prefix="overseer-") as directory:
            path = os.path.join(directory, "einhorn")
            listener.bind(path)
            os.chmod(path, 0o666)  # noqa: S103 - the worker may be another user; the way in is its own
            self._theirs.append(os.open(path, os.O_PATH | os.O_CLOEXEC))
        listener.listen()
        self._watch(listener)

    def _watch(self, listener: socket.socket) -> None:
        self._loop.watch(listener.fileno(), IN, lambda _: self._accept(listener))

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # it has gone again
            connection = listener.accept()[0]
            if len(self._open) < _MOST:
                self._listen_to(connection)
            else:
                connection.close()

    def _listen_to(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._open.append(connection)
        text = bytearray()

        def on_readable(_: int) -> None:
            data = b""
            with suppress(ConnectionResetError):
                data = connection.recv(_LONGEST)
            text.extend(data)
            if _ACK in text.rpartition(b"\n")[0]:
                self.look_away()
                self._heard()
            elif not data or len(text) >= _LONGEST:
                self._loop.forget(connection.fileno())
                self._open.remove(connection)
                connection.close()

        self._loop.watch(connection.fileno(), IN, on_readable)

    def look_away(self) -> None:
        """Hear no more, and keep all open."""
        for each in self._open:
            self._loop.forget(each.fileno())
