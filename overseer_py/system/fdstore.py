"""systemd's file descriptor store: listeners that outlive the master.  sd_notify(3), FDSTORE=1.

However the master ends, systemd holds the sockets at which clients connect and hands them to the
next master.  Connections wait in them meanwhile.  The unit needs ``FileDescriptorStoreMax=``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from overseer_py.address import Address
from overseer_py.errors import ListenerError
from overseer_py.system.activation import Received, name_in_store, received
from overseer_py.system.listeners import is_at
from overseer_py.system.notify import ServiceManager

_LONGEST = 230  # letters of a listener's name: systemd takes names of 255
_PATIENCE = 5.0  # seconds for systemd to let go of what nobody wants


class _Held(NamedTuple):
    """What a socket is stored as, and for which listener."""

    name: str
    listener: str


@dataclass(frozen=True, slots=True)
class KeptStore:
    """What is stored as what, for the master's next image."""

    held: dict[int, tuple[str, str]]  # by inode: the name, and the listener's
    number: int  # of the next one
    letting_go: bool


class FdStore:
    """What systemd holds of this service, kept in step with what is live."""

    def __init__(
        self,
        manager: ServiceManager,
        environ: Mapping[str, str],
        *,
        wanted: bool,
        kept: KeptStore | None = None,
    ) -> None:
        """``wanted``: keep listeners there; else only what earlier masters left is let go.

        With what an earlier image has ``kept``, nothing is left: it has taken all.
        """
        self._manager = manager
        self.obstacle = _obstacle(manager, environ) if wanted else ""
        self.in_use = wanted and not self.obstacle
        given = [] if kept else received(environ, os.getpid())
        there = [one for one in given if one.number is not None]
        # The newest first: a master that died within a cut-over has left the old one, too.
        there.sort(key=lambda one: one.number or 0, reverse=True)
        self._left = [(one, _socket(one)) for one in there]
        self._next = 1 + max((one.number or 0 for one in there), default=0)
        self._held: dict[int, _Held] = {}  # by inode
        self._letting_go = False
        if kept:
            self._held = {inode: _Held(*names) for inode, names in kept.held.items()}
            self._next, self._letting_go = kept.number, kept.letting_go

    def kept(self) -> KeptStore:
        """Return what the master's next image must know."""
        held = {inode: (held.name, held.listener) for inode, held in self._held.items()}
        return KeptStore(held, self._next, self._letting_go)

    def claim(self, addresses: Sequence[Address]) -> dict[Address, socket.socket]:
        """Return what earlier masters left for these addresses; let go of the rest.

        Only the first call finds anything.
        """
        found: dict[Address, socket.socket] = {}
        if self.in_use:
            # Those of a fixed place first: a port 0 of that name could be meant for any.
            for same_name in (False, True):
                for address in addresses:
                    if address not in found:
                        self._find(address, found, same_name=same_name)
        for one, sock in self._left:
            self._forget(one.name)
            sock.close()
        self._left = []
        return found

    def _find(
        self, address: Address, found: dict[Address, socket.socket], *, same_name: bool
    ) -> None:
        for one, sock in self._left:
            named = same_name and one.listener == address.name[:_LONGEST]
            if is_at(sock, address, same_name=named):
                found[address] = sock
                self._held[_inode(sock)] = _Held(one.name, one.listener)
                self._left.remove((one, sock))
                return

    def hold(self, live: Mapping[str, socket.socket]) -> None:
        """Have the store hold these sockets, by the names of their listeners, and no others."""
        if not self.in_use:
            return
        wanted = {_inode(sock): (name[:_LONGEST], sock) for name, sock in live.items()}
        for inode, (listener, sock) in wanted.items():
            held = self._held.get(inode)
            if held and held.listener != listener:  # what it has, systemd does not store again
                self._remove(inode)
            if inode not in self._held:
                self._add(inode, listener, sock)
                # At once: FileDescriptorStoreMax= need only have room for one more.
                self._remove_all(old for old in self._of(listener) if old not in wanted)
        self._remove_all(self._held.keys() - wanted.keys())

    def settle(self) -> None:
        """Wait until systemd has let go of what it was told to: then its address can be bound."""
        if self._letting_go:
            self._manager.wait(_PATIENCE)
        self._letting_go = False

    def holds(self, sock: socket.socket) -> bool:
        """Whether systemd has this socket, too."""
        return bool(self._held) and _inode(sock) in self._held

    def _of(self, listener: str) -> list[int]:
        return [inode for inode, held in self._held.items() if held.listener == listener]

    def _remove_all(self, inodes: Iterable[int]) -> None:
        for inode in list(inodes):
            self._remove(inode)

    def _add(self, inode: int, listener: str, sock: socket.socket) -> None:
        name = name_in_store(self._next, listener)
        self._next += 1
        # Without a poll: what a worker has shut down is ours to mend, not systemd's to forget.
        if self._manager.hand_over(sock.fileno(), FDSTORE=1, FDNAME=name, FDPOLL=0):
            self._held[inode] = _Held(name, listener)

    def _remove(self, inode: int) -> None:
        self._forget(self._held.pop(inode).name)

    def _forget(self, name: str) -> None:
        # Not told, it would be there for ever; and a busy systemd may have a queue of ten, unix(7).
        self._letting_go |= self._manager.insist(FDSTOREREMOVE=1, FDNAME=name)


def _obstacle(manager: ServiceManager, environ: Mapping[str, str]) -> str:
    """Return why nothing can be kept; empty if it can."""
    if not manager.listens:
        return "NOTIFY_SOCKET is not set: run it as a systemd unit of Type=notify"
    if "LISTEN_FDS" in environ and environ.get("LISTEN_PID") != str(os.getpid()):
        return "LISTEN_PID is another process's: run it without a wrapper"
    if environ.get("FDSTORE") == "0":
        return "the unit has no room for descriptors: set FileDescriptorStoreMax="
    return ""


def _socket(one: Received) -> socket.socket:
    try:
        sock = socket.socket(fileno=one.fd)
        sock.set_inheritable(False)
    except OSError as error:
        why = f"fd {one.fd} ({one.name}) of systemd's store: {error.strerror}"
        raise ListenerError(f"{why}; is LISTEN_FDS right?") from error
    return sock


def _inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino
