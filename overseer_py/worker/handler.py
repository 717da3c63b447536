"""The drain signal: seen first by us, then by whoever else handles it in this process.

A framework (uvicorn, gunicorn, an event loop) has a handler of its own, which may be installed
before ours or after.  Ours stands in front: it starts the drain, and passes the signal on when the
time has come.  Passing on is a second signal, so that the other handler is called as ever: in the
main thread, between two instructions, or by the event loop.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

_Other = Callable[[int, FrameType | None], Any] | int | None


class _Link:
    """One of our handlers, in front of the one that was there when it was installed."""

    def __init__(self, handler: Handler, before: _Other) -> None:
        self._handler = handler
        self.before = before

    def __call__(self, number: int, frame: FrameType | None) -> None:
        mine = self._handler.pid == os.getpid()  # or a child's, that was forked and is no server
        if mine and not self._handler.passing:
            self._handler.begin()
        elif callable(self.before):
            self.before(number, frame)
        elif self.before == signal.SIG_DFL and not mine:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif self.before == signal.SIG_DFL and self._handler.ends:
            sys.exit()  # nobody else ends the process: here in the main thread, as it ends itself


class Handler:
    """Our place in front of the others, for one signal."""

    def __init__(self, number: signal.Signals, begin: Callable[[], None]) -> None:
        self.number = number
        self.begin = begin  # must not block, nor take a lock: the main thread may have it
        self.passing = False  # from now on the signal is for the others
        self.ends = False  # when passed on to nobody, the process is to end
        self.pid = 0  # whose signal it is
        self._front: _Link | None = None
        self._loops: list[tuple[Any, Any]] = []  # event loops, and what they call
        self._errand: object = None

    def watch(self) -> None:
        """Be in front of the others; called again and again, by any thread, it costs little."""
        if self.passing:
            return
        if signal.getsignal(self.number) is self._front and self.pid == os.getpid():
            return
        if threading.current_thread() is threading.main_thread():
            self._step_in_front()
        elif self._errand is None:
            self._errand = _in_main_thread(self._step_in_front)

    @property
    def alone(self) -> bool:
        """Whether nobody else handles the signal."""
        before: _Other = self._front
        while isinstance(before, _Link):
            before = before.before
        return before == signal.SIG_DFL

    def pass_on(self) -> None:
        """Let the others have the signal."""
        self.passing = True
        for loop, handle in self._loops:
            if not loop.is_closed():
                loop._signal_handlers.setdefault(self.number, handle)  # noqa: SLF001 - see below
        main = threading.main_thread().ident
        if main is not None:
            with suppress(ProcessLookupError):  # it has ended: so has the process, soon
                signal.pthread_kill(main, self.number)

    def _step_in_front(self) -> None:
        self._errand = None
        self.pid = os.getpid()
        before = signal.getsignal(self.number)
        if before is not self._front:
            self._front = _Link(self, before)
            signal.signal(self.number, self._front)
            self._hold_back_loop()

    def _hold_back_loop(self) -> None:
        """Take the running event loop's handler away until the signal is passed on.

        An asyncio loop learns of a signal by its wake-up descriptor, whatever Python's handler is.
        There is no other way to know whom it would call; a loop without this table (uvloop) calls
        them at once.
        """
        events = sys.modules.get("asyncio.events")
        loop = events._get_running_loop() if events else None  # noqa: SLF001
        handlers = getattr(loop, "_signal_handlers", {})
        if handle := handlers.pop(self.number, None):
            self._loops.append((loop, handle))


def drain_signal() -> signal.Signals:
    """Return the signal that asks this worker to drain."""
    text = os.environ.get("OVERSEER_DRAIN_SIG", "").upper()
    with suppress(ValueError, KeyError):
        if text.isdecimal():
            return signal.Signals(int(text))
        return signal.Signals[text if text.startswith("SIG") else f"SIG{text}"]
    return signal.SIGTERM


def _in_main_thread(function: Callable[[], None]) -> object:
    """Have a function called in the main thread soon; return what must be kept until then.

    Only the main thread may install a handler (signal(2) is for the process, Python's own table
    for that thread), and an application that is called in a pool's thread never meets it.
    """
    import ctypes  # noqa: PLC0415 - seldom needed

    def call(_: int | None) -> int:
        function()
        return 0

    errand = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(call)
    ctypes.pythonapi.Py_AddPendingCall(errand, None)
    return errand
