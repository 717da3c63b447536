"""``draining``: the word that this worker is to finish, in the form that suits its program.

It is given by the drain signal (TERM), or by ``draining.begin()``.  A handler that the program or
its framework has for the signal is called as well.
"""

from __future__ import annotations

import _thread
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from overseer_py.worker import traffic
from overseer_py.worker.handler import Handler, drain_signal

if TYPE_CHECKING:
    from asyncio import Future

_Callback = TypeVar("_Callback", bound=Callable[[], object])

LINGER = 1.0  # seconds that a client of ours may think between two requests
_LOOK = 0.02  # seconds between two looks whether what holds us has ended; no user waits for that
_REST = 10.0  # a look that takes 10 ms (thousands of connections) is followed by so many times that
_RESERVE = 0.1  # of the time for a drain, kept for the others


class Draining:
    """An event that is set once, when the worker is to finish; also awaitable, also a callback.

    >>> from overseer_py import worker
    >>> worker.draining.is_set()
    False
    """

    def __init__(self) -> None:
        self._begun: float | None = None
        self._event = threading.Event()
        self._callbacks: list[Callable[[], object]] = []
        self._called = 0  # callbacks that have not returned
        self._extended = 0.0
        self._lock = threading.Lock()
        self._holds: list[Callable[[], bool]] = []
        self._last_holds: list[Callable[[], bool]] = []
        self._linger: float | None = None
        self._signalled = False
        self._handler = Handler(drain_signal(), self._on_signal)

    # -- is it time? -----------------------------------------------------------------------------

    def is_set(self) -> bool:
        """Whether the worker is to finish.

        >>> from overseer_py import worker
        >>> while not worker.draining.is_set():
        ...     break  # or work on
        """
        self._handler.watch()
        return self._begun is not None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for it, for so many seconds at most; return whether the worker is to finish.

        >>> from overseer_py import worker
        >>> worker.draining.wait(0.01)
        False
        """
        self._handler.watch()
        return self._event.wait(timeout)

    def __await__(self) -> Generator[Any, None, None]:
        """Wait for it in asyncio.

        >>> import asyncio
        >>> from overseer_py import worker
        >>> async def main():
        ...     async with asyncio.timeout(0.01):
        ...         await worker.draining
        >>> asyncio.run(main())
        Traceback (most recent call last):
        TimeoutError
        """
        import asyncio  # noqa: PLC0415 - whoever awaits has it

        loop = asyncio.get_running_loop()
        begun = loop.create_future()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_end, begun)

        self.call(wake)
        try:
            yield from begun
        finally:
            with self._lock, suppress(ValueError):
                self._callbacks.remove(wake)

    def call(self, callback: _Callback) -> _Callback:
        """Have a function called, in a thread of its own; at once if it is time already.

        >>> from overseer_py import worker
        >>> @worker.draining.call
        ... def close_up():
        ...     print("finishing what is begun")
        """
        self._handler.watch()
        with self._lock:
            self._callbacks.append(callback)
        if self._event.is_set():
            self._tell()
        return callback

    @property
    def deadline(self) -> float | None:
        """When the master will kill the worker, by time.monotonic(); None: not known (yet).

        >>> from overseer_py import worker
        >>> print(worker.draining.deadline)
        None
        """
        seconds = _seconds()
        if self._begun is None or seconds is None:
            return None
        return max(self._begun + seconds, self._extended)

    @property
    def left(self) -> float | None:
        """The seconds until then, at least 0; None: not known (yet).

        >>> import threading
        >>> from overseer_py import worker
        >>> thread = threading.Thread(target=print, args=["flushed"])
        >>> thread.start()
        flushed
        >>> thread.join(worker.draining.left)
        """
        deadline = self.deadline
        return None if deadline is None else max(deadline - time.monotonic(), 0.0)

    # -- it is time --------------------------------------------------------------------------------

    def begin(self) -> None:
        """Say that it is time: for a program that waits for the signal itself.

        >>> import os
        >>> child = os.fork()
        >>> if child == 0:
        ...     from overseer_py import worker
        ...     worker.draining.begin()  # after signal.sigwait({signal.SIGTERM})
        ...     os._exit(0 if worker.draining.is_set() else 1)
        >>> os.waitpid(child, 0)[1]
        0
        """
        if self._begun is None:
            self._begun = time.monotonic()
            _thread.start_new_thread(self._tell, ())

    def _on_signal(self) -> None:
        """In the main thread, wherever it is just now: no lock, nothing that waits."""
        if self._signalled:  # somebody is impatient, or the master has died: pass it on at once
            self._handler.passing = True
            _thread.start_new_thread(self._handler.pass_on, ())
            return
        self._signalled = True
        if self._begun is None:
            self._begun = time.monotonic()
        with suppress(RuntimeError):  # the interpreter is ending anyway
            _thread.start_new_thread(self._leave, ())

    def _tell(self) -> None:
        self._event.set()
        with self._lock:
            callbacks, self._callbacks = self._callbacks, []
            self._called += len(callbacks)
        for callback in callbacks:
            _thread.start_new_thread(self._call, (callback,))

    def _call(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except Exception:  # noqa: BLE001 - it is the program's, and so is its traceback
            import traceback  # noqa: PLC0415 - not light, and hardly ever needed

            traceback.print_exc()
        finally:
            with self._lock:
                self._called -= 1

    def _leave(self) -> None:
        holding = self._linger is not None
        if not holding:
            self._handler.pass_on()  # the others wait for nothing
        self._tell()
        if holding:
            self._hold(self._lingers, *self._holds)
            self._handler.ends = True
            if self._handler.alone:
                self._hold(*self._last_holds, lambda: not self._called)
            if not self._handler.passing:
                self._handler.pass_on()

    def extended(self, seconds: float) -> None:
        """Take note that the master gives so many seconds from now."""
        self._extended = time.monotonic() + seconds

    # -- for servers -----------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """The same as is_set(), for each request: it does not look after the signal."""
        return self._begun is not None

    def watch(self) -> None:
        """See that the signal comes to us first, whoever has handled it since; costs little."""
        self._handler.watch()

    def linger(self, seconds: float = LINGER) -> None:
        """Keep the signal from others, until clients have been told that the connection ends.

        From the signal on, a server answers with ``Connection: close`` (as the middleware does).
        Its own handler, which closes idle connections, gets the signal when none of those that
        moved within so many seconds is left, and after so many seconds at the latest.  Where
        nobody handles it, the process ends then, as sys.exit() does.

        >>> from overseer_py import worker
        >>> worker.draining.linger(1.0)
        """
        self._linger = max(seconds, self._linger or 0.0)
        self._handler.watch()

    def hold(self, over: Callable[[], bool], *, last: bool = False) -> None:
        """Linger also until ``over()`` is true, as long as there is time.

        With ``last`` only the end of the process waits, if there is nobody but us to end it.

        >>> from overseer_py import worker
        >>> uploads = set()
        >>> worker.draining.hold(lambda: not uploads)
        """
        (self._last_holds if last else self._holds).append(over)

    def _lingers(self) -> bool:
        begun, linger = self._begun or 0.0, self._linger or 0.0
        return time.monotonic() - begun >= linger or not traffic.moving(linger)

    def _hold(self, *holds: Callable[[], bool]) -> None:
        reserve = _RESERVE * (_seconds() or 0.0)
        for over in holds:
            while not self._handler.passing and (self.left is None or self.left > reserve):
                spent = time.thread_time()
                if over():
                    break
                time.sleep(max(_LOOK, _REST * (time.thread_time() - spent)))


def _seconds() -> float | None:
    """Return how long a drain may take, as the master says."""
    try:
        return float(os.environ["OVERSEER_DRAIN_SECONDS"])
    except (KeyError, ValueError):
        return None


def _end(future: Future[None]) -> None:
    if not future.done():
        future.set_result(None)


draining = Draining()
