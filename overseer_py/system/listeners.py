"""The sockets that the master owns: bind, adopt, listen again, close.  socket(7), ip(7).

All are close-on-exec here and live at whatever number they get; a worker's 3, 4, … are placed
between fork and exec.  One that was shut down by a worker (shutdown(2) on a shared listener closes
it for everybody) is listened on again.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from socket import socket as Socket  # noqa: N812 - a class, and the name of what has one

from overseer_py.address import Address, Kind
from overseer_py.errors import ConfigError, ListenerError
from overseer_py.handover import FIRST_FD, Inherited
from overseer_py.system import sockdiag, steering, unix
from overseer_py.system.activation import received
from overseer_py.system.group import Entrance, Group, KeptGroup, Shared
from overseer_py.system.steering import Steered
from overseer_py.system.unix import Renamed

_COPIED = (
    (socket.SOL_SOCKET, socket.SO_REUSEADDR),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY),
)


@dataclass(slots=True, eq=False)
class Listener:
    """One address, under one name; its sockets are the group's."""

    name: str
    wanted: Address
    group: Group
    lasting: bool = False  # somebody else holds a socket there, too, which outlives the master

    @property
    def socket(self) -> Socket:
        """The socket that gets what is new."""
        return self.group.live

    @property
    def obstacle(self) -> str:
        """Why generations must share one socket; empty if each can have its own."""
        return self.group.obstacle

    @property
    def fd(self) -> int:
        """The master's descriptor."""
        return self.socket.fileno()

    @property
    def socket_inode(self) -> int:
        """The number by which /proc and sock_diag know it."""
        return os.fstat(self.fd).st_ino

    @property
    def stream(self) -> bool:
        """Whether connections are accepted on it, rather than datagrams read."""
        return self.socket.type == socket.SOCK_STREAM

    @property
    def port(self) -> int | None:
        """The real port; None for a unix socket."""
        return None if self.socket.family == socket.AF_UNIX else int(self.socket.getsockname()[1])

    @property
    def address(self) -> str:
        """The real address: HOST:PORT, or the path of a unix socket."""
        if self.wanted.kind is Kind.UNIX:  # a socket still bears the name that it was bound to
            return self.wanted.path
        name = self.socket.getsockname()
        if self.socket.family == socket.AF_UNIX:  # an abstract name begins with a zero byte
            return str(name) if isinstance(name, str) else "@" + os.fsdecode(name[1:])
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"

    @property
    def kind(self) -> str:
        """``tcp``, ``udp`` or ``unix``."""
        if self.socket.family == socket.AF_UNIX:
            return "unix"
        return "tcp" if self.stream else "udp"

    @property
    def is_lost(self) -> bool:
        """Whether it is a unix socket whose path is not there any more."""
        return isinstance(self.group, Renamed) and not os.path.lexists(self.wanted.path)

    def inherited(self) -> Inherited:
        """Return what a worker is told about it."""
        return Inherited(self.name, self.address, self.port)

    def revive(self) -> bool:
        """Repair it after a worker's shutdown(2); False if the workers must be replaced for it.

        A TCP socket listens again for everybody.  A unix socket stays dead for those who have it:
        a new one takes its path.
        """
        if isinstance(self.group, Renamed):
            self.group.dress(self.wanted)
            self.group.replace()
            return False
        if self.kind == "tcp":
            _listen(self, self.socket)
        return self.kind == "tcp"

    def close(self) -> None:
        """Close every socket there; unlink the path of a unix socket if it is still ours."""
        self.group.close()


