"""What the master waits on: file descriptors and the clock.  epoll(7), and no timers.

A descriptor has one callback; whoever watches it forgets it before closing it.  Deadlines are
asked for anew each turn, so there is nothing to cancel and nothing stale can fire.
"""

from __future__ import annotations

import select
from collections.abc import Callable

IN, OUT, HANGUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP
_LONGEST_WAIT = 3600.0  # epoll_wait(2) takes its time-out as an int of milliseconds

OnReady = Callable[[int], None]  # called with the event mask


class Loop:
    """An epoll set with a callback for each descriptor."""

    def __init__(self) -> None:
        self._epoll = select.epoll()  # close-on-exec
        self._callbacks: dict[int, OnReady] = {}

    def watch(self, fd: int, events: int, callback: OnReady) -> None:
        """Call back whenever one of the events is there (level-triggered).

        EPOLLHUP and EPOLLERR are always reported, also for no events at all.
        """
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def change(self, fd: int, events: int) -> None:
        """Watch for other events from now on."""
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Watch this descriptor no more; nothing happens if nobody does."""
        if self._callbacks.pop(fd, None):
            self._epoll.unregister(fd)

    def turn(self, timeout: float | None) -> list[Callable[[], None]]:
        """Wait at most ``timeout`` seconds (None: for ever) and return the calls to make.

        A call whose descriptor was forgotten meanwhile, by a call before it, does nothing.
        """
        if timeout is not None:  # Python rounds up to the millisecond, so this does not spin
            timeout = max(0.0, min(timeout, _LONGEST_WAIT))
        return [self._call(fd, mask) for fd, mask in self._epoll.poll(timeout)]

    def _call(self, fd: int, mask: int) -> Callable[[], None]:
        callback = self._callbacks.get(fd)  # none: forgotten, and another took its number

        def call() -> None:
            if callback and self._callbacks.get(fd) is callback:
                callback(mask)

        return call

    def close(self) -> None:
        """Close the set itself; the descriptors belong to others."""
        self._epoll.close()
