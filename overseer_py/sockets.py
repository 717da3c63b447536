"""The service's listeners over time: opened together or not at all, closed when nobody needs them.

A reload may add, remove or change addresses.  The new are bound before anything old is touched; the
old stay open until the last generation that has them is gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from overseer_py.address import Address, Kind
from overseer_py.errors import ListenerError
from overseer_py.system.listeners import Listener, adopt, choose, open_listener
from overseer_py.system.loop import HANGUP, Loop


class Sockets:
    """Every open listener of the service."""

    def __init__(
        self,
        environ: Mapping[str, str],
        loop: Loop,
        on_shut_down: Callable[[Listener], None],
    ) -> None:
        """``on_shut_down`` is called when a worker has shut a listener down for everybody."""
        self._loop = loop
        self._on_shut_down = on_shut_down
        self._adopted = adopt(environ, os.getpid())
        self._open: list[Listener] = []

    def open(self, addresses: Sequence[Address]) -> list[Listener]:
        """Return a listener for each address, those that are open already as they are.

        With no address, all that systemd handed over.  Raises ListenerError, and then nothing has
        changed.
        """
        chosen: list[Listener] = [] if addresses else list(self._adopted)
        taken: list[Listener] = []  # open ones, each for one address
        try:
            for address in addresses:
                found = self._find(address, taken)
                taken += found
                chosen += [_renamed(o, address) for o in found] or [open_listener(address)]
            _check_names(chosen)
        except Exception:  # whatever it was: all of them or none
            for listener in chosen:
                if listener not in self._open:
                    self._close(listener)
            raise
        for listener in chosen:
            if listener not in self._open:
                self._open.append(listener)
                self._watch(listener)
        return chosen

    def join(self, generation: int, listeners: Sequence[Listener]) -> Sequence[Listener]:
        """Return the sockets that the workers of a new generation get for these listeners.

        All generations share one socket for each address (``handover=shared``).
        """
        return listeners

    def leave(self, generation: int) -> None:
        """Take back what a generation had to itself, now that it is gone: nothing, if shared."""

    def ignored(self, environ: Mapping[str, str]) -> str:
        """Return why sockets that were handed over are not taken; empty if there is no reason."""
        meant = environ.get("LISTEN_PID", "")
        if "LISTEN_FDS" not in environ or meant == str(os.getpid()):
            return ""
        return f"LISTEN_PID is {meant or 'not set'}, this is {os.getpid()}: started by a wrapper?"

    def own_inodes(self) -> list[int]:
        """Return the sockets that nobody but this master and its workers may hold."""
        return [o.socket_inode for o in self._open if o.wanted.kind is not Kind.ADOPTED]

    def keep_only(self, needed: Iterable[Listener]) -> list[Listener]:
        """Close the listeners that nobody needs any more; return them."""
        kept = set(map(id, needed))
        gone = [listener for listener in self._open if id(listener) not in kept]
        self._open = [listener for listener in self._open if id(listener) in kept]
        for listener in gone:
            self._loop.forget(listener.fd)
            self._close(listener)
        return gone

    def listen_again(self) -> None:
        """Restore our backlog, which a worker's own listen(2) has overwritten."""
        for listener in self._open:
            listener.listen()

    def revive(self, listener: Listener) -> bool:
        """Repair a listener that was shut down; False if the workers must be replaced for it."""
        self._loop.forget(listener.fd)
        repaired = listener.revive()
        if repaired or listener.inode:  # nothing repairs the others, and they would report for ever
            self._watch(listener)
        return repaired

    def _watch(self, listener: Listener) -> None:
        """Notice a shutdown(2) by a worker.

        It costs no poll: a listener that is asked for no events at all still reports EPOLLHUP
        (epoll_ctl(2)) once it has stopped listening.
        """

        def call(events: int) -> None:
            if events & HANGUP:
                self._on_shut_down(listener)

        self._loop.watch(listener.fd, 0, call)

    def _find(self, address: Address, taken: Sequence[Listener]) -> list[Listener]:
        """Return what is open for an address: the same, or the same place under another name."""
        if address.kind is Kind.ADOPTED:
            return choose(address, self._adopted)
        same = [o for o in self._open if _place(o.wanted) == _place(address) and o not in taken]
        same.sort(key=lambda listener: listener.name != address.name)
        return same[:1]

    def _close(self, listener: Listener) -> None:
        if listener in self._adopted:  # nobody could open it anew, should it be wanted again
            return
        if any(_place(o.wanted) == _place(listener.wanted) for o in self._open):
            listener.inode = None  # somebody else's path now
        listener.close()


def _renamed(listener: Listener, address: Address) -> Listener:
    """Return a listener as it is asked for now; what its socket cannot change is refused."""
    wanted = listener.wanted
    if address.kind is Kind.ADOPTED:
        if address.name == listener.name or address.name.startswith("listener-"):
            return listener
        return replace(listener, name=address.name, socket=listener.socket.dup())
    if wanted == address:
        return listener
    if replace(wanted, name=address.name, backlog=address.backlog) != address:
        raise ListenerError(
            f"listen {address}: mode, user, group and nonblock of an open listener stay; "
            "restart the master to change them"
        )
    return replace(listener, name=address.name, wanted=address, socket=listener.socket.dup())


def _place(address: Address) -> tuple[object, ...]:
    return address.kind, address.host, address.port, address.path, address.bracketed


def _check_names(listeners: Sequence[Listener]) -> None:
    names = [listener.name for listener in listeners]
    for name in names:
        if names.count(name) > 1:
            raise ListenerError(f"listen: two listeners are named {name}; write NAME=ADDR")