@dataclass(slots=True, eq=False)
class Seat:
    """What one generation has of a listener: a socket there, of its own or a shared one."""

    listener: Listener
    socket: Socket

    @property
    def name(self) -> str:
        """The listener's name."""
        return self.listener.name

    @property
    def adopted(self) -> bool:
        """Whether the program binds it for itself, and does not inherit it."""
        return self.listener.wanted.adopted

    @property
    def fd(self) -> int:
        """The master's descriptor."""
        return self.socket.fileno()

    def listen(self) -> None:
        """Listen with our backlog.

        Again after every start of a worker: its own listen(2) overwrites the backlog of the
        shared socket.
        """
        if self.listener.stream and not self.listener.group.is_adopted(self.socket):
            _listen(self.listener, self.socket)

    def inherited(self) -> Inherited:
        """Return what a worker is told about it."""
        return self.listener.inherited()

    def open_entrance(self, count: int) -> Entrance:
        """Open a way to this very socket; raise OSError."""
        return self.listener.group.open_entrance(self.socket, count)

    def close_entrance(self, entrance: Entrance) -> None:
        """Close the way."""
        self.listener.group.close_entrance(entrance)


def _listen(listener: Listener, member: Socket) -> None:
    """Listen; if the member had been shut down, it is the last one of its group now."""
    listens = member.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if not listens:
        listener.group.settle()  # before: its place is another's already
    member.listen(listener.wanted.backlog)
    if not listens:
        listener.group.settle()


def open_listener(address: Address) -> Listener:
    """Bind and listen; raise ListenerError with the address, the reason and the remedy."""
    try:
        if address.kind is Kind.UNIX:
            return Listener(address.name, address, Renamed(address))
        return _open_inet(address)
    except OSError as error:
        raise ListenerError(f"listen {address}: {_why(error, address)}") from error
    except ConfigError as error:
        raise ConfigError(f"listen {address}: {error}") from error


def resume(address: Address, sock: Socket) -> Listener:
    """Go on with the socket of an earlier master, which is at the address and nobody else's."""
    sock.setblocking(not address.nonblock)
    if address.kind is Kind.UNIX:
        return Listener(address.name, address, Renamed(address, sock))
    obstacle = _obstacle(sock)
    return Listener(address.name, address, Shared(sock, obstacle) if obstacle else Steered(sock))


def take_up(kept: KeptGroup) -> Group:
    """Return the sockets of an earlier image of this master, as they were there."""
    match kept.kind:
        case "steered":
            return Steered.resumed(kept)
        case "renamed" if kept.address:
            return Renamed(kept.address, kept=kept)
    return Shared(socket.socket(fileno=int(kept.live)), kept.obstacle, adopted=kept.adopted)


def is_at(sock: Socket, address: Address, *, same_name: bool) -> bool:
    """Whether a socket is bound where the address wants one; port 0 is any one of that name."""
    if address.kind is Kind.UNIX:
        return sock.family == socket.AF_UNIX and unix.is_at(sock, address.path)
    datagrams = address.kind is Kind.UDP
    kind = socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM
    if sock.type != kind or address.kind is Kind.ADOPTED:
        return False
    family, place = _resolve(address, kind)
    if sock.family != family or sockdiag.is_only_ipv6(sock) != address.bracketed:
        return False
    host, port = sock.getsockname()[:2]
    return host == place[0] and (port == place[1] or (same_name and not place[1]))


def adopt(environ: Mapping[str, str], pid: int) -> list[Listener]:
    """Take the sockets that systemd handed over (sd_listen_fds(3)); none if not meant for us.

    Two sockets of one unit share one name: the second is called NAME-1.
    """
    adopted: list[Listener] = []
    for index, one in enumerate(received(environ, pid)):
        if one.number is None:  # the others come from the store, see fdstore.py
            name = one.name or f"listener-{index}"
            twins = sum(listener.wanted.path == name for listener in adopted)
            adopted.append(_adopt(one.fd, f"{name}-{twins}" if twins else name, name))
    return adopted


def choose(address: Address, adopted: Sequence[Listener]) -> list[Listener]:
    """Return the adopted sockets that ``fd:NAME`` or ``fd:N`` names."""
    number = int(address.path) - FIRST_FD if address.path.isdigit() else -1
    found = [
        listener
        for index, listener in enumerate(adopted)
        if index == number or listener.wanted.path == address.path
    ]
    if not found:
        have = ", ".join(listener.wanted.path for listener in adopted) or "nothing"
        raise ListenerError(
            f"listen {address}: no such socket was handed over (there is: {have}); "
            "check LISTEN_FDS, LISTEN_PID and FileDescriptorName= of the socket unit"
        )
    return found


