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
        try:
            for address in addresses:
                chosen += self._find(address) or [open_listener(address)]
            _check_names(chosen)
        except Exception:
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

    def _find(self, address: Address) -> list[Listener]:
        """Return what is open for an address: the same, or the same place under another name."""
        if address.kind is Kind.ADOPTED:
            found = choose(address, self._adopted)
            if address.name.startswith("listener-") or len(found) > 1:
                return found
            return [self._renamed(found[0], address)]
        for listener in self._open:
            if _place(listener.wanted) == _place(address):
                return [self._renamed(listener, address)]
        return []

    def _renamed(self, listener: Listener, address: Address) -> Listener:
        wanted = listener.wanted if address.kind is Kind.ADOPTED else address
        if listener.name == address.name and listener.wanted == wanted:
            return listener
        return replace(listener, name=address.name, wanted=wanted, socket=listener.socket.dup())

    def _close(self, listener: Listener) -> None:
        if listener in self._adopted:  # nobody could open it anew, should it be wanted again
            return
        if any(_place(o.wanted) == _place(listener.wanted) for o in self._open):
            listener.inode = None  # somebody else's path now
        listener.close()


def _place(address: Address) -> tuple[object, ...]:
    return address.kind, address.host, address.port, address.path, address.bracketed


def _check_names(listeners: Sequence[Listener]) -> None:
    names = [listener.name for listener in listeners]
    for name in names:
        if names.count(name) > 1:
            raise ListenerError(f"listen: two listeners are named {name}; write NAME=ADDR")
