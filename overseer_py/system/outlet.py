"""A descriptor that others read, slowly or not at all: writing to it never blocks.

O_NONBLOCK belongs to the open file, which is shared with whoever started us and with the workers,
so it is never set.  A socket is written with MSG_DONTWAIT; a pipe or a terminal is opened once
more through /proc, which gives an open file of our own; a file cannot block.  Where none of that
is allowed, a write of up to PIPE_BUF bytes after poll(2) has said that there is room does not block
either (pipe(7)), unless somebody else fills the pipe at that very moment.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from overseer_py.system.loop import OUT, Loop

_BACKLOG = 1 << 20  # bytes kept for a reader that is slow; what does not fit is dropped, counted
_MOST = 1 << 16  # bytes a write
_SURE = select.PIPE_BUF


@dataclass(frozen=True, slots=True)
class KeptOutlet:
    """What has not been read yet, for the master's next image."""

    dropped: int
    waiting: list[bytes]


class Outlet:
    """Bytes on their way to a descriptor, whole chunks or none."""

    def __init__(self, fd: int, loop: Loop) -> None:
        self.dropped = 0  # chunks, since the last one that got through
        self._loop = loop
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._socket: socket.socket | None = None
        self._regular = False
        self._shared = fd
        self._fd = self._open(fd)

    def _open(self, fd: int) -> int:
        """Return the descriptor to write to: one of our own, if that is possible."""
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            self._regular = True
        elif stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(fd))
            return self._socket.fileno()
        else:
            with suppress(OSError):  # somebody else's pipe, a terminal after su: poll instead
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
                return os.open(f"/proc/self/fd/{fd}", flags)
        return fd

    def kept(self) -> KeptOutlet:
        """Return what has not been written yet."""
        return KeptOutlet(self.dropped, list(self._waiting))

    def resume(self, kept: KeptOutlet) -> None:
        """Go on to write what an earlier image had to say."""
        self.dropped = kept.dropped
        for data in kept.waiting:
            self.write(data)

    @property
    def stuck(self) -> bool:
        """Whether something waits for the reader."""
        return bool(self._waiting)

    def pass_on(self, data: bytes) -> None:
        """Write what is not our own: a flood of it leaves room for what we have to say."""
        self.write(data, _BACKLOG // 2)

    def write(self, data: bytes, most: int = _BACKLOG) -> None:
        """Write now, later, or not at all if the reader is stuck or gone."""
        if not data:  # to a socket it would be a message, and to its reader the end
            return
        if self._waiting and self._size + len(data) > most:
            self.dropped += 1
            return
        self._waiting.append(data)
        self._size += len(data)
        if len(self._waiting) == 1:
            self.flush()

    def flush(self) -> None:
        """Write until done or stuck; wait for room only while there is something to write."""
        while self._waiting:
            data = self._waiting[0]
            try:
                written = self._write_some(data)
            except BlockingIOError:
                self._await_room(needed=True)
                return
            except OSError:  # EPIPE, EIO, ENOSPC: nobody will ever read this
                self.dropped += len(self._waiting)
                self._waiting.clear()
                self._size = 0
                break
            self._size -= written
            self._waiting.popleft()
            if written < len(data):
                self._waiting.appendleft(data[written:])
        self._await_room(needed=False)

    def finish(self, patience: float) -> None:
        """Give a slow reader so many seconds to take what waits: nothing is written after this."""
        give_up_at = time.monotonic() + patience
        self.flush()
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while self._waiting and (rest := give_up_at - time.monotonic()) > 0:
            poll.poll(rest * 1000)
            self.flush()

    def _write_some(self, data: bytes) -> int:
        if self._socket:
            return self._socket.send(data[:_MOST], socket.MSG_DONTWAIT)
        if self._regular or self._fd != self._shared:
            return os.write(self._fd, data[:_MOST])
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(self._fd, data[:_SURE])

    def _await_room(self, *, needed: bool) -> None:
        self._loop.forget(self._fd)
        if needed:
            self._loop.watch(self._fd, OUT, lambda _: self.flush())

    def close(self) -> None:
        """Close what is our own."""
        self._await_room(needed=False)
        if self._socket:
            self._socket.close()
        elif self._fd != self._shared:
            os.close(self._fd)
