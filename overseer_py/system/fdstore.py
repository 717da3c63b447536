"""systemd's file descriptor store: listeners that outlive the master.  sd_notify(3), FDSTORE=1.

However the master ends, systemd holds the sockets at which clients connect and hands them to the
next master.  Connections wait in them meanwhile.  The unit needs ``FileDescriptorStoreMax=``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from overseer_py.address import Address
from overseer_py.errors import ListenerError
from overseer_py.system.activation import Received, name_in_store, received
from overseer_py.system.listeners import is_at
from overseer_py.system.notify import ServiceManager

_LONGEST = 230  # letters of a listener's name: systemd takes names of 255
_NO_STORE = "NOTIFY_SOCKET is not set: run it as a systemd unit of Type=notify"
_PATIENCE = 5.0  # seconds for systemd to let go of what nobody wants


class _Held(NamedTuple):
    """What a socket is stored as, and for which listener."""

    name: str
    listener: str


class FdStore:
    """What systemd holds of this service, kept in step with what is live."""

    def __init__(
        self, manager: ServiceManager, environ: Mapping[str, str], *, wanted: bool
    ) -> None:
        """``wanted``: keep listeners there; else only what earlier masters left is let go."""
        self._manager = manager
        self.in_use = wanted and manager.listens
        self.obstacle = "" if self.in_use or not wanted else _NO_STORE
        there = [one for one in received(environ, os.getpid()) if one.number is not None]
        # The newest first: a master that died within a cut-over has left the old one, too.
        there.sort(key=lambda one: one.number or 0, reverse=True)
        self._left = [(one, _socket(one)) for one in there]
        self._next = 1 + max((one.number or 0 for one in there), default=0)
        self._held: dict[int, _Held] = {}  # by inode
        self._letting_go = False

    def claim(self, addresses: Sequence[Address]) -> dict[Address, socket.socket]:
        """Return what earlier masters left for these addresses; let go of the rest.

        Only the first call finds anything.
        """
        found: dict[Address, socket.socket] = {}
        for address in addresses if self.in_use else ():
            for one, sock in self._left:
                if is_at(sock, address, same_name=one.listener == address.name[:_LONGEST]):
                    found[address] = sock
                    self._held[_inode(sock)] = _Held(one.name, one.listener)
                    self._left.remove((one, sock))
                    break
        for one, sock in self._left:
            self._forget(one.name)
            sock.close()
        self._left = []
        return found

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
        for inode in self._held.keys() - wanted.keys():
            self._remove(inode)

    def settle(self) -> None:
        """Wait until systemd has let go of what it was told to: then its address can be bound."""
        if self._letting_go:
            self._manager.wait(_PATIENCE)
        self._letting_go = False

    def holds(self, sock: socket.socket) -> bool:
        """Whether systemd has this socket, too."""
        return bool(self._held) and _inode(sock) in self._held

    def _add(self, inode: int, listener: str, sock: socket.socket) -> None:
        name = name_in_store(self._next, listener)
        self._next += 1
        # Without a poll: what a worker has shut down is ours to mend, not systemd's to forget.
        if self._manager.hand_over(sock.fileno(), FDSTORE=1, FDNAME=name, FDPOLL=0):
            self._held[inode] = _Held(name, listener)

    def _remove(self, inode: int) -> None:
        self._forget(self._held.pop(inode).name)

    def _forget(self, name: str) -> None:
        self._letting_go |= self._manager.tell(FDSTOREREMOVE=1, FDNAME=name)


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
