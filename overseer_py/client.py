"""Talk to running masters, by their control sockets.  For scripts, and for the commands."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from overseer_py.errors import NoInstanceError, RequestError

PATIENCE = 10.0  # seconds for an answer that needs no waiting

Document = dict[str, Any]


class Client:
    """A connection to one master."""

    def __init__(self, path: Path | str) -> None:
        """Connect to this control socket; raise NoInstanceError if no master is there."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(PATIENCE)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise NoInstanceError(f"{path}: no overseer there: {error.strerror}") from error
        self._lines = self._socket.makefile("rb")

    def status(self) -> Document:
        """Return the state of the service; what the fields mean is in README.md."""
        return self.ask("status")

    def ask(self, method: str, **params: object) -> Document:
        """Send a request and return its result; raise RequestError with what the master says."""
        line = json.dumps({"method": method, **params})
        try:
            self._socket.sendall(line.encode() + b"\n")
            answer: Mapping[str, Any] = json.loads(self._lines.readline() or b"null") or {}
        except (OSError, ValueError) as error:
            raise RequestError(f"{method}: no answer: {error}") from error
        if "result" not in answer:
            said = answer.get("error", {}).get("message", "the master is gone")
            raise RequestError(f"{method}: {said}")
        result: Document = answer["result"]
        return result

    def close(self) -> None:
        """End the connection."""
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()


def instances(environ: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """Return the control sockets of this user's instances, by name.  A dead one may be among them.

    Units of systemd have a directory of their own below the one of all.
    """
    found: dict[str, Path] = {}
    for directory in filter(_is_private, _directories(environ)):
        for path in sorted((*directory.glob("*.sock"), *directory.glob("*/*.sock"))):
            if path.is_socket():
                found.setdefault(path.stem, path)
    return found


def find(name: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the control socket of an instance; raise NoInstanceError with those that there are.

    A name with a slash is the path itself, as given with ``--control``.
    """
    if "/" in name:
        return Path(name)
    known = instances(environ)
    if name in known:
        return known[name]
    there = ", ".join(known) or "none"
    raise NoInstanceError(f"no overseer named {name!r} runs here (there is: {there})")


def _is_private(directory: Path) -> bool:
    """Whether nobody else can have put a socket there: its answers would be believed."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    return found.st_uid in (0, os.geteuid()) and not found.st_mode & 0o022


def _directories(environ: Mapping[str, str]) -> Iterator[Path]:
    if given := environ.get("RUNTIME_DIRECTORY"):
        yield Path(given.split(":")[0])
    if given := environ.get("XDG_RUNTIME_DIR"):
        yield Path(given) / "overseer"
    if os.geteuid() == 0:
        yield Path("/run/overseer")
    yield Path(f"/tmp/overseer-{os.geteuid()}")  # noqa: S108 - owner and mode are checked
