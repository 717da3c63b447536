"""A source that is read by another user: ``--fetch-user``.

Whatever talks to the network runs in a process of its own that needs to write nowhere: the one file
that it fills is open already when it gets it.  Nothing that it says is believed: how much it writes
and how long it takes are limited from here, and the bytes are verified here.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, BinaryIO

from overseer_py.errors import FetchError, OverseerError
from overseer_py.release import places
from overseer_py.release.candidate import Candidate, Limits, Source
from overseer_py.release.sources import fetcher, interval
from overseer_py.system import libc
from overseer_py.system.identity import identity_of
from overseer_py.system.launch import Identity, change_identity

_LONGEST_LINE = 1 << 16  # bytes
_START = 10.0  # seconds that a start may take, on top of what a look or a download may


class Reader:
    """The source of a URL, read by a user; each look begins with a fresh process."""

    def __init__(self, url: str, limits: Limits, user: str) -> None:
        self.interval = interval(url)
        self._url, self._limits = url, limits
        self._identity = identity_of(user, "")
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def look(self, known: Mapping[str, str]) -> Candidate | None:
        """Return what is there, as the source says."""
        self.close()
        self._start()
        found = self._ask({"look": dict(known)}, self._limits.look)
        return None if found is None else _candidate(found)

    def download(self, candidate: Candidate, into: BinaryIO) -> None:
        """Have the bytes written."""
        try:
            self._ask({"download": asdict(candidate)}, self._limits.download, into.fileno())
            if os.fstat(into.fileno()).st_size > self._limits.size:
                raise FetchError(f"{candidate.name}: more than {self._limits.size} bytes")
        finally:
            self.close()

    def close(self) -> None:
        """End the process."""
        if self._connection:
            self._connection.close()
        if self._process:
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._connection = ours
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "overseer_py.release.reader", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=[theirs.fileno()],
                umask=0o077,
                cwd="/",
            )
        most = self._limits.size + 1
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (most, most))
        said = {"url": self._url, "limits": asdict(self._limits), "identity": self._identity}
        ours.sendall(json.dumps(said).encode() + b"\n")

    def _ask(self, what: Mapping[str, object], seconds: float, *fds: int) -> Any:  # noqa: ANN401
        """Return what it answers; raise FetchError with what it says otherwise."""
        assert self._connection
        self._connection.settimeout(seconds + _START)
        try:
            socket.send_fds(self._connection, [json.dumps(what).encode() + b"\n"], fds)
            said = b""
            while not said.endswith(b"\n") and len(said) < _LONGEST_LINE:
                if not (data := self._connection.recv(_LONGEST_LINE)):
                    raise FetchError("the process that reads the source has died")
                said += data
            answer = json.loads(said)
            if error := answer.get("error"):
                retry_after = answer.get("retry_after")
                raise FetchError(str(error), float(retry_after) if retry_after else None)
            return answer["result"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self.close()
            raise FetchError(f"the process that reads the source: {error}") from error


def main() -> None:
    """Be that process: read a source for whoever is at the other end."""
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        lines = connection.makefile("rb", buffering=0)
        begin = json.loads(lines.readline())
        source: Source | OverseerError
        try:
            source = _opened_as(begin)
        except (OverseerError, ValueError) as error:  # the latter of a plug-in
            source = OverseerError(str(error))  # it is the answer to whatever is asked
        while True:
            data, fds, _, _ = socket.recv_fds(connection, _LONGEST_LINE, 1)
            if not data:
                return
            answer = _answer(source, json.loads(data), fds)
            connection.sendall(json.dumps(answer).encode() + b"\n")


def _opened_as(begin: dict[str, Any]) -> Source:
    """Become the user, and open the source.

    What it needs is loaded before: the user need not be able to read it.  What a plug-in does, it
    does as that user.
    """
    url = begin["url"]
    open_it = partial(fetcher(url), url, Limits(**begin["limits"]), os.environ)
    source = open_it() if url.partition(":")[0] in places.CHECKS else None
    "localhost".encode("idna")  # loads what every look-up of a name needs
    if begin["identity"]:
        change_identity(Identity(*begin["identity"]))
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    return source or open_it()


def _answer(
    source: Source | OverseerError, asked: dict[str, Any], fds: list[int]
) -> dict[str, Any]:
    try:
        if isinstance(source, OverseerError):
            raise source
        if "look" in asked:
            found = source.look(asked["look"])
            return {"result": None if found is None else asdict(found)}
        with open(fds[0], "wb") as into:
            source.download(Candidate(**asked["download"]), into)
    except FetchError as error:
        return {"error": str(error), "retry_after": error.retry_after}
    except (OverseerError, OSError) as error:
        return {"error": str(error)}
    return {"result": True}


def _candidate(said: dict[str, Any]) -> Candidate:
    """Return a candidate made of what a stranger said, each field of its kind."""
    published, size = said["published"], said["size"]
    return Candidate(
        name=os.path.basename(str(said["name"])) or "release",
        place=str(said["place"]),
        version=str(said["version"]),
        published=None if published is None else float(published),
        size=None if size is None else int(size),
        known={str(key): str(value) for key, value in said["known"].items()},
    )


if __name__ == "__main__":
    main()
