"""A group of TCP or UDP sockets at one address, and the program that says which gets what is new.

It is an SO_REUSEPORT group (socket(7)), whose program (bpf.py) returns an index.  The kernel's
order, which the indexes count, is the order of listen(2), for UDP of bind(2); when one leaves, the
last one takes its place.  An index that is out of range falls back to a hash over all.  So:

* a program is there before the group has a second socket;
* the order is kept by the sockets' inodes, compared with the kernel's own list, and proved for
  each newcomer;
* where there are more than the live one and one other, it is not the last one: a *spare*, which
  is deaf, stands behind it, so that a departure moves the spare and not what clients are led to.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from overseer_py.errors import ListenerError
from overseer_py.plain import Fd
from overseer_py.system import bpf, options, sockdiag
from overseer_py.system.bpf import Door
from overseer_py.system.group import Entrance, KeptGroup, way_to
from overseer_py.system.handshake import bound_beside, greet, is_ready, take_one

_COPIED = (
    (socket.SOL_SOCKET, socket.SO_REUSEADDR),
    (socket.SOL_SOCKET, socket.SO_RCVBUF),
    (socket.SOL_SOCKET, socket.SO_SNDBUF),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    (socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT),
    (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY),
)


@dataclass(slots=True, eq=False)
class Steered:
    """An SO_REUSEPORT group."""

    live: socket.socket
    obstacle: str = ""
    adopted: socket.socket | None = None
    _order: list[int] = field(default_factory=list)  # the kernel's, by inode
    _members: dict[int, socket.socket] = field(default_factory=dict)  # by inode
    _spares: list[socket.socket] = field(default_factory=list)
    _share: tuple[socket.socket, int] | None = None
    _doors: dict[tuple[str, int], socket.socket] = field(default_factory=dict)

    def __post_init__(self) -> None:
        inode = _inode(self.live)
        self._order, self._members = [inode], {inode: self.live}

    def join(self, label: str, backlog: int) -> socket.socket:
        """Bind one more socket; prove that the program reaches it, and that nobody else does."""
        try:
            self.settle()
            member = self._spares.pop(0) if self._spares else self._add(deaf=False)
            self._enter(member, backlog)
        except OSError as error:
            why = f"{error.strerror or error}; --handover shared does without a second socket"
            raise ListenerError(f"listen {_shown(self.live)}: cannot be joined: {why}") from error
        return member

    def admit(self, sock: socket.socket) -> None:
        """Bind a socket that a program has made, for it; raise OSError."""
        bpf.allow_others(sock)
        sock.bind(self.live.getsockname())
        self._members[_inode(sock)] = sock

    def enter(self, inode: int, backlog: int) -> socket.socket:
        """Let one that was admitted listen: from then on it is as one that has joined."""
        member = self._members[inode]
        try:
            self.settle()
            self._enter(member, backlog)
        except OSError as error:
            why = f"the program's own socket cannot be joined: {error.strerror or error}"
            raise ListenerError(f"listen {_shown(self.live)}: {why}") from error
        return member

    def dismiss(self, inode: int) -> None:
        """Forget one that was admitted, and never listened."""
        if member := self._members.get(inode):
            self.leave(member)

    def _enter(self, member: socket.socket, backlog: int) -> None:
        try:
            bpf.undeafen(member)
            if member.type == socket.SOCK_STREAM:
                member.listen(backlog)
            self.settle()
            self._prove(member)
        except OSError:
            self.leave(member)
            raise

    def cut_over(self, member: socket.socket) -> None:
        """Let all that is new go to this member: one setsockopt(2), atomic."""
        self.live, self._share = member, None
        self._steer()  # first: to look at the kernel's list takes a descriptor
        self.settle()

    def divert(self, member: socket.socket, percent: int) -> None:
        """Let the program draw lots for each new connection."""
        self._share = member, percent
        self._steer()
        self.settle()

    def leave(self, member: socket.socket) -> None:
        """Shut the member down, so that it is out even if a stray process still holds it."""
        if member is self.adopted:  # it is still another's, too
            return
        self._members = {inode: m for inode, m in self._members.items() if m is not member}
        self._doors = {door: to for door, to in self._doors.items() if to is not member}
        if self._share and self._share[0] is member:
            self._share = None
        with suppress(OSError):
            member.shutdown(socket.SHUT_RDWR)
        member.close()
        self.settle()

    def open_entrance(self, member: socket.socket, count: int) -> Entrance:
        """Bind so many source ports at the address, and have them led to the member."""
        with ExitStack() as undo:
            undo.callback(setattr, self, "_doors", self._doors)
            clients = [undo.enter_context(bound_beside(member)) for _ in range(count)]
            doors = [client.getsockname()[:2] for client in clients]
            self._doors = self._doors | dict.fromkeys(doors, member)
            self.settle()
            undo.pop_all()
        return Entrance(*way_to(member), clients, doors)

    def close_entrance(self, entrance: Entrance) -> None:
        """Let the ports be as any other."""
        for door in entrance.doors:
            self._doors.pop(door, None)
        entrance.hand_over()
        self.settle()

    def settle(self) -> None:
        """Bring the order up to date with the kernel's list, and the program with the order."""
        if self.live.fileno() < 0:
            return
        there = sorted(sockdiag.same_place(self.live), key=self._members.__contains__)
        for inode in [inode for inode in self._order if inode not in there]:
            self._order[self._order.index(inode)] = self._order[-1]  # as the kernel does it
            self._order.pop()
        self._order += [inode for inode in there if inode not in self._order]  # ours come last
        if self._members.keys() & set(self._order):
            self._steer()
            self._stand_behind()

    def strangers(self) -> set[int]:
        """Return those that are not ours at the address, or at one that it comprises.

        In the group they are never chosen; but one that is bound more narrowly comes before it.
        """
        return sockdiag.overlapping(self.live) - self._members.keys()

    def is_adopted(self, member: socket.socket) -> bool:
        """Whether the member is the one that was handed over."""
        return member is self.adopted

    def park(self) -> None:
        """Let what is new wait in the socket that was handed over: it outlives us."""
        if self.adopted:
            self.cut_over(self.adopted)

    def bequeath(self) -> None:
        """Nothing: it is reached by its address."""

    def close(self) -> None:
        """Close every member but one that was handed over."""
        self.park()
        self._spares.clear()
        for inode, member in list(self._members.items()):
            if member is not self.adopted:
                del self._members[inode]
                member.close()

    def kept(self) -> KeptGroup:
        """Return what the master's next image must know; the doors of the day are not."""
        first = [self.adopted] if self.adopted else []
        members = first + [m for m in self._members.values() if m is not self.adopted]
        share = (_fd(self._share[0]), self._share[1]) if self._share else None
        return KeptGroup(
            "steered",
            _fd(self.live),
            adopted=self.adopted is not None,
            members=[_fd(member) for member in members],
            order=list(self._order),
            spares=[_fd(spare) for spare in self._spares],
            share=share,
        )

    @classmethod
    def resumed(cls, kept: KeptGroup) -> Steered:
        """Return the group of an earlier image: the kernel has its program already."""
        members = {int(fd): socket.socket(fileno=int(fd)) for fd in kept.members}
        first = next(iter(members.values()))
        group = cls(members[kept.live], adopted=first if kept.adopted else None)
        group._order = list(kept.order)
        group._members = {_inode(member): member for member in members.values()}
        group._spares = [members[spare] for spare in kept.spares]
        group._share = (members[kept.share[0]], kept.share[1]) if kept.share else None
        return group

    def find(self, fd: int) -> socket.socket:
        """Return the member with this descriptor."""
        return next(member for member in self._members.values() if member.fileno() == fd)

    def _steer(self) -> None:
        """Attach the program for the present order.

        The sockets that are in no order (one was shut down by a worker) are reached by nothing.
        """
        places = {m: self._order.index(i) for i, m in self._members.items() if i in self._order}
        live = places.get(self.live, min(places.values()))
        doors = [Door(*door, places[to]) for door, to in self._doors.items() if to in places]
        share = None
        if self._share and self._share[0] in places:
            share = places[self._share[0]], self._share[1]
        bpf.steer(next(iter(places)), bpf.choose(live, doors, share))

    def _prove(self, member: socket.socket) -> None:
        """Send one packet through a door to the newcomer; raise OSError if it goes elsewhere.

        Nobody serves it yet, so what arrives in its queue came by the door.
        """
        entrance = self.open_entrance(member, 1)
        (client,) = entrance.sockets
        try:
            if not greet(client, entrance):
                return  # a firewall, or no loopback: nothing to be learnt
            if not is_ready(member, select.POLLIN):
                raise OSError("the kernel does not steer to it")
            take_one(member)
        finally:
            self.close_entrance(entrance)

    def _stand_behind(self) -> None:
        """Have a spare behind the live one where others may leave; drop it where none can."""
        spares = {_inode(spare): spare for spare in self._spares}
        *before, last = self._order
        others = set(self._order) - spares.keys() - {_inode(self.live)}
        if others and len(before) > 1 and last == _inode(self.live):
            with suppress(OSError):  # without one it is as it would be without spares
                self._spares.append(self._add(deaf=True))
                self.settle()
        elif not others and (last in spares or len(before) == 1):
            # The last one moves nothing, and the live one alone is reached by any index.
            spare = spares[last if last in spares else before[0]]
            self._spares.remove(spare)
            self.leave(spare)

    def _add(self, *, deaf: bool) -> socket.socket:
        if self.live.type == socket.SOCK_DGRAM and sockdiag.has_connected(self.live):
            raise OSError("a connected socket is at the address, and would be joined instead")
        member = _twin(self.live)
        try:
            bpf.allow_others(member)
            if deaf:
                bpf.deafen(member)
            member.bind(self.live.getsockname())
            if member.type == socket.SOCK_STREAM:
                member.listen(1)
        except OSError:
            member.close()
            raise
        os.set_blocking(member.fileno(), os.get_blocking(self.live.fileno()))
        self._members[_inode(member)] = member
        return member


