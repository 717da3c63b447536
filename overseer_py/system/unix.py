"""Unix sockets at a path: make way, bind with mode and owner, hand the path over.  unix(7).

A second socket is bound beside the path and renamed over it: from then on connections go to it, and
the first one keeps what it has in its queue.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from dataclasses import replace

from overseer_py.address import Address
from overseer_py.errors import ListenerError
from overseer_py.plain import Fd
from overseer_py.system import sockdiag
from overseer_py.system.group import Entrance, KeptGroup
from overseer_py.system.identity import gid_of, uid_of

_LONGEST_LABEL = 18  # what is added for a second one: a word, a number
_LONGEST_PATH = 107  # unix(7): sun_path has 108 bytes, one of them the end


class Renamed:
    """The sockets for one path, of which the live one has it."""

    def __init__(
        self,
        address: Address,
        live: socket.socket | None = None,
        kept: KeptGroup | None = None,
    ) -> None:
        """Bind and listen, unless ``live`` has the path already, or all is ``kept``.

        Raises OSError, or ListenerError with the remedy.
        """
        self._address = address
        if kept:
            self._resume(kept)
            return
        self.obstacle = _why_only_one(address.path)
        if live:
            _hand(address)
        self.live = live or self._open(address.path)
        self.inode: tuple[int, int] | None = _inode(address.path)  # of the path, while it is ours
        self._members = {self.live}
        self._beside: dict[socket.socket, str] = {}  # those that never had the path

    def join(self, label: str, backlog: int) -> socket.socket:
        """Bind one more socket beside the path."""
        path = _beside(self._address.path, label)
        self._check_owner()
        try:
            member = self._open(path)
            member.listen(backlog)
        except OSError as error:
            raise ListenerError(f"listen {self._address}: {path}: {error.strerror}") from error
        self._members.add(member)
        self._beside[member] = path
        return member

    def dress(self, address: Address) -> None:
        """Give those that are opened from now on the mode and the owner of this address."""
        mode, user, group = address.access
        self._address = replace(self._address, mode=mode, user=user, group=group)

    def cut_over(self, member: socket.socket) -> None:
        """Rename the member's path over the one that clients know."""
        if member is self.live:
            return
        self._check_owner()
        os.rename(self._beside[member], self._address.path)
        del self._beside[member]
        self.live, self.inode = member, _inode(self._address.path)

    def divert(self, member: socket.socket, percent: int) -> None:
        """Nothing: a path leads to one socket."""

    def leave(self, member: socket.socket) -> None:
        """Close a member, and unlink the path that it never gave up."""
        with suppress(KeyError, FileNotFoundError):
            os.unlink(self._beside.pop(member))
        self._members.discard(member)
        with suppress(OSError):
            member.shutdown(socket.SHUT_RDWR)  # also if a stray process still holds it
        member.close()

    def replace(self) -> None:
        """Open a new socket at the path: a worker has shut the live one down for everybody."""
        self._check_owner()
        fresh = self._open(self._address.path)
        self._members ^= {self.live, fresh}
        self.live.close()
        self.live, self.inode = fresh, _inode(self._address.path)

    def open_entrance(self, member: socket.socket, count: int) -> Entrance:
        """Return where the member's own path is now."""
        return Entrance(socket.AF_UNIX, self._beside.get(member, self._address.path))

    def close_entrance(self, entrance: Entrance) -> None:
        """Nothing was opened."""

    def settle(self) -> None:
        """Nothing comes or goes by itself."""

    def strangers(self) -> set[int]:
        """Return none: a path has one socket."""
        return set()

    def is_adopted(self, member: socket.socket) -> bool:
        """Whether it was handed over: none is."""
        return False

    def park(self) -> None:
        """Nothing: nobody handed it over."""

    def bequeath(self) -> None:
        """Leave the path where it is: the live socket outlives us."""
        self.inode = None

    def close(self) -> None:
        """Close all; unlink the path if it is still the one we made."""
        for member in list(self._beside):
            self.leave(member)
        with suppress(OSError):
            if self.inode and _inode(self._address.path) == self.inode:
                os.unlink(self._address.path)
        self.inode = None  # once closed, the number may become another file's
        for member in self._members:
            member.close()

    def kept(self) -> KeptGroup:
        """Return what the master's next image must know."""
        return KeptGroup(
            "renamed",
            Fd(self.live.fileno()),
            self.obstacle,
            members=[Fd(member.fileno()) for member in self._members],
            address=self._address,
            inode=self.inode,
            beside=[(Fd(member.fileno()), path) for member, path in self._beside.items()],
        )

    def _resume(self, kept: KeptGroup) -> None:
        """Go on with the sockets of an earlier image: nothing is bound, nor changed at the path."""
        members = {int(fd): socket.socket(fileno=int(fd)) for fd in kept.members}
        self.obstacle, self.live, self.inode = kept.obstacle, members[kept.live], kept.inode
        self._members = set(members.values())
        self._beside = {members[fd]: path for fd, path in kept.beside}

    def find(self, fd: int) -> socket.socket:
        """Return the member with this descriptor."""
        return next(member for member in self._members if member.fileno() == fd)

    def _check_owner(self) -> None:
        """Raise ListenerError if something is at the path that is not ours."""
        with suppress(FileNotFoundError):
            if _inode(self._address.path) != self.inode:
                raise ListenerError(f"listen {self._address}: another's file is there; remove it")

    def _open(self, path: str) -> socket.socket:
        return _open(replace(self._address, path=path))


