"""What to do about a worker that failed for a reason that is known: its address is in use.

A program that binds for itself is told so when its own master has bound the address, or the old
generation.  The program's last words say that; the kernel says who it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress

from overseer_py.system import procfs, sockdiag
from overseer_py.system.listeners import Seat

_IN_USE = re.compile(r"(?i)(address|connection|port) (is )?(already )?in use|EADDRINUSE")
_NUMBER = re.compile(r"\d{2,5}")
_ITS_OWN_NUMBER = 98  # EADDRINUSE, in "[Errno 98]"


def about(last_lines: Iterable[str], seats: Sequence[Seat], others: Sequence[int]) -> str:
    """Return what to do, in brackets; empty if nothing is known.

    ``seats`` are what the worker has inherited, ``others`` the processes of other workers.
    """
    said = [line for line in last_lines if _IN_USE.search(line)]
    if not said:
        return ""
    numbers = {int(n) for line in said for n in _NUMBER.findall(line)} - {_ITS_OWN_NUMBER}
    for seat in seats:
        if seat.listener.port and _is_meant(seat.listener.port, numbers):
            where = seat.listener.address
            why = f"{where} is its own master's: hand it the socket with {{fd}}, or write"
            return f" ({why} --adopt {where} in the place of --listen)"
    for port in sorted(_listened_on(others)):
        if _is_meant(port, numbers):
            why = f"port {port} is another worker's: let the master have it, with --listen and"
            return f" ({why} {{fd}}, or with --adopt auto if the program binds for itself)"
    return ""


def _is_meant(port: int, numbers: set[int]) -> bool:
    """Whether the program spoke of this port, or named none."""
    return port in numbers or not numbers


def _listened_on(pids: Iterable[int]) -> set[int]:
    with suppress(OSError):
        return sockdiag.listening_ports({inode for pid in pids for inode in procfs.sockets(pid)})
    return set()
