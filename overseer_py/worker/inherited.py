"""The listening sockets that a worker was started with.  sd_listen_fds(3)."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator, Mapping

_FIRST = 3  # SD_LISTEN_FDS_START
_found: Listeners | None = None


class Listeners:
    """The sockets at fd 3, 4, …, by index and by name, in their order.

    >>> from overseer_py import worker
    >>> [listener.getsockname() for listener in worker.listeners()]  # without a master: none
    []
    """

    def __init__(self, sockets: list[socket.socket], names: list[str]) -> None:
        self.names = names
        self._sockets = sockets

    def __len__(self) -> int:
        return len(self._sockets)

    def __iter__(self) -> Iterator[socket.socket]:
        return iter(self._sockets)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, which: int | str) -> socket.socket:
        if isinstance(which, str):
            if which not in self.names:
                have = ", ".join(self.names) or "none; see --listen NAME=ADDRESS"
                raise KeyError(f"no listener {which!r} (there is: {have})")
            which = self.names.index(which)
        if which >= len(self):
            raise IndexError(f"no listener {which}: there are {len(self)}; see --listen")
        return self._sockets[which]

    def __repr__(self) -> str:
        return f"<Listeners {', '.join(self.names) or '(none)'}>"


def listeners() -> Listeners:
    """Return the sockets that this worker was given; the same objects each time.

    They are closed when the program that they are given to is executed in another's place
    (close-on-exec), blocking or not as they came.  Behind a wrapper such as ``sh -c`` or ``uv
    run``, whose pid is in LISTEN_PID, they are found all the same.  With systemd in the master's
    place it is systemd's sockets.

    >>> from overseer_py import worker
    >>> if "admin" in worker.listeners():
    ...     admin = worker.listeners()["admin"]
    >>> len(worker.listeners())
    0
    """
    global _found  # noqa: PLW0603 - a descriptor has one owner in a process
    if _found is None:
        _found = _take(os.environ)
    return _found


def _take(environ: Mapping[str, str]) -> Listeners:
    count = _count(environ)
    names = environ.get("LISTEN_FDNAMES", "").split(":") if count else []
    names += ["unknown"] * (count - len(names))  # as sd_listen_fds_with_names(3) calls them
    sockets = []
    for fd in range(_FIRST, _FIRST + count):
        os.set_inheritable(fd, False)
        sockets.append(socket.socket(fileno=fd))
    return Listeners(sockets, names[:count])


def _count(environ: Mapping[str, str]) -> int:
    """Return how many sockets are ours: LISTEN_PID says so, or the master is an ancestor."""
    if environ.get("LISTEN_PID") == str(os.getpid()):
        return _number(environ.get("LISTEN_FDS"))
    count, master = _number(environ.get("OVERSEER_NUM_FDS")), _number(environ.get("OVERSEER_PID"))
    if not count or master not in _ancestors():
        return 0
    # A wrapper may have closed them (npm does), and the numbers are other files' by now.
    return count if all(_is_socket(fd) for fd in range(_FIRST, _FIRST + count)) else 0


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def _is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False


def _ancestors() -> Iterator[int]:
    pid = os.getppid()
    while pid > 0:
        yield pid
        try:
            with open(f"/proc/{pid}/stat", "rb") as facts:  # proc(5): pid (comm) state ppid …
                pid = int(facts.read().rpartition(b")")[2].split()[1])
        except OSError:
            return