def is_at(sock: socket.socket, path: str) -> bool:
    """Whether the path is that of this socket, whatever name it was bound to."""
    with suppress(OSError):
        return sockdiag.unix_file(sock) == os.lstat(path).st_ino
    return False


def _beside(path: str, label: str) -> str:
    """Return a path that nobody else would choose."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}.overseer-{label}")


def _why_only_one(path: str) -> str:
    if len(os.fsencode(path)) + _LONGEST_LABEL > _LONGEST_PATH:
        return "its path is too long for a second one beside it"
    try:
        sockdiag.unix_connections([path])  # without this list nobody could be called quiet
    except OSError as error:
        return f"the kernel does not list unix sockets here ({error.strerror or error})"
    return ""


def _open(address: Address) -> socket.socket:
    if len(os.fsencode(address.path)) > _LONGEST_PATH:
        raise ListenerError(
            f"listen {address}: the path has more than {_LONGEST_PATH} bytes; choose a shorter one"
        )
    owner = owner_of(address)  # looked up before anything is done
    _make_way(address)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound = False
    try:
        _bind(sock, address)
        bound = True
        if owner != (-1, -1):
            os.chown(address.path, *owner, follow_symlinks=False)
        sock.setblocking(not address.nonblock)
        sock.listen(address.backlog)
    except OSError:
        if bound:
            os.unlink(address.path)
        sock.close()
        raise
    return sock


def owner_of(address: Address) -> tuple[int, int]:
    """Return the uid and the gid that the path is to have; -1 for one that does not matter."""
    uid = uid_of(address.user) if address.user else -1
    return uid, gid_of(address.group) if address.group else -1


def _hand(address: Address) -> None:
    """Give a path that is there already the owner and the mode asked for."""
    if (owner := owner_of(address)) != (-1, -1):
        os.chown(address.path, *owner, follow_symlinks=False)
    if address.mode is not None:
        os.chmod(address.path, address.mode)


def _bind(sock: socket.socket, address: Address) -> None:
    """Bind with the mode asked for, and never with a more open one, not even for a moment."""
    if address.mode is None:
        sock.bind(address.path)
        return
    before = os.umask(0o777 & ~address.mode)
    try:
        sock.bind(address.path)
    finally:
        os.umask(before)


def _make_way(address: Address) -> None:
    """Remove a socket that nobody listens on; refuse a live one, and a file that is no socket."""
    path = address.path
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenerError(f"listen {address}: a file is there that is no socket; remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        refused = probe.connect_ex(path)
    if refused == errno.ENOENT:
        return
    if refused != errno.ECONNREFUSED:
        raise ListenerError(f"listen {address}: somebody listens there; stop that program first")
    os.unlink(path)


def _inode(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino
