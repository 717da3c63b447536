"""The descriptors that systemd starts the master with.  sd_listen_fds(3).

Those of ``.socket`` units come first; behind them those from the file descriptor store
(fdstore.py), which are told by their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from overseer_py.handover import FIRST_FD

_STORED = re.compile(r"overseer-(\d{1,9})-(.+)")


class Received(NamedTuple):
    """One descriptor, and the name that it was handed over by; empty if it has none."""

    fd: int
    name: str

    @property
    def number(self) -> int | None:
        """The number by which it was stored; None if it does not come from the store."""
        found = _STORED.fullmatch(self.name)
        return int(found[1]) if found else None

    @property
    def listener(self) -> str:
        """The name of the listener that it was stored for."""
        found = _STORED.fullmatch(self.name)
        return found[2] if found else ""


def name_in_store(number: int, listener: str) -> str:
    """Return what a descriptor is stored as."""
    return f"overseer-{number}-{listener}"


def received(environ: Mapping[str, str], pid: int) -> list[Received]:
    """Return the descriptors; none if they are not meant for this process."""
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(pid) or not count.isdecimal():
        return []
    names = environ.get("LISTEN_FDNAMES", "").split(":") + [""] * int(count)
    return [Received(FIRST_FD + index, names[index]) for index in range(int(count))]
