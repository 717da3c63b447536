"""Where a worker binds for itself: what is its generation's, and what it has done about it.

A bind(2) means a socket of the generation if it names its address, or every address of which that
is one (``python -m http.server 8000`` under ``--adopt 127.0.0.1:8000`` is reached there alone).
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field

from overseer_py.address import Kind
from overseer_py.core.messages import WorkerId
from overseer_py.plain import Fd
from overseer_py.recipe import Recipe
from overseer_py.system.listeners import Seat
from overseer_py.system.notifier import Place

_MAPPED = "::ffff:"  # an IPv4 address, as Java binds it
_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
_MOST_NOTED = 8


@dataclass(slots=True)
class Bound:
    """What one worker and its descendants have done about their addresses."""

    worker: WorkerId
    recipe: Recipe
    channel: int  # a socket on which ``trap`` will come; -1 once it has
    trap: int = -1  # where their calls arrive; -1: not yet, or the last process has gone
    listening: set[str] = field(default_factory=set)  # names of listeners
    admitted: dict[int, str] = field(default_factory=dict)  # their sockets (by inode), and where
    elsewhere: list[str] = field(default_factory=list)  # addresses that are none of ours

    @property
    def seats(self) -> list[Seat]:
        """What the generation has of the listeners that it binds for itself."""
        return [seat for seat in self.recipe.seats if seat.adopted and seat.fd >= 0]

    def seat_at(self, place: Place) -> Seat | None:
        """Return the generation's socket that a bind(2) means; None if it is none of ours."""
        exact = (seat for seat in self.seats if is_at(seat, place))
        comprised = (seat for seat in self.seats if _is_part_of(seat, place))
        return next(exact, None) or next(comprised, None)

    def note(self, elsewhere: object) -> None:
        """Remember an address for whoever wonders where the worker listens."""
        if len(self.elsewhere) < _MOST_NOTED:
            self.elsewhere.append(str(elsewhere))

    def missing(self) -> list[str]:
        """Return where the worker does not listen yet, and must."""
        seats = [seat for seat in self.seats if seat.name not in self.listening]
        places = [f"at {seat.listener.address} ({seat.name})" for seat in seats]
        if not places and not self.listening:  # whatever it binds, something it must
            places = [f"at {address}" for address in self.recipe.plan.loose] or ["at any address"]
        if places and self.elsewhere:
            places.append(f"it has bound {', '.join(self.elsewhere)}")
        return places


@dataclass(frozen=True, slots=True)
class KeptBound:
    """The same, for the master's next image; the recipe is with the plans."""

    worker: WorkerId
    channel: Fd
    trap: Fd
    listening: list[str]
    admitted: dict[int, str]
    elsewhere: list[str]

    @classmethod
    def of(cls, bound: Bound) -> KeptBound:
        """Return it as it is to be written down."""
        listening, fds = sorted(bound.listening), (Fd(bound.channel), Fd(bound.trap))
        return cls(bound.worker, *fds, listening, bound.admitted, bound.elsewhere)

    def resumed(self, recipe: Recipe) -> Bound:
        """Return it as it was."""
        fds, listening = (int(self.channel), int(self.trap)), set(self.listening)
        return Bound(self.worker, recipe, *fds, listening, dict(self.admitted), [*self.elsewhere])


def is_at(seat: Seat, place: Place) -> bool:
    """Whether a bind names the very address of a socket."""
    if seat.listener.wanted.kind is Kind.UNIX:
        return place.family == socket.AF_UNIX and is_same(place.host, seat.listener.wanted.path)
    name = seat.socket.getsockname()
    return place.family != socket.AF_UNIX and name[:2] == (plain(place.host), place.port)


def is_same(path: str, other: str) -> bool:
    """Whether two paths are the same, links on the way followed.

    That only if they end alike: to look a path up may take long, and this is asked for each one
    that the program removes.
    """
    (directory, name), (other_directory, other_name) = os.path.split(path), os.path.split(other)
    return name == other_name and os.path.realpath(directory) == os.path.realpath(other_directory)


def _is_part_of(seat: Seat, place: Place) -> bool:
    """Whether a bind asks for every address, and this socket is at one of them."""
    if seat.listener.wanted.kind is Kind.UNIX or place.host not in _ANY:
        return False
    host, port = seat.socket.getsockname()[:2]
    return port == place.port and (place.host == "::" or ":" not in host)


def plain(host: str) -> str:
    """Return a host as it is known: an IPv4 address that is written as one of IPv6, as IPv4."""
    return host.removeprefix(_MAPPED) if "." in host else host