def gather(first: socket.socket) -> str:
    """Make the bound socket the first of a group; return why that cannot be, else nothing.

    It was bound without SO_REUSEPORT, so that an address in use was noticed.
    """
    datagrams = first.type == socket.SOCK_DGRAM
    began = datagrams or first.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    others_allowed = first.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    try:
        there = sockdiag.same_place(first)  # without the kernel's list nobody could be called quiet
        if began and _inode(first) not in there:
            return "it is of another network namespace, where no second one can be bound"
        if began and len(there) > 1:
            return "others are bound to its address, too (SO_REUSEPORT), and have their share"
        bpf.allow_others(first)
        _begin_group(first)
    except OSError as error:
        bpf.allow_others(first, others_allowed)
        if error.errno == errno.EACCES:
            return "a second socket at a low port needs CAP_NET_BIND_SERVICE, which is not ours"
        return f"the kernel has no steering here ({error.strerror or error})"
    return ""


def _begin_group(first: socket.socket) -> None:
    """Give the group of a socket its program, and the socket a group if it has none.

    One that was in the kernel's tables before others were allowed there has none, and gets it when
    a second one joins.  That is deaf: a SYN that it gets is as one lost on the way, and comes again
    to the first.
    """
    try:
        bpf.steer(first, bpf.choose(0))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        with _twin(first) as second:
            bpf.allow_others(second)
            bpf.deafen(second)
            second.bind(first.getsockname())
            if second.type == socket.SOCK_STREAM:
                second.listen(1)
            bpf.steer(first, bpf.choose(0))


def _twin(sock: socket.socket) -> socket.socket:
    """Return an unbound socket with the same options."""
    twin = socket.socket(sock.family, sock.type, sock.proto)
    options.copy(_COPIED, sock, twin)
    return twin


def _inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def _fd(sock: socket.socket) -> Fd:
    return Fd(sock.fileno())


def _shown(sock: socket.socket) -> str:
    name = sock.getsockname()
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)
