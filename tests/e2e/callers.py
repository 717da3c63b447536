"""One connection to a control socket, line by line: what a client says, and what it is told."""

from __future__ import annotations

import json
import select
import socket
from pathlib import Path
from typing import Any, Self

from tests.master import PATIENCE

Document = dict[str, Any]


class Caller:
    """A client that does as the test wants, and not as it should."""

    def __init__(self, path: Path) -> None:
        """Connect."""
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.socket.settimeout(PATIENCE)
        self._lines = self.socket.makefile("rb")

    def say(self, method: object, **params: object) -> Self:
        """Send a request."""
        self.socket.sendall(json.dumps({"method": method, **params}).encode() + b"\n")
        return self

    def shut(self) -> None:
        """Say that nothing more will be said."""
        self.socket.shutdown(socket.SHUT_WR)

    def hear(self) -> Document:
        """Return the next line; empty when the master has let go of the connection."""
        try:
            line = self._lines.readline()
        except ConnectionResetError:  # with something of ours unread
            return {}
        heard: Document = json.loads(line) if line.endswith(b"\n") else {}
        return heard

    def answer(self) -> Document:
        """Return the next line that is no news: the result, or the error."""
        while (heard := self.hear()) and not heard.keys() & {"result", "error"}:
            pass
        return heard

    def code(self) -> str:
        """Return the code of the error that answers."""
        error = self.answer()["error"]
        assert error.keys() == {"code", "message"}
        assert error["message"]
        return str(error["code"])

    @property
    def told(self) -> bool:
        """Whether there is a line to hear."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def dismissed(self, patience: float = PATIENCE) -> bool:
        """Wait until the master has let go of the connection; nothing is read for that."""
        poll = select.poll()
        poll.register(self.socket, 0)  # POLLHUP is reported always, poll(2)
        return bool(poll.poll(patience * 1000))

    def close(self) -> None:
        """Go."""
        self._lines.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
