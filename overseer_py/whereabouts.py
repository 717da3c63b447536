"""Where running masters can be talked to: by name, by pid, or the only one there is.

Answers of a control socket are believed, so one is looked for only where nobody else can have put
it: in directories of this user's or of root's.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from overseer_py.errors import NoInstanceError, SeveralInstancesError

_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid; of who listens, unix(7)
_TIMEVAL = struct.Struct("@ll")  # struct timeval
_LISTENING = "00010000"  # flags in /proc/net/unix


def find(name: str | None = None, pid: int | None = None) -> Path:
    """Return the control socket of an instance: of that name, of that master, or of the only one.

    A name with a slash is the path itself, as given with ``--control``.  Raises NoInstanceError, or
    SeveralInstancesError if it is not clear which one is meant.
    """
    if pid is not None:
        return _by_pid(pid)
    if name is None:
        return _only()
    return Path(name) if "/" in name else _by_name(name)


def instances(environ: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """Return the control sockets of this user's instances, by name.  A dead one may be among them.

    Units of systemd have a directory of their own below the one of all.
    """
    found: dict[str, Path] = {}
    for directory in filter(_is_private, _directories(environ)):
        for path in sorted((*directory.glob("*.sock"), *directory.glob("*/*.sock"))):
            # A service's own listener may lie there, too; only an instance has a lock.
            if path.is_socket() and path.with_suffix(".lock").exists():
                found.setdefault(path.stem, path)
    return found


def connected(path: Path, patience: int) -> socket.socket:
    """Return a connection, which waits so many seconds for room in the queue; raises OSError.

    Not by ``settimeout``: connect(2) on a non-blocking unix socket fails at once if that is full.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(patience, 0))
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def listener_of(connection: socket.socket) -> int:
    """Return the pid of the master at the other end; 0 if it is in another PID namespace."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[0])


def _by_name(name: str) -> Path:
    known = instances()
    if name in known:
        return known[name]
    there = ", ".join(known) or "none"
    raise NoInstanceError(f"no overseer named {name!r} runs here (there is: {there})")


def _only() -> Path:
    running = {name: path for name, path in instances().items() if _pid_at(path) is not None}
    if len(running) > 1:
        raise SeveralInstancesError(f"which one? NAME is one of: {', '.join(running)}")
    for path in running.values():
        return path
    raise NoInstanceError("no overseer of this user runs here")


def _by_pid(pid: int) -> Path:
    for path in (*instances().values(), *_sockets_of(pid)):
        if _pid_at(path) == pid:
            return path
    raise NoInstanceError(f"no overseer with pid {pid} runs here, or it runs with --control none")


def _sockets_of(pid: int) -> Iterator[Path]:
    """Yield the control socket that a master has elsewhere: the lock beside it names the master.

    As the master sees it: it may have a root, a mount or a network namespace of its own.
    """
    held: set[str] = set()
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                held.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    try:
        lines = Path(f"/proc/{pid}/net/unix").read_text(errors="surrogateescape").splitlines()[1:]
    except OSError:
        return
    for line in lines:
        _, _, _, flags, _, _, inode, *path = line.split(None, 7)
        if flags == _LISTENING and path and f"socket:[{inode}]" in held:
            there = Path(f"/proc/{pid}/root{path[0]}")
            with suppress(OSError):
                if there.with_name(f"{there.stem}.lock").read_text().split()[:1] == [str(pid)]:
                    yield there


def _pid_at(path: Path) -> int | None:
    """Return the pid of whoever listens there; None if nobody does."""
    try:
        with connected(path, 1) as connection:
            return listener_of(connection)
    except OSError:
        return None


def _is_private(directory: Path) -> bool:
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
