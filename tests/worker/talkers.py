"""WebSocket clients: each says something, hears it, and then waits for the end."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Message,
    Request,
    TextMessage,
)

PATIENCE = 60.0


class Talker:
    """One client."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events = self._heard()
        self._say(Request(host="localhost", target="/"))
        assert isinstance(next(self._events), AcceptConnection)

    def echo(self, text: str) -> str:
        """Say something; return what is heard."""
        self._say(Message(data=text))
        answer = next(self._events)
        assert isinstance(answer, TextMessage)
        return answer.data

    def closed(self) -> tuple[int, float]:
        """Wait for the end; return its code, and when it came."""
        event = next(self._events)
        assert isinstance(event, CloseConnection), event
        when = time.monotonic()
        self._say(event.response())
        self._socket.close()
        return event.code, when

    def _say(self, event: Event) -> None:
        self._socket.sendall(self._protocol.send(event))

    def _heard(self) -> Iterator[Event]:
        while True:
            yield from self._protocol.events()
            data = self._socket.recv(65536)
            self._protocol.receive_data(data or None)
