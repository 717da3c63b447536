"""The service's listeners over time: opened together or not at all, closed when nobody needs them.

A reload may add, remove or change addresses.  The new are bound before anything old is touched; the
old stay open until the last generation that has them is gone.

Each generation has a seat at each of its listeners: a socket there of its own, to which nothing
comes before the cut-over (steered), or one that it shares with others.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain

from overseer_py import holdings, wanted
from overseer_py.address import Address, Kind
from overseer_py.errors import ListenerError
from overseer_py.holdings import KeptSockets
from overseer_py.system.fdstore import FdStore
from overseer_py.system.group import Group
from overseer_py.system.listeners import Listener, Seat, adopt, choose, open_listener, resume
from overseer_py.system.loop import HANGUP, Loop
from overseer_py.system.steering import Steered
from overseer_py.system.unix import Renamed


class Sockets:
    """Every open listener of the service."""

    def __init__(
        self,
        environ: Mapping[str, str],
        loop: Loop,
        store: FdStore,
        on_shut_down: Callable[[Listener], None],
        kept: KeptSockets | None = None,
    ) -> None:
        """``on_shut_down`` is called when a worker has shut a listener down for everybody."""
        self._loop = loop
        self._store = store
        self._on_shut_down = on_shut_down
        self._adopted = [] if kept else adopt(environ, os.getpid())
        self._open: list[Listener] = []
        self._seats: dict[int, list[Seat]] = {}  # by generation
        self._current = 0  # the generation that gets what is new
        if kept:
            self._resume(kept)

    def kept(self) -> KeptSockets:
        """Return what the master's next image must know."""
        return KeptSockets(*holdings.kept(self._adopted, self._open, self._seats), self._current)

    def _resume(self, kept: KeptSockets) -> None:
        """Go on with what an earlier image has; look at all of it anew."""
        self._adopted, self._open, self._seats = holdings.resumed(kept)
        self._current = kept.current
        for listener in self._open:
            self._watch(listener.group, listener.socket)
        for seat in self._taken():
            self._watch(seat.listener.group, seat.socket)

    def known(self) -> list[Listener]:
        """Return every listener, in the order in which they are written down."""
        return holdings.known(self._adopted, self._open)

    def seats(self, generation: int) -> list[Seat]:
        """Return what a generation has."""
        return self._seats.get(generation, [])

    def open(self, addresses: Sequence[Address]) -> list[Listener]:
        """Return a listener for each address, those that are open already as they are.

        With no address, all that systemd handed over.  Raises ListenerError, and then nothing has
        changed.
        """
        chosen: list[Listener] = [] if addresses else list(self._adopted)
        taken: list[Listener] = []  # open ones, each for one address
        left = self._store.claim(addresses)
        try:
            for address in addresses:
                found = self._find(address, taken)
                taken += found
                chosen += [wanted.renamed(o, address) for o in found] or [
                    self._obtain(address, left)
                ]
            wanted.check_names(chosen)
        except Exception:  # whatever it was: all of them or none
            for listener in chosen:
                if listener not in self._open:
                    self._close(listener)
            raise
        for listener in chosen:
            if listener not in self._open:
                if not self._of(listener.group):
                    self._watch(listener.group, listener.socket)
                self._open.append(listener)
                listener.lasting |= self._store.in_use
        self._keep()
        return chosen

    # -- what each generation has ------------------------------------------------------------

    def join(self, generation: int, steered: Mapping[Listener, bool]) -> list[Seat]:
        """Return the sockets that the workers of a new generation get for these listeners.

        A steered one is of its own, and nothing comes to it before the cut-over; the first
        generation has the one that was opened.  Raises ListenerError.
        """
        seats = self._seats[generation] = []
        self._current = self._current or generation
        try:
            for listener, own in steered.items():
                seats.append(self._take(generation, listener, own=own))
        except ListenerError:
            self.leave(generation)
            raise
        return seats

    def learn(self, generation: int, address: Address, *, shared: bool) -> Seat:
        """Return a generation's seat where its program binds for itself; raise ListenerError."""
        listener = next(iter(self._find(address, ())), None)
        if listener is None:
            listener = open_listener(address)
            self._watch(listener.group, listener.socket)
            self._open.append(listener)
        seat = self._take(generation, listener, own=not (shared or listener.obstacle))
        self._seats[generation].append(seat)
        if generation == self._current:  # an older one may have had it first
            listener.group.cut_over(seat.socket)
        self._keep()
        return seat

    def exchange(self, seat: Seat, inode: int) -> None:
        """Give a generation the socket that its program has made; raise ListenerError."""
        group, before = seat.listener.group, seat.socket
        assert isinstance(group, Steered)  # or it was not admitted
        seat.socket = group.enter(inode, seat.listener.wanted.backlog)
        if before is group.live:  # who waits there is lost, but for tcp_migrate_req
            group.cut_over(seat.socket)
        self._watch(group, seat.socket)
        self._release(seat.listener, before)
        self._keep()

    def cut_over(self, generation: int) -> None:
        """Let all that is new come to this generation; raise ListenerError if not all can."""
        self._current = generation
        left_behind: Exception | None = None
        for seat in self._seats.get(generation, []):
            try:
                seat.listen()  # with our backlog, and again if a worker has shut it down
                seat.listener.group.cut_over(seat.socket)
            except (OSError, ListenerError) as error:  # the others must come, whatever this one has
                left_behind = error
            self._watch(seat.listener.group, seat.socket)
        self._keep()
        if left_behind:
            raise ListenerError(f"could not be cut over: {left_behind}") from left_behind

    def divert(self, generation: int, percent: int) -> None:
        """Let a share of what is new come to this generation."""
        for seat in self._seats.get(generation, []):
            seat.listen()
            seat.listener.group.divert(seat.socket, percent)

    def take_over(self, generation: int) -> None:
        """Give a generation the live sockets, whosever they are: it serves who waits there."""
        self._current = generation
        for seat in self._seats.get(generation, []):
            before, seat.socket = seat.socket, seat.listener.socket
            self._release(seat.listener, before)
        self._keep()

    def leave(self, generation: int) -> None:
        """Close what a generation had to itself, now that it is gone."""
        for seat in self._seats.pop(generation, []):
            self._release(seat.listener, seat.socket)

    def park(self, *, served: bool) -> None:
        """Let what is new wait in sockets that outlive us: handed over, or stored with systemd.

        ``served``: whether somebody finishes with those who wait already.  If nobody does, they
        stay where they are, in the socket that systemd has, for the next master.
        """
        for listener in self._open:
            group = listener.group
            if not self._store.holds(group.live):
                group.park()
            elif served:
                # If it cannot be: what is new waits where workers are still busy.
                with suppress(ListenerError, OSError):
                    group.cut_over(group.join("parked", listener.wanted.backlog))
        self._keep()

    def own(self, generation: int) -> list[Seat]:
        """Return the seats of a retiring generation that the current one does not have, too.

        Of the current one itself, on its way out, those from which what is new was led away.
        """
        seats = self._seats.get(generation, [])
        if generation == self._current:
            return [seat for seat in seats if seat.socket is not seat.listener.socket]
        shared = {seat.socket for seat in self._seats.get(self._current, [])}
        return [seat for seat in seats if seat.socket not in shared]

    def strangers(self) -> Iterator[tuple[Listener, int]]:
        """Yield the sockets (by inode) that somebody else has bound beside ours."""
        for listener in self._open:
            for inode in listener.group.strangers():
                yield listener, inode

    def _take(self, generation: int, listener: Listener, *, own: bool) -> Seat:
        group = listener.group
        vacant = not any(seat.socket is group.live for seat in self._taken())
        if vacant or not own:
            return Seat(listener, group.live)
        if isinstance(group, Renamed):
            group.dress(listener.wanted)
        member = group.join(str(generation), listener.wanted.backlog)
        self._watch(group, member)
        return Seat(listener, member)

    def _release(self, listener: Listener, member: socket.socket) -> None:
        """Close a socket that no generation has any more, unless it is the live one."""
        if member is listener.socket or any(seat.socket is member for seat in self._taken()):
            return
        self._loop.forget(member.fileno())
        listener.group.leave(member)

    def _taken(self) -> Iterator[Seat]:
        return chain.from_iterable(self._seats.values())

    # -- the whole -----------------------------------------------------------------------------

    def ignored(self, environ: Mapping[str, str]) -> str:
        """Return why sockets that were handed over are not taken; empty if there is no reason."""
        meant = environ.get("LISTEN_PID", "")
        if "LISTEN_FDS" not in environ or meant == str(os.getpid()):
            return ""
        return f"LISTEN_PID is {meant or 'not set'}, this is {os.getpid()}: started by a wrapper?"

    def everything(self) -> set[socket.socket]:
        """Return every socket at which connections may come, or have come, to any generation."""
        return {seat.socket for seat in self._taken()} | {o.socket for o in self._open}

    def own_inodes(self) -> set[int]:
        """Return the sockets that nobody but this master and its workers may hold."""
        every = [(seat.listener.group, seat.socket) for seat in self._taken()]
        every += [(listener.group, listener.socket) for listener in self._open]
        own = [member for group, member in every if not group.is_adopted(member)]
        return {_inode(member) for member in own if not self._store.holds(member)}

    def keep_only(self, needed: Iterable[Listener]) -> list[Listener]:
        """Close the listeners that nobody needs any more; return them."""
        kept = set(map(id, needed))
        gone = [listener for listener in self._open if id(listener) not in kept]
        self._open = [listener for listener in self._open if id(listener) in kept]
        self._keep()
        for listener in gone:
            self._close(listener)
        return gone

    def close(self) -> None:
        """Close all, at the end; what systemd holds stays there for the next master."""
        gone, self._open = self._open, []
        for listener in gone:
            self._close(listener)

    def listen_again(self) -> None:
        """Restore our backlog, which a worker's own listen(2) has overwritten.

        Not of what was steered away from: if a worker has shut it down, it must not come back.
        """
        for seat in self._taken():
            if seat.socket is seat.listener.socket:
                seat.listen()

    def revive(self, listener: Listener) -> bool:
        """Repair a listener that was shut down; False if the workers must be replaced for it."""
        dead = listener.socket
        self._loop.forget(dead.fileno())
        repaired = listener.revive()
        for seat in self._taken():
            if seat.socket is dead:
                seat.socket = listener.socket
        if repaired or listener.socket is not dead:  # nothing repairs others: no end of reports
            self._watch(listener.group, listener.socket)
        self._keep()
        return repaired

    def _keep(self) -> None:
        """Have systemd hold what is live, whoever ends us; what it handed over it holds anyway."""
        live = [o for o in self._open if not o.group.is_adopted(o.socket)]
        self._store.hold({o.name: o.socket for o in live if o.wanted.kind is not Kind.ADOPTED})

    def _watch(self, group: Group, member: socket.socket) -> None:
        """Notice a shutdown(2) by a worker.

        It costs no poll: a listener that is asked for no events at all still reports EPOLLHUP
        (epoll_ctl(2)) once it has stopped listening.
        """

        def call(events: int) -> None:
            if not events & HANGUP:
                return
            if member is group.live:
                self._on_shut_down(self._of(group)[0])
            else:  # one has moved to its place: the program must know
                self._loop.forget(member.fileno())
                group.settle()

        self._loop.forget(member.fileno())  # it may be watched as one of another role
        self._loop.watch(member.fileno(), 0, call)

    def _obtain(self, address: Address, left: Mapping[Address, socket.socket]) -> Listener:
        """Open a listener, or go on with what an earlier master has left of it."""
        self._store.settle()  # what an earlier master left beside it would be in the way
        return resume(address, left[address]) if address in left else open_listener(address)

    def _find(self, address: Address, taken: Sequence[Listener]) -> list[Listener]:
        """Return what is open for an address: the same, or the same place under another name."""
        if address.kind is Kind.ADOPTED:
            return choose(address, self._adopted)
        same = [
            o
            for o in self._open
            if wanted.place(o.wanted) == wanted.place(address) and o not in taken
        ]
        same.sort(key=lambda listener: listener.name != address.name)
        return same[:1]

    def _of(self, group: Group) -> list[Listener]:
        """Return the open listeners of a group: two, while one takes another's name."""
        return [listener for listener in self._open if listener.group is group]

    def _close(self, listener: Listener) -> None:
        if not self._of(listener.group):
            self._loop.forget(listener.fd)
            if self._store.holds(listener.socket):
                listener.group.bequeath()
            listener.close()


def _inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino
