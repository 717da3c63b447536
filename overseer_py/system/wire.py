"""One end of a socket pair, for lines both ways: nothing blocks, and nothing grows without end."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

from overseer_py.plain import Fd
from overseer_py.system.loop import IN, OUT, Loop

_MOST_UNREAD = 1 << 18  # bytes that may wait for the other side


@dataclass(frozen=True, slots=True)
class KeptWire:
    """Our end, for the master's next image, with what is half received and half sent."""

    socket: Fd
    received: bytes
    unsent: bytes


class Wire:
    """Tells of each line that comes, and once of the end, whatever brings it about."""

    def __init__(
        self,
        end: socket.socket,
        loop: Loop,
        longest: int,
        on_line: Callable[[bytes], None],
        on_end: Callable[[str], None],
    ) -> None:
        """``longest`` is the most bytes of a line; ``on_end`` hears why, if that is our doing."""
        end.setblocking(False)
        self._socket = end
        self._loop, self._longest = loop, longest
        self._on_line, self._on_end = on_line, on_end
        self._received = b""
        self._unsent = bytearray()
        loop.watch(end.fileno(), IN, self._on_ready)

    @property
    def open(self) -> bool:
        """Whether there still is another side."""
        return self._socket.fileno() >= 0

    def kept(self) -> KeptWire:
        """Return what the next image must know of it."""
        return KeptWire(Fd(self._socket.fileno()), self._received, bytes(self._unsent))

    def resume(self, kept: KeptWire) -> None:
        """Go on with what an earlier image had half received and half sent."""
        self._received = kept.received
        self._unsent += kept.unsent
        self._loop.change(self._socket.fileno(), IN | (OUT if self._unsent else 0))

    def send(self, line: bytes) -> None:
        """Send a line as far as the other side reads; end it if it reads nothing."""
        if not self.open:
            return
        self._unsent += line
        self._flush()
        if len(self._unsent) > _MOST_UNREAD:
            self.end("it does not read what it is told")

    def end(self, why: str = "") -> None:
        """Close our end."""
        if self.open:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._on_end(why)

    def _on_ready(self, events: int) -> None:
        if events & OUT:
            self._flush()
        if events & ~OUT and self.open:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(self._longest)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.end()
            return
        *lines, self._received = (self._received + data).split(b"\n")
        if any(len(line) > self._longest for line in (*lines, self._received)):
            self.end(f"it said a line of more than {self._longest} bytes")
        for line in lines:
            if self.open:
                self._on_line(line)

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self.end()
        if self.open:
            self._loop.change(self._socket.fileno(), IN | (OUT if self._unsent else 0))
