"""The sockets at one address, and which of them gets all that is new.

Each address has a group, of one of three kinds:

* ``Steered`` (steering.py): TCP and UDP, one socket a generation, chosen by a program.
* ``Renamed`` (unix.py): one a generation, bound beside the path and renamed over it.
* ``Shared``: one socket for all, where neither can be had.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from overseer_py.address import Address
from overseer_py.plain import Fd
from overseer_py.system import sockdiag

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to connect, not to bind


@dataclass(slots=True)
class Entrance:
    """How to reach one member of a group, past the program: connected from these sockets.

    ``place`` is what to connect to.  The sockets are not connected yet; each is good for once.
    """

    family: int
    place: str | tuple[str | int, ...]
    sockets: Sequence[socket.socket] = ()
    doors: Sequence[tuple[str, int]] = ()  # where they are bound

    def hand_over(self) -> None:
        """Close the sockets here: a child has them, and the way stays open for it."""
        for each in self.sockets:
            each.close()


@dataclass(frozen=True, slots=True)
class KeptGroup:
    """The sockets at one address, for the master's next image."""

    kind: str  # steered, renamed or shared
    live: Fd
    obstacle: str = ""
    adopted: bool = False  # shared: the one; steered: the first of the members
    members: list[Fd] = field(default_factory=list)
    order: list[int] = field(default_factory=list)  # steered: the kernel's, by inode
    spares: list[Fd] = field(default_factory=list)
    share: tuple[Fd, int] | None = None  # steered: who is being tried, and how much
    address: Address | None = None  # renamed
    inode: tuple[int, int] | None = None  # renamed: of the path, while it is ours
    beside: list[tuple[Fd, str]] = field(default_factory=list)  # renamed: who has which other path


class Group(Protocol):
    """The sockets at one address.  ``live`` is the one that gets what is new."""

    live: socket.socket
    obstacle: str  # why there can be no second one; empty if there can

    def join(self, label: str, backlog: int) -> socket.socket:
        """Return one more socket at the address; it gets nothing yet.  Raises ListenerError."""

    def cut_over(self, member: socket.socket) -> None:
        """Let all that is new go to this member."""

    def divert(self, member: socket.socket, percent: int) -> None:
        """Let a share of what is new go to this member."""

    def leave(self, member: socket.socket) -> None:
        """Close a member that is not live; what waits in its queue is lost."""

    def open_entrance(self, member: socket.socket, count: int) -> Entrance:
        """Open a way by which this very member is reached, ``count`` times."""

    def close_entrance(self, entrance: Entrance) -> None:
        """Close it, and its sockets."""

    def settle(self) -> None:
        """Account for sockets that have come or gone by themselves."""

    def strangers(self) -> set[int]:
        """Return the inodes of sockets at the address that are not the group's."""

    def is_adopted(self, member: socket.socket) -> bool:
        """Whether the member is one that was handed over: it is another's, too."""

    def park(self) -> None:
        """Let what is new wait with whoever handed the socket over, if anybody did."""

    def bequeath(self) -> None:
        """Leave what the live socket, which outlives us, needs to be reached."""

    def close(self) -> None:
        """Close every member but one that was handed over: nobody could open it anew."""

    def kept(self) -> KeptGroup:
        """Return what the master's next image must know."""

    def find(self, fd: int) -> socket.socket:
        """Return the member with this descriptor."""


@dataclass(slots=True, eq=False)
class Shared:
    """One socket for all generations."""

    live: socket.socket
    obstacle: str
    adopted: bool = False

    def join(self, label: str, backlog: int) -> socket.socket:
        """Return the one there is."""
        return self.live

    def cut_over(self, member: socket.socket) -> None:
        """Nothing: both get what is new."""

    def divert(self, member: socket.socket, percent: int) -> None:
        """Nothing: both get what is new."""

    def leave(self, member: socket.socket) -> None:
        """Nothing: the others need it."""

    def open_entrance(self, member: socket.socket, count: int) -> Entrance:
        """Return the address: who accepts there is chance."""
        return Entrance(*way_to(member))

    def close_entrance(self, entrance: Entrance) -> None:
        """Nothing was opened."""

    def settle(self) -> None:
        """Nothing can have changed."""

    def strangers(self) -> set[int]:
        """Return none: nobody else can be at the address."""
        return set()

    def is_adopted(self, member: socket.socket) -> bool:
        """Whether the one there is was handed over."""
        return self.adopted

    def park(self) -> None:
        """Nothing: it waits there anyway."""

    def bequeath(self) -> None:
        """Nothing: it is reached by its address."""

    def close(self) -> None:
        """Close the one there is, unless it was handed over."""
        if not self.adopted:
            self.live.close()

    def kept(self) -> KeptGroup:
        """Return what the master's next image must know."""
        return KeptGroup("shared", Fd(self.live.fileno()), self.obstacle, self.adopted)

    def find(self, fd: int) -> socket.socket:
        """Return the one there is."""
        return self.live


def way_to(member: socket.socket) -> tuple[int, str | tuple[str | int, ...]]:
    """Return the family and the address by which this machine reaches a socket.

    A wildcard's is loopback; IPv4's, if it takes both: IPv6 can be disabled, and yet bound.
    """
    name = member.getsockname()
    if member.family == socket.AF_UNIX:
        return member.family, str(name)
    if name[0] == "::" and not sockdiag.is_only_ipv6(member):
        return socket.AF_INET, ("127.0.0.1", name[1])
    return member.family, (_LOOPBACK.get(name[0], name[0]), *name[1:])
