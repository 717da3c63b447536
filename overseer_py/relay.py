"""What workers write: passed on as it comes, and the last lines kept for when one fails.

Neither side can block the other: a pipe is emptied whatever becomes of the bytes, and the outlet
drops what a stuck reader does not take.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from overseer_py.errors import LaunchError
from overseer_py.plain import Fd
from overseer_py.system.loop import IN, Loop

Sink = Callable[[bytes], None]

LAST_LINES = 100
MOST_KEPT = 1 << 17  # bytes of them; a service may have a thousand workers
LONGEST_LINE = 8192  # bytes; a longer one is cut (kept lines) or split (captured ones)
_PIPE_SIZE = 1 << 18  # a user has 64 MiB for all pipes by default (pipe-user-pages-soft, pipe(7))
_AT_ONCE = 1 << 16  # bytes a turn: a talkative worker must not keep the master busy
_TURNS = 8  # at most, to catch up with a worker that has ended


@dataclass(frozen=True, slots=True)
class KeptTail:
    """The last lines, for the master's next image."""

    lines: list[bytes]
    rest: bytes


class Tail:
    """The last lines of a worker."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._rest = b""

    def kept(self) -> KeptTail:
        """Return all of it."""
        return KeptTail(list(self._lines), self._rest)

    def resume(self, kept: KeptTail) -> None:
        """Go on from there."""
        self._lines.extend(kept.lines)
        self._size, self._rest = sum(map(len, kept.lines)), kept.rest

    def feed(self, data: bytes) -> None:
        """Take what has been written, lines or parts of lines."""
        *lines, rest = (self._rest + data).split(b"\n")
        kept = [line[:LONGEST_LINE] for line in lines[-LAST_LINES:]]
        self._lines.extend(kept)
        self._size += sum(map(len, kept))
        while len(self._lines) > LAST_LINES or self._size > MOST_KEPT:
            self._size -= len(self._lines.popleft())
        self._rest = rest[:LONGEST_LINE]

    def lines(self) -> list[str]:
        """Return the kept lines, the oldest first, an unfinished one included."""
        kept = [*self._lines, self._rest] if self._rest else [*self._lines]
        return [line.decode(errors="replace").rstrip("\r") for line in kept[-LAST_LINES:]]


class Splitter:
    """Whole lines out of a stream; a line that never ends is split."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self.rest = b""  # the beginning of a line

    def feed(self, data: bytes) -> None:
        """Take what has been written and tell of the lines that are complete; nothing: the end."""
        if not data and self.rest:
            self._tell(self.rest)
            self.rest = b""
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self._tell(line)
        while len(self.rest) > LONGEST_LINE:
            self._tell(self.rest[:LONGEST_LINE])
            self.rest = self.rest[LONGEST_LINE:]

    def forget(self) -> None:
        """Drop the line that has begun."""
        self.rest = b""

    def _tell(self, line: bytes) -> None:
        self._on_line(line.decode(errors="replace").rstrip("\r"))


class Relay:
    """One pipe from a worker; it lives until the last process that holds it has let go."""

    def __init__(self, loop: Loop, sinks: Sequence[Sink], kept: int | None = None) -> None:
        """``sinks`` take each piece of up to 64 KiB, and an empty one at the end.

        ``kept`` is the end that an earlier image has read; -1 if it was closed.
        """
        self._fd, self.write_end = _pipe() if kept is None else (int(kept), -1)
        self._loop = loop
        self._sinks = sinks
        if self._fd >= 0:
            loop.watch(self._fd, IN, self._on_readable)

    def kept(self) -> Fd:
        """Return our end."""
        return Fd(self._fd)

    def handed_over(self) -> None:
        """Close the end that the worker has now."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def catch_up(self) -> None:
        """Read all that has been written up to now (the worker has ended)."""
        for _ in range(_TURNS):
            if self._fd < 0 or not self._read():
                return

    def _on_readable(self, _: int) -> None:
        self._read()

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, _AT_ONCE)
        except BlockingIOError:
            return False
        for sink in self._sinks:
            sink(data)
        if not data:
            self.close()
        return bool(data)

    def close(self) -> None:
        """Read no more; whoever still writes gets SIGPIPE."""
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1


def _pipe() -> tuple[int, int]:
    try:
        ours, theirs = os.pipe2(os.O_CLOEXEC)
    except OSError as error:
        raise LaunchError(f"could not be started: {error.strerror}") from error
    os.set_blocking(ours, False)  # our end only; the worker's blocks, as programs expect
    with suppress(OSError):  # the limit for this user is used up: the default size will do
        fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    return ours, theirs
