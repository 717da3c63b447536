"""The connections of an asyncio server, and whether each waits for a request."""

# ruff: noqa: ANN401 - what a stream is asked is passed on as it came

from __future__ import annotations

import asyncio
import inspect
import socket
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

from overseer_py.worker import traffic

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
Factory = Callable[[], asyncio.Protocol]

_LOOK = 0.02  # seconds between two looks
TURNS = 5  # of the loop, from accept() to a protocol: asyncio makes a task, and two callbacks
_RESTING = 1.0  # seconds after which what moves no more has been sent whole


class _Conversation:
    """A connection of which the kernel alone knows what it is doing: a protocol's."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    @property
    def gone(self) -> bool:
        """Whether it is closed, and all is sent."""
        return self.transport.is_closing() and not self.transport.get_write_buffer_size()

    @property
    def idle(self) -> bool:
        """Whether it waits for a request."""
        return not self.moved_within(_RESTING) and not traffic.unanswered(self._socket)

    def moved_within(self, seconds: float) -> bool:
        """Whether something came or went so lately; of a unix socket that is not known."""
        idle_for = traffic.idle_for(self._socket)
        return idle_for is None or idle_for < seconds

    def hang_up(self) -> None:
        """Let the reader see the end of the file, behind whatever has come meanwhile."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def stop(self) -> None:
        """Ask it to end."""
        self.transport.close()

    @property
    def _socket(self) -> Any:
        return self.transport.get_extra_info("socket")


class _Talk(_Conversation):
    """A connection that a coroutine serves with a reader and a writer."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self.reader = _Reader(self)
        self.task: asyncio.Task[Any] | None = None
        self._moved = time.monotonic()
        self._stopped = False  # asyncio complains of tasks that end by being cancelled
        self._reading = False
        self._answered = False
        self._new = True  # its request may be on its way

    @property
    def gone(self) -> bool:
        return super().gone and (self.task is None or self.task.done())

    @property
    def idle(self) -> bool:
        if self._new:
            return not self.moved_within(_RESTING)
        return self._reading and self._answered

    def moved_within(self, seconds: float) -> bool:
        return time.monotonic() - self._moved < seconds

    def stop(self) -> None:
        self._stopped = True
        if self.task:
            self.task.cancel()

    def reads(self) -> None:
        self._reading = True

    def came(self) -> None:
        self._moved, self._reading, self._answered = time.monotonic(), False, False
        self._new = False

    def went(self) -> None:
        self._moved, self._answered = time.monotonic(), True

    async def held(self, answer: Answer, writer: asyncio.StreamWriter) -> None:
        """Let it be served; ``writer`` is asyncio's own, which closes the connection at its end."""
        self.task = asyncio.current_task()
        mine = _Writer(self, writer.transport, self.reader)
        try:
            await answer(self.reader, mine)
        except asyncio.CancelledError:
            if not self._stopped:
                raise
        finally:
            writer.close()


class _Reader(asyncio.StreamReader):
    """Says when more is waited for, and when it comes."""

    def __init__(self, talk: _Talk) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._talk = talk

    def feed_data(self, data: Iterable[Any]) -> None:
        self._talk.came()
        super().feed_data(data)

    async def read(self, n: int = -1) -> bytes:
        self._talk.reads()
        return await super().read(n)

    async def readuntil(self, *arguments: Any, **more: Any) -> bytes:  # and so readline()
        self._talk.reads()
        return await super().readuntil(*arguments, **more)

    async def readexactly(self, n: int) -> bytes:
        self._talk.reads()
        return await super().readexactly(n)


class _Writer(asyncio.StreamWriter):
    """Says when something goes."""

    def __init__(
        self, talk: _Talk, transport: asyncio.WriteTransport, reader: asyncio.StreamReader
    ) -> None:
        protocol: Any = transport.get_protocol()
        super().__init__(transport, protocol, reader, asyncio.get_running_loop())
        self._talk = talk

    def write(self, data: Any) -> None:
        self._talk.went()
        super().write(data)

    def writelines(self, data: Iterable[Any]) -> None:
        self._talk.went()
        super().writelines(data)


class _Doorman(asyncio.Protocol):
    """Meets a new connection, and leaves it to the protocol that serves it."""

    def __init__(self, welcome: Callable[[asyncio.Transport], asyncio.Protocol]) -> None:
        self._welcome = welcome

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        protocol = self._welcome(transport)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class Conversations:
    """All connections of a server."""

    def __init__(self, answer: Answer | Factory) -> None:
        self._answer: Any = answer
        self._streams = inspect.iscoroutinefunction(answer)
        self._all: set[_Conversation] = set()
        self._sweep_at = 64

    def begin(self) -> asyncio.Protocol:
        """Return the protocol for one more connection."""
        return _Doorman(self._talk if self._streams else self._serve)

    def _talk(self, transport: asyncio.Transport) -> asyncio.Protocol:
        talk = _Talk(transport)
        self._add(talk)
        return asyncio.StreamReaderProtocol(
            talk.reader, lambda _, writer: talk.held(self._answer, writer)
        )

    def _serve(self, transport: asyncio.Transport) -> asyncio.Protocol:
        self._add(_Conversation(transport))
        protocol: asyncio.Protocol = self._answer()
        return protocol

    def _add(self, conversation: _Conversation) -> None:
        if len(self._all) >= self._sweep_at:
            self._sweep_at = max(2 * len(self._open()), 64)
        self._all.add(conversation)

    def _open(self) -> set[_Conversation]:
        self._all = {c for c in self._all if not c.gone}
        return self._all

    async def linger(self, seconds: float) -> None:
        """Wait until no client is expected any more that came so lately; so long at most."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(  # noqa: ASYNC110 - the kernel tells nobody
            c.moved_within(seconds) for c in self._open()
        ):
            await asyncio.sleep(_LOOK)

    async def finish(self, stop_timeout: float | None, kill_timeout: float | None) -> int:
        """End idle ones, wait for the others, cancel, cut off; return how many did not end."""
        await self._ended(stop_timeout)
        late = list(self._open())
        for conversation in late:
            conversation.stop()
        if late and kill_timeout is not None:
            await self._ended(kill_timeout - (stop_timeout or 0.0))
        for conversation in self._open():
            conversation.transport.abort()
        return len(late)

    async def _ended(self, seconds: float | None) -> None:
        end = None if seconds is None else time.monotonic() + seconds
        for _ in range(TURNS):  # what the loop has accepted is not known to us at once
            await asyncio.sleep(0)
        while self._open() and (end is None or time.monotonic() < end):
            for conversation in self._open():
                if conversation.idle:
                    conversation.hang_up()
            await asyncio.sleep(_LOOK)
