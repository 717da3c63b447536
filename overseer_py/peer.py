"""One connection to the control socket: lines in, lines out, and nothing of it without a bound.

A line has 64 KiB at most and some seconds to arrive; the next one is read when the answer to the
last is sent.  What is not read on the other side waits here up to a limit, and not for ever.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass

from overseer_py.plain import Fd
from overseer_py.system.loop import HANGUP, IN, OUT, Loop

LONGEST_LINE = 1 << 16  # bytes
MOST_UNREAD = 1 << 20  # bytes of answers that may wait for a reader
HALF_LINE = 5.0  # seconds for the rest of a line
STUCK = 10.0  # seconds in which a reader must have read something
_NEWS = 1 << 18  # bytes of these that are news, to which somebody listens
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid


@dataclass(frozen=True, slots=True)
class KeptPeer:
    """A client, for the master's next image."""

    socket: Fd
    received: bytes
    unsent: bytes
    asking: bool
    served: bool
    dropped: int
    ended: bool


class Peer:
    """A client, and what is half received and half sent of it."""

    def __init__(self, connection: socket.socket, loop: Loop) -> None:
        connection.setblocking(False)
        self.pid: int
        self.uid: int
        self.pid, self.uid, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        self.asking = False  # waits for the answer to its last line
        self._socket = connection
        self._loop = loop
        self._received = bytearray()
        self._unsent = bytearray()
        self._served = False  # has had an answer
        self._dropped = 0  # news that found no room
        self._ended = False  # it says no more, but may still listen (nc -N, socat)
        self._late_at: float | None = None  # when a line that has begun must have ended
        self._stuck_at: float | None = None  # when some of what is unsent must have been read
        loop.watch(connection.fileno(), IN, self._on_ready)

    def kept(self) -> KeptPeer:
        """Return what the master's next image must know."""
        received, unsent = bytes(self._received), bytes(self._unsent)
        states = self.asking, self._served
        return KeptPeer(Fd(self.fd), received, unsent, *states, self._dropped, self._ended)

    @classmethod
    def resumed(cls, kept: KeptPeer, loop: Loop) -> Peer:
        """Return the client of an earlier image; it waits for its answer still."""
        peer = cls(socket.socket(fileno=int(kept.socket)), loop)
        peer._received[:], peer.asking, peer._served = kept.received, kept.asking, kept.served
        peer._dropped, peer._ended = kept.dropped, kept.ended
        peer._unsent[:] = kept.unsent
        peer._heed()
        return peer

    @property
    def fd(self) -> int:
        """The descriptor, by which a request knows it; -1 once it is gone."""
        return self._socket.fileno()

    @property
    def gone(self) -> bool:
        """Whether nobody is there any more."""
        return self._socket.fileno() < 0

    @property
    def idle(self) -> bool:
        """Whether it has asked for nothing that it still waits for."""
        return not (self.asking or self._unsent or b"\n" in self._received)

    @property
    def spare(self) -> bool:
        """Whether it can make room for others: it is idle, or was served and goes on asking."""
        return self.idle or (self._served and self.has_line)

    @property
    def has_line(self) -> bool:
        """Whether a line is to be served: not before the last answer is out."""
        return not (self.asking or self._unsent) and b"\n" in self._received

    @property
    def due(self) -> float | None:
        """When it must have gone on."""
        times = (self._late_at, self._stuck_at)
        return min((at for at in times if at is not None), default=None)

    def receive(self) -> None:
        """Take in what it has said, if there is anything."""
        try:
            data = self._socket.recv(LONGEST_LINE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._ended = not data
        self._received += data
        if self._received.find(b"\n", 0, LONGEST_LINE) < 0 <= len(self._received) - LONGEST_LINE:
            self.dismiss("too-long", f"a line has {LONGEST_LINE} bytes at most")
        else:
            self._heed()

    def take_line(self) -> bytes:
        """Return the next line; it waits for an answer from now on."""
        line, _, self._received = self._received.partition(b"\n")
        self.asking = True
        self._heed()
        return bytes(line)

    def why_late(self, now: float) -> str:
        """Return what has taken too long; empty if nothing has."""
        if self._late_at is not None and self._late_at <= now:
            return f"a line took longer than {HALF_LINE:g} s"
        if self._stuck_at is not None and self._stuck_at <= now:
            return f"nothing was read for {STUCK:g} s"
        return ""

    def answer(self, line: Mapping[str, object]) -> None:
        """Send the answer to the last line; the next one is looked at then."""
        self.asking, self._served = False, True
        self._send(_encoded(line))

    def tell(self, news: bytes, *, sure: bool) -> None:
        """Send lines; without room for one that is not ``sure``, it is dropped and counted.

        So are those that follow, until the rest was read: how many is told where they are missing.
        """
        if (self._dropped or len(self._unsent) > _NEWS) and not sure:
            self._dropped += 1
        else:
            self._send(news)

    def dismiss(self, code: str, message: str) -> None:
        """Say why, if it listens, and let go of it."""
        self.answer({"error": {"code": code, "message": message}})
        self.close()

    def close(self) -> None:
        """End the connection."""
        if not self.gone:
            self._loop.forget(self._socket.fileno())
            self._socket.close()

    # -- what happens on the socket ------------------------------------------------------------

    def _on_ready(self, events: int) -> None:
        if events & IN and b"\n" not in self._received:
            self.receive()
        elif events & OUT:
            self._flush()
        elif events & HANGUP and not self.has_line:  # what it said before it went is served
            self.close()

    def _send(self, line: bytes) -> None:
        if self.gone:
            return
        self._unsent += line
        self._flush()
        if len(self._unsent) > MOST_UNREAD:
            self.close()

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
                self._stuck_at = None
                if self._dropped and not self._unsent:
                    self._unsent += _encoded({"dropped": self._dropped})
                    self._dropped = 0
        except BlockingIOError:
            self._stuck_at = self._stuck_at or time.monotonic() + STUCK
        except OSError:
            self.close()
        self._heed()

    def _heed(self) -> None:
        """Read no more while a line waits to be served; a client's end is heard of anyway."""
        if self._ended and self.idle:
            self.close()
        if self.gone:
            return
        whole = b"\n" in self._received
        half = bool(self._received) and not whole and not self.asking
        self._late_at = (self._late_at or time.monotonic() + HALF_LINE) if half else None
        wanted = (0 if whole or self._ended else IN) | (OUT if self._unsent else 0)
        self._loop.change(self._socket.fileno(), wanted)


def _encoded(line: Mapping[str, object]) -> bytes:
    return json.dumps(line, default=str, ensure_ascii=False).encode(errors="replace") + b"\n"
