"""What a worker inherits: sockets at fds 3, 4, … and the variables that describe them.

Pure: mappings in, values out.  sd_listen_fds(3) is the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

FIRST_FD = 3  # SD_LISTEN_FDS_START

PLACEHOLDER = re.compile(r"\{(fd|addr|port)(?::([A-Za-z0-9_.-]+))?\}")

# What the master sets for its workers.
WORKER_VARIABLES = (
    "OVERSEER_PID",
    "OVERSEER_INSTANCE",
    "OVERSEER_NUM_FDS",
    "OVERSEER_GENERATION",
    "OVERSEER_SLOT",
    "OVERSEER_RELEASE",
    "OVERSEER_READY_FD",
    "OVERSEER_DRAIN_SECONDS",
    "OVERSEER_DRAIN_SIG",
    "OVERSEER_WORKER_PID",
)

# The master's own: a worker that could speak to systemd could take the unit's MAINPID.
MASTERS_OWN = (
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "FDSTORE",
)


class Inherited(NamedTuple):
    """One listener as a worker sees it."""

    name: str
    address: str  # HOST:PORT, or the path of a unix socket
    port: int | None  # the real one; None for a unix socket


def scrub(environ: Mapping[str, str], own: Iterable[str] = ()) -> dict[str, str]:
    """Return the environment that the workers share: the master's less what is its own."""
    hidden = {*MASTERS_OWN, *WORKER_VARIABLES, *own}
    return {name: value for name, value in environ.items() if name not in hidden}


def describe(listeners: Sequence[Inherited]) -> dict[str, str]:
    """Return the variables of the systemd dialect, less LISTEN_PID: only the worker knows it."""
    count = str(len(listeners))
    if not listeners:
        return {"OVERSEER_NUM_FDS": count}
    names = ":".join(listener.name for listener in listeners)
    return {"LISTEN_FDS": count, "LISTEN_FDNAMES": names, "OVERSEER_NUM_FDS": count}


def fill_in(command: Sequence[str], listeners: Sequence[Inherited]) -> list[str]:
    """Replace ``{fd}``, ``{fd:NAME}``, ``{addr:NAME}`` and ``{port:NAME}``; other braces stay.

    Raises KeyError with the placeholder for a listener that is not there.
    """
    places = {listener.name: index for index, listener in enumerate(listeners)}

    def value(match: re.Match[str]) -> str:
        what, name = match[1], match[2]
        if what != "fd" and name is None:
            return match[0]
        index = 0 if name is None else places.get(name, len(listeners))
        if index >= len(listeners):
            raise KeyError(match[0])
        listener = listeners[index]
        if what == "port" and listener.port is None:
            raise KeyError(match[0])
        return {"fd": str(FIRST_FD + index), "addr": listener.address, "port": str(listener.port)}[
            what
        ]

    return [PLACEHOLDER.sub(value, word) for word in command]