def _adopt(fd: int, name: str, group: str) -> Listener:
    address = Address(name, Kind.ADOPTED, path=group)
    try:
        sock = socket.socket(fileno=fd)
        sock.set_inheritable(False)
        listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ListenerError(f"listen fd:{fd}: {error.strerror}; is LISTEN_FDS right?") from error
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        raise ListenerError(f"listen fd:{fd}: neither an internet nor a unix socket")
    if sock.type == socket.SOCK_STREAM and not listening:
        raise ListenerError(f"listen fd:{fd}: not a listening socket; set Accept=no in the unit")
    if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Listener(name, address, _group(sock), lasting=True)


def _group(sock: socket.socket) -> Group:
    """Return the group that a socket which was handed over can begin."""
    if sock.family == socket.AF_UNIX:
        return Shared(sock, "its path belongs to whoever handed it over", adopted=True)
    obstacle = _obstacle(sock)
    return Shared(sock, obstacle, adopted=True) if obstacle else Steered(sock, adopted=sock)


def _obstacle(sock: socket.socket) -> str:
    """Return why no second socket can be beside one that another process made; empty if it can."""
    if (owner := os.fstat(sock.fileno()).st_uid) != (uid := os.geteuid()):
        return (
            f"handed over by uid {owner}; a second socket there must be of the same, not of {uid}"
        )
    return steering.gather(sock)


def _open_inet(address: Address) -> Listener:
    datagrams = address.kind is Kind.UDP
    family, place = _resolve(address, socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM)
    sock = socket.socket(family, socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM)
    try:
        if not datagrams:  # for UDP it would let a second master steal the address
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted ones inherit it
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address.bracketed))
        sock.bind(place)
        if not address.port and not datagrams:
            sock = _pin_port(sock)
        sock.setblocking(not address.nonblock)
        obstacle = steering.gather(sock)
        if not datagrams:
            sock.listen(address.backlog)
        group = Shared(sock, obstacle) if obstacle else Steered(sock)
        return Listener(address.name, address, group)
    except OSError:
        sock.close()
        raise


def _pin_port(sock: socket.socket) -> socket.socket:
    """Return a socket that was bound to this one's port by number.

    A port that the kernel chose is given back when somebody shuts the listener down; one that was
    asked for is kept (SOCK_BINDPORT_LOCK).
    """
    pinned = socket.socket(sock.family, sock.type)
    try:
        for level, option in _COPIED:
            with suppress(OSError):
                pinned.setsockopt(level, option, sock.getsockopt(level, option))
        pinned.bind(sock.getsockname())  # allowed beside the first: neither listens yet
    except OSError:
        pinned.close()
        raise
    sock.close()
    return pinned


def _resolve(address: Address, kind: int) -> tuple[int, tuple[object, ...]]:
    """Return the family and the address to bind; a name means its IPv4 address if it has one."""
    if not address.host:  # dual stack, where there is IPv6 at all
        dual = socket.has_ipv6 and os.path.exists("/proc/net/if_inet6")
        family = socket.AF_INET6 if dual else socket.AF_INET
        return family, ("::" if dual else "0.0.0.0", address.port)  # noqa: S104 - asked for
    try:
        found = socket.getaddrinfo(address.host, address.port, type=kind, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ListenerError(f"listen {address}: {address.host}: {error.strerror}") from error
    except UnicodeError:  # an empty label, or one of more than 63 letters
        raise ListenerError(f"listen {address}: {address.host}: not a host's name") from None
    family, _, _, _, place = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, place


def _why(error: OSError, address: Address) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "address already in use; stop whoever has it, or choose another"
        case errno.EACCES if address.kind is not Kind.UNIX and 0 < address.port < 1024:  # noqa: PLR2004
            return "permission denied; a low port needs root or CAP_NET_BIND_SERVICE"
        case errno.EADDRNOTAVAIL:
            return "no such address on this machine"
    return error.strerror or str(error)
