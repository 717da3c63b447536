"""Groups of sockets at one address: whatever happens to one, the kernel is asked who gets what.

The master's own books about a group are never looked at.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import random
import resource
import select
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest

from overseer_py.address import parse
from overseer_py.errors import ListenerError
from overseer_py.system import bpf, connections, handshake, libc, procfs, sockdiag, steering
from overseer_py.system.bpf import Door
from overseer_py.system.group import Shared
from overseer_py.system.listeners import open_listener
from overseer_py.system.steering import Steered, gather
from tests.master import PATIENCE
from tests.needs import cannot
from tests.system.apart import apart
from tests.system.test_bpf import SO_REUSEPORT, at_one_port, bound_client, reached, take_one

NOBODY = 65534
PLACES = {  # what is listened on, and by which address it is reached
    "tcp": ("127.0.0.1:0", "127.0.0.1"),
    "tcp-any": ("0.0.0.0:0", "127.0.0.1"),
    "tcp6": ("[::1]:0", "::1"),
    "tcp6-any": ("[::]:0", "::1"),
    "dual-by-4": (":0", "127.0.0.1"),
    "dual-by-6": (":0", "::1"),
    "udp": ("udp:127.0.0.1:0", "127.0.0.1"),
    "udp-any": ("udp:0.0.0.0:0", "127.0.0.1"),
    "udp6": ("udp:[::1]:0", "::1"),
    "udp-dual-by-4": ("udp::0", "127.0.0.1"),
    "udp-dual-by-6": ("udp::0", "::1"),
}
BACKLOG = 64

T = TypeVar("T")


class Place:
    """A group at an address, and everybody who is bound there."""

    def __init__(self, text: str, host: str) -> None:
        """``host`` is the address by which it is reached."""
        group = open_listener(parse(text, 0)).group
        assert isinstance(group, Steered), group.obstacle
        self.group = group
        self.text, self.host = text, host
        self.port = int(group.live.getsockname()[1])
        self.members = [group.live]  # those that can be reached
        self.strangers: list[socket.socket] = []

    def join(self) -> socket.socket:
        """Have one more member."""
        self.members.append(self.group.join("label", BACKLOG))
        return self.members[-1]

    def leave(self, member: socket.socket) -> None:
        """Have one member less."""
        self.members.remove(member)
        self.group.leave(member)

    def open_anew(self) -> None:
        """Try to open the very address once more, as a second master would."""
        open_listener(parse(f"{self.text.removesuffix('0')}{self.port}", 0)).close()

    def bind_stranger(self) -> socket.socket:
        """Bind a socket that is not the group's, as another program of this user could."""
        self.strangers.append(beside(self.group.live))
        return self.strangers[-1]

    def reached(self, client: socket.socket | None = None) -> socket.socket:
        """Return who gets one new connection."""
        return reached([*self.members, *self.strangers], self.host, client)

    def leads_only_to(self, member: socket.socket) -> bool:
        """Whether several new connections, from various ports, all reach this one."""
        return [self.reached() for _ in range(6)] == [member] * 6

    def doors_lead_home(self) -> bool:
        """Whether each member is reached by doors of its own, whatever is live."""
        return all(self._door_leads_to(member) for member in self.members)

    def _door_leads_to(self, member: socket.socket) -> bool:
        entrance = self.group.open_entrance(member, 2)
        host = str(entrance.place[0])
        reaches = [reached(self.members, host, client) for client in entrance.sockets]
        self.group.close_entrance(entrance)
        return reaches == [member] * 2

    def call(self) -> socket.socket:
        """Return a connection that nobody has taken yet (UDP: who has sent a datagram)."""
        client = self.client()
        client.connect((self.host, self.port))
        if client.type == socket.SOCK_DGRAM:
            client.send(b"hello")
        return client

    def client(self, port: int = 0) -> socket.socket:
        """Return a socket bound where an entrance would be, and connected to nothing."""
        return bound_client(self.group.live.type, self.host, port)

    def close(self) -> None:
        """Close all."""
        self.group.close()
        for sock in [*self.strangers, *self.members]:
            sock.close()


def beside(sock: socket.socket, host: str = "", *, only_ipv6: int | None = None) -> socket.socket:
    """Bind a socket with SO_REUSEPORT beside another one: at its address, or at another host."""
    name = sock.getsockname()
    host = host or name[0]
    other = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, sock.type)
    bpf.allow_others(other)
    if other.family == socket.AF_INET6:
        like_it = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        only = like_it if only_ipv6 is None else only_ipv6
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
    other.bind((host, name[1]))
    if other.type == socket.SOCK_STREAM:
        other.listen(BACKLOG)
    return other


def duplicate(sock: socket.socket) -> socket.socket:
    """Return a socket as a worker has it: one open file, two descriptors."""
    return socket.socket(fileno=os.dup(sock.fileno()))


def shut_down(member: socket.socket) -> None:
    """Do as a worker does that shuts its socket down for everybody who has it."""
    with duplicate(member) as workers:
        workers.shutdown(socket.SHUT_RDWR)


def inodes(*sockets: socket.socket) -> set[int]:
    """Return the numbers by which the kernel knows these."""
    return {os.fstat(sock.fileno()).st_ino for sock in sockets}


def bound_there(sock: socket.socket) -> set[int]:
    """Return the sockets (by inode) at the address of this one, whoever has them."""
    return set(sockdiag.same_place(sock))


def descriptors() -> set[str]:
    """Return what this process has open."""
    return {procfs.link(f"/proc/self/fd/{fd}") for fd in procfs.entries("/proc/self/fd")} - {""}


@pytest.fixture(name="place", params=PLACES)
def fixture_place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Return a group of every kind."""
    with closing(Place(*PLACES[request.param])) as place:
        yield place


@pytest.fixture(name="plain", params=["tcp", "tcp6", "dual-by-4", "udp", "udp6"])
def fixture_plain(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Return a group of some kinds."""
    with closing(Place(*PLACES[request.param])) as place:
        yield place


@pytest.fixture(name="tcp", params=["tcp", "tcp6", "dual-by-4"])
def fixture_tcp(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Return a group of TCP sockets."""
    with closing(Place(*PLACES[request.param])) as place:
        yield place


# -- a network of its own ----------------------------------------------------------------------

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_IFREQ = struct.Struct("16sH22x")
_NO_NETWORK = "network namespaces cannot be made here"


def in_a_network_of_its_own(run: Callable[[], T], *, loopback: bool = True) -> T:
    """Return what the function returns in a process that has a network namespace of its own."""

    def inside() -> T | str:
        if not leave_network():
            return _NO_NETWORK
        if loopback:
            raise_loopback()
        return run()

    result = apart(inside)
    if isinstance(result, str) and result == _NO_NETWORK:
        cannot(_NO_NETWORK)
    return result  # type: ignore[return-value]


def leave_network() -> bool:
    """Go to a new network namespace (unshare(2)); tell whether that could be done."""
    unshare = ctypes.CDLL(None).unshare
    flags = (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET)
    return any(unshare(each) == 0 for each in flags)


def raise_loopback() -> None:
    """Bring up the only device that there is (netdevice(7))."""
    with socket.socket() as sock:
        request = fcntl.ioctl(sock, _SIOCGIFFLAGS, _IFREQ.pack(b"lo", 0))
        _, flags = _IFREQ.unpack(request)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", flags | _IFF_UP))


# -- the handover -----------------------------------------------------------------------------


def test_a_newcomer_gets_nothing_before_the_cut_over(place: Place) -> None:
    """What is new comes to the old one before it, and all of it to the newcomer after it."""
    old, new = place.group.live, place.join()
    assert place.leads_only_to(old)
    assert not connections.waiting(new)
    place.group.cut_over(new)
    assert place.group.live is new
    assert place.leads_only_to(new)
    place.leave(old)
    assert place.leads_only_to(new)


def test_one_generation_after_the_other(place: Place) -> None:
    """So it goes on, and the group does not grow."""
    for _ in range(12):
        old, new = place.group.live, place.join()
        assert place.leads_only_to(old)
        place.group.cut_over(new)
        assert place.leads_only_to(new)
        place.leave(old)
        assert place.leads_only_to(new)
        assert len(bound_there(new)) == 1


def test_what_waits_stays_where_it_is(place: Place) -> None:
    """What came before the cut-over is the old one's to serve."""
    old, new = place.group.live, place.join()
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(place.call())
        place.group.cut_over(new)
        stack.enter_context(place.call())
        assert take_one([new]) is new
        for _ in range(5):
            assert take_one([old]) is old
        assert not connections.waiting(old)
        assert not connections.waiting(new)


def test_a_share_of_what_is_new(plain: Place) -> None:
    """About a tenth of 400 goes to the newcomer, until it is live or has left."""
    old, new = plain.group.live, plain.join()
    plain.group.divert(new, 10)
    there = [plain.reached() for _ in range(400)].count(new)
    assert 10 <= there <= 90
    plain.group.divert(new, 100)
    assert plain.leads_only_to(new)
    assert plain.group.live is old
    plain.leave(new)
    assert plain.leads_only_to(old)
    new = plain.join()
    plain.group.divert(new, 50)
    plain.group.cut_over(old)  # a canary that is called off
    assert plain.leads_only_to(old)


def test_leaving_ends_what_waits(tcp: Place) -> None:
    """Nobody could serve it any more, and nobody else is disturbed."""
    old, new = tcp.group.live, tcp.join()
    with tcp.call() as client:
        tcp.group.cut_over(new)
        tcp.leave(old)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert tcp.leads_only_to(new)


def test_a_stray_process_does_not_keep_a_member(tcp: Place) -> None:
    """Who still holds a socket that has left gets nothing, and the port is not kept by it."""
    old, new = tcp.group.live, tcp.join()
    with duplicate(old) as stray:
        tcp.group.cut_over(new)
        tcp.leave(old)
        assert bound_there(new) == inodes(new)
        assert tcp.leads_only_to(new)
        with pytest.raises(OSError, match="Invalid argument"):
            stray.accept()


@pytest.mark.parametrize("kind", ["udp", "udp6"])
def test_a_stray_process_with_datagrams(kind: str) -> None:
    """A UDP socket cannot be shut down: it stays, gets nothing, and may end at any time."""
    with closing(Place(*PLACES[kind])) as place, ExitStack() as strays:
        held = []
        for _ in range(3):
            old, new = place.group.live, place.join()
            held.append(strays.enter_context(duplicate(old)))
            place.group.cut_over(new)
            place.leave(old)
            assert place.leads_only_to(new)
        assert place.group.strangers() == inodes(*held)
        for stray in held:
            stray.close()
            assert place.leads_only_to(place.group.live)
            place.group.settle()


def test_who_leaves_a_group_that_was_closed(plain: Place) -> None:
    """At the end the order is anybody's."""
    new = plain.join()
    plain.group.close()
    plain.leave(new)
    plain.group.settle()


# -- doors ------------------------------------------------------------------------------------


def test_an_entrance(place: Place) -> None:
    """It leads to its member, live or not, and nobody else from anywhere comes by it."""
    old, new = place.group.live, place.join()
    for live, other in ((old, new), (new, old)):
        place.group.cut_over(live)
        entrance = place.group.open_entrance(other, 3)
        assert place.leads_only_to(live)
        for client in entrance.sockets:
            assert reached(place.members, str(entrance.place[0]), client) is other
        assert place.leads_only_to(live)
        place.group.close_entrance(entrance)
    assert place.doors_lead_home()


def test_a_door_that_is_closed(plain: Place) -> None:
    """Its port is as any other afterwards."""
    new = plain.join()
    entrance = plain.group.open_entrance(new, 1)
    port = entrance.sockets[0].getsockname()[1]
    plain.group.close_entrance(entrance)
    assert entrance.sockets[0].fileno() == -1
    with plain.client(port) as another:
        assert plain.reached(another) is plain.group.live


def test_a_way_that_was_handed_over(plain: Place) -> None:
    """A child has the sockets: the way stays open although the master's are closed."""
    new = plain.join()
    entrance = plain.group.open_entrance(new, 1)
    with duplicate(entrance.sockets[0]) as childs:
        entrance.hand_over()
        assert entrance.sockets[0].fileno() == -1
        assert plain.reached(childs) is new


def test_doors_of_a_member_that_leaves(plain: Place) -> None:
    """They lead to the live one, as any other port."""
    new = plain.join()
    entrance = plain.group.open_entrance(new, 1)
    plain.leave(new)
    assert plain.reached(entrance.sockets[0]) is plain.group.live
    plain.group.close_entrance(entrance)


def test_an_entrance_that_cannot_be(plain: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the kernel refuses, no descriptor is left, and the group is as it was."""
    old, new, before = plain.group.live, plain.join(), descriptors()
    doors: list[Door] = []

    def refuse(_: int, refused: Sequence[Door], __: object) -> bytes:
        doors.extend(refused)
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))  # as where it is too long

    with monkeypatch.context() as patch:
        patch.setattr(bpf, "choose", refuse)
        with pytest.raises(OSError, match="Cannot allocate memory"):
            plain.group.open_entrance(new, 3)
    assert descriptors() == before
    plain.group.settle()
    for door in doors:  # somebody else has the port by now
        with plain.client(door.port) as another:
            assert plain.reached(another) is old
    plain.group.cut_over(new)
    assert plain.leads_only_to(new)


# -- whatever happens -------------------------------------------------------------------------


class History:
    """What happens to a group, step by step; after each, the kernel is asked who gets what."""

    def __init__(self, place: Place, seed: int) -> None:
        self.place = place
        self.steps: list[str] = []
        self._random = random.Random(seed)
        self._expected = place.group.live  # who gets what is new
        self._dead: list[socket.socket] = []  # shut down by their workers
        self._strays: list[socket.socket] = []  # duplicates of members that have left

    def run(self, length: int) -> None:
        """Let so much happen."""
        try:
            for _ in range(length):
                self._step()
            self._end()
        except (AssertionError, OSError, ListenerError, ValueError) as error:
            raise AssertionError(f"after {', '.join(self.steps)}") from error

    def _step(self) -> None:
        step = self._random.choice(self._possible())
        self.steps.append(step.__name__)
        step()
        place = self.place
        # At once, before anybody has looked at who is there.
        assert place.leads_only_to(self._expected)
        place.group.settle()
        assert place.leads_only_to(self._expected)
        assert place.doors_lead_home()
        # A UDP socket cannot be shut down: who holds it still keeps it there.
        strays = self._strays if place.group.live.type == socket.SOCK_DGRAM else []
        assert place.group.strangers() == inodes(*place.strangers, *strays)

    def _end(self) -> None:
        """Have everybody else leave; a few handovers later the live one is alone."""
        group = self.place.group
        for sock in [*self.place.strangers, *self._strays]:
            sock.close()
        group.settle()
        for member in [*self.place.members, *self._dead]:
            if member is not group.live:
                group.leave(member)
        for _ in range(4):
            old, new = group.live, group.join("last", BACKLOG)
            group.cut_over(new)
            group.leave(old)
        assert bound_there(new) == inodes(new)

    def _possible(self) -> list[Callable[[], None]]:
        place = self.place
        tcp = place.group.live.type == socket.SOCK_STREAM
        conditions = {
            self.join: len(place.members) < 5,
            self.cut_over: True,
            self.divert: len(place.members) > 1,
            self.leave: len(place.members) > 1,
            self.leave_to_a_stray: len(place.members) > 1,
            self.stray_ends: bool(self._strays) and self._is_undivided(),
            self.worker_shuts_down: tcp and len(place.members) > 1 and self._is_undivided(),
            self.dead_listens_again: bool(self._dead),
            self.worker_listens_again: tcp,
            self.dead_leaves: bool(self._dead),
            self.strangers_come: len(place.strangers) < 3,
            self.stranger_goes: bool(place.strangers) and self._is_undivided(),
        }
        return [step for step, possible in conditions.items() if possible]

    def _is_undivided(self) -> bool:
        return self._expected is self.place.group.live

    def _another(self) -> socket.socket:
        live = self.place.group.live
        return self._random.choice([m for m in self.place.members if m is not live])

    def join(self) -> None:
        """Begin a generation."""
        self.place.join()

    def cut_over(self) -> None:
        """Have one be live, perhaps the one that was."""
        self._expected = self._random.choice(self.place.members)
        self.place.group.cut_over(self._expected)

    def divert(self) -> None:
        """Have a canary get everything, so that no lots are drawn."""
        self._expected = self._another()
        self.place.group.divert(self._expected, 100)

    def leave(self) -> None:
        """End a generation."""
        member = self._another()
        if member is self._expected:
            self._expected = self.place.group.live
        self.place.leave(member)

    def leave_to_a_stray(self) -> None:
        """End a generation, but for a process of it that has escaped."""
        member = self._another()
        self._strays.append(duplicate(member))
        if member is self._expected:
            self._expected = self.place.group.live
        self.place.leave(member)

    def stray_ends(self) -> None:
        """End a process that had escaped."""
        self._strays.pop(self._random.randrange(len(self._strays))).close()

    def worker_shuts_down(self) -> None:
        """Have a worker shut down a socket that is not live."""
        member = self._another()
        self.place.members.remove(member)
        self._dead.append(member)
        shut_down(member)

    def dead_listens_again(self) -> None:
        """Have its next worker listen; the master has noticed both."""
        member = self._dead.pop()
        member.listen(BACKLOG)
        self.place.group.settle()
        self.place.members.append(member)

    def worker_listens_again(self) -> None:
        """Have one shut down, live or not; the master notices, and listens again."""
        member = self._random.choice(self.place.members)
        shut_down(member)
        self.place.group.settle()
        member.listen(BACKLOG)
        self.place.group.settle()

    def dead_leaves(self) -> None:
        """End a generation whose socket was shut down."""
        self.place.group.leave(self._dead.pop())

    def strangers_come(self) -> None:
        """Bind one or two beside the group."""
        for _ in range(self._random.randint(1, 2)):
            self.place.bind_stranger()

    def stranger_goes(self) -> None:
        """Close one of them."""
        strangers = self.place.strangers
        strangers.pop(self._random.randrange(len(strangers))).close()

    def close(self) -> None:
        """Close all."""
        for sock in [*self._dead, *self._strays]:
            sock.close()
        self.place.close()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["tcp", "tcp6", "dual-by-4", "udp", "udp6"])
def test_whatever_happens(kind: str, seed: int) -> None:
    """Members, workers and strangers come and go: what is new goes where it is meant to go."""
    with closing(History(Place(*PLACES[kind]), seed)) as history:
        history.run(40)


def test_whatever_happens_with_migration() -> None:
    """It is the same where the kernel moves what waited in a queue (net.ipv4.tcp_migrate_req)."""

    def run() -> None:
        Path("/proc/sys/net/ipv4/tcp_migrate_req").write_text("1", encoding="ascii")
        for kind in ("tcp", "dual-by-6"):
            with closing(History(Place(*PLACES[kind]), seed=7)) as history:
                history.run(40)

    in_a_network_of_its_own(run)


# -- who else is bound there --------------------------------------------------------------------


def test_a_plain_bind_is_refused(place: Place) -> None:
    """Another program, or a second master, hears that the address is in use, at any time."""
    assert bind_elsewhere(place) == errno.EADDRINUSE
    old, new, third = place.group.live, place.join(), place.join()
    assert bind_elsewhere(place) == errno.EADDRINUSE
    place.group.cut_over(new)
    place.leave(third)
    assert bind_elsewhere(place) == errno.EADDRINUSE
    place.leave(old)
    assert bind_elsewhere(place) == errno.EADDRINUSE
    with pytest.raises(ListenerError, match="address already in use; stop whoever has it"):
        place.open_anew()


def bind_elsewhere(place: Place, uid: int | None = None) -> int:
    """Return why a process cannot serve there; as another user it sets SO_REUSEPORT, too."""

    def run() -> int:
        with socket.socket(place.group.live.family, place.group.live.type) as sock:
            if sock.type == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(place.group.live.getsockname())
                sock.listen()
            except OSError as error:
                return error.errno or 0
        return 0

    def run_as_another() -> int:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with pytest.raises(OSError, match="Address already in use") as caught:
            beside(place.group.live)
        return caught.value.errno or 0

    return apart(run if uid is None else run_as_another)


def test_the_first_one_takes_an_address_from_nobody(plain: Place) -> None:
    """Where another program serves that allows others beside it, the address is in use."""
    stranger = plain.bind_stranger()
    plain.group.close()
    with pytest.raises(ListenerError, match="address already in use; stop whoever has it"):
        plain.open_anew()
    assert reached([stranger], plain.host) is stranger


def test_another_user_cannot_bind(plain: Place) -> None:
    """SO_REUSEPORT is for sockets of one user (socket(7))."""
    if os.geteuid() != 0:
        cannot("only root can become another user")
    assert bind_elsewhere(plain, NOBODY) == errno.EADDRINUSE
    plain.join()
    assert bind_elsewhere(plain, NOBODY) == errno.EADDRINUSE


def test_a_stranger_gets_nothing(place: Place) -> None:
    """Who binds beside the only member, or beside several, is known and never chosen."""
    old = place.group.live
    first = place.bind_stranger()
    assert place.leads_only_to(old)
    assert place.group.strangers() == inodes(first)
    new = place.join()
    second = place.bind_stranger()
    assert place.leads_only_to(old)
    assert place.group.strangers() == inodes(first, second)
    place.group.cut_over(new)
    place.leave(old)
    assert place.leads_only_to(new)
    place.strangers.pop(0).close()
    assert place.leads_only_to(new)
    assert place.group.strangers() == inodes(second)


@pytest.mark.parametrize("first", [0, 1])
def test_strangers_that_came_unseen(plain: Place, first: int) -> None:
    """Two have come before anybody looked; whichever goes first, the books are right."""
    plain.bind_stranger()
    plain.bind_stranger()
    new = plain.join()
    plain.strangers.pop(first).close()
    plain.group.cut_over(new)
    assert plain.leads_only_to(new)


@pytest.mark.parametrize(
    ("kind", "host", "only_ipv6"),
    [
        ("tcp-any", "127.0.0.1", None),
        ("tcp6-any", "::1", 1),
        ("dual-by-4", "127.0.0.1", None),
        ("dual-by-4", "0.0.0.0", None),
        ("dual-by-6", "::1", 0),
        ("dual-by-6", "::", 1),
        ("udp-any", "127.0.0.1", None),
        ("udp-dual-by-4", "127.0.0.1", None),
        ("udp-dual-by-4", "0.0.0.0", None),
        ("udp-dual-by-6", "::1", 0),
        ("udp-dual-by-6", "::", 1),
    ],
)
def test_a_stranger_at_a_part_of_the_address(kind: str, host: str, only_ipv6: int | None) -> None:
    """It may come before all of ours, whatever is steered: so at least it is known."""
    with closing(Place(*PLACES[kind])) as place:
        old = place.group.live
        with beside(old, host, only_ipv6=only_ipv6) as stranger:
            assert place.group.strangers() == inodes(stranger)
        assert place.group.strangers() == set()
        assert place.leads_only_to(old)


@pytest.mark.parametrize("kind", ["dual-by-6", "udp-dual-by-6"])
def test_a_stranger_for_ipv6_only(kind: str) -> None:
    """Beside a dual-stack socket it begins a group of its own, and does not count in ours."""
    with closing(Place(*PLACES[kind])) as place, ExitStack() as stack:
        stack.enter_context(beside(place.group.live, only_ipv6=1))
        place.host = "127.0.0.1"
        for _ in range(6):
            old, new = place.group.live, place.join()
            assert place.leads_only_to(old)
            place.group.cut_over(new)
            assert place.leads_only_to(new)


@pytest.mark.parametrize(
    ("kind", "other", "to"),
    [
        ("tcp", socket.SOCK_STREAM, "127.0.0.2"),
        ("tcp", socket.SOCK_DGRAM, "127.0.0.1"),
        ("tcp6", socket.SOCK_STREAM, "127.0.0.1"),
        ("tcp6-any", socket.SOCK_STREAM, "127.0.0.1"),
        ("tcp6-any", socket.SOCK_STREAM, "0.0.0.0"),
        ("dual-by-6", socket.SOCK_DGRAM, "::"),
        ("udp", socket.SOCK_DGRAM, "127.0.0.2"),
        ("udp", socket.SOCK_STREAM, "127.0.0.1"),
        ("udp6", socket.SOCK_DGRAM, "127.0.0.1"),
    ],
)
def test_others_at_the_port_who_are_no_strangers(kind: str, other: int, to: str) -> None:
    """Another protocol is another place, and so is another address: they do not count."""

    def bind(place: Place) -> socket.socket:
        sock = bound_client(other, to, place.port)
        if other == socket.SOCK_STREAM:
            sock.listen()
        return sock

    place, sock = at_one_port(lambda: Place(*PLACES[kind]), bind)
    with closing(place), sock:
        for _ in range(6):
            assert place.group.strangers() == set()
            old, new = place.group.live, place.join()
            assert place.leads_only_to(old)
            place.group.cut_over(new)
            place.leave(old)
            assert place.leads_only_to(new)


@pytest.mark.parametrize("kind", ["udp", "udp6"])
def test_a_connected_socket_at_the_address(kind: str) -> None:
    """What is bound beside it gets everything, whatever is steered: so nobody can join."""
    with closing(Place(*PLACES[kind])) as place:
        old, before = place.group.live, descriptors()
        with beside(old) as stranger:
            stranger.connect((place.host, 9))
            with pytest.raises(ListenerError, match="cannot be joined: a connected socket is at"):
                place.join()
            assert place.leads_only_to(old)
        assert descriptors() == before
        new = place.join()
        assert place.leads_only_to(old)
        place.group.cut_over(new)
        assert place.leads_only_to(new)


def test_nothing_is_lost_in_a_spare() -> None:
    """Should the kernel choose it by chance, the client calls in vain, and again, and is led."""
    with closing(Place(*PLACES["tcp"])) as place, ExitStack() as stack:
        place.join()
        place.group.cut_over(place.join())
        bpf.steer(place.group.live, bpf.choose(99))  # as if several had left at once
        for _ in range(24):
            client = stack.enter_context(place.client())
            client.setblocking(False)
            client.connect_ex((place.host, place.port))
        place.group.settle()
        for _ in range(24):
            select.select(place.members, [], [], PATIENCE)[0][0].accept()[0].close()


# -- a socket that was handed over --------------------------------------------------------------


class HandedOver:
    """A socket that systemd has made and holds, and we, too."""

    def __init__(self, kind: int) -> None:
        self.systemd = socket.socket(socket.AF_INET, kind)
        if kind == socket.SOCK_STREAM:
            self.systemd.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.systemd.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            self.systemd.listen(BACKLOG)
        self.ours = duplicate(self.systemd)

    def gather(self) -> Steered:
        """Return the group that it begins."""
        assert gather(self.ours) == ""
        return Steered(self.ours, adopted=self.ours)

    def close(self) -> None:
        """Close it here and there."""
        self.ours.close()
        self.systemd.close()


def leads_only_to(member: socket.socket, *everybody: socket.socket) -> bool:
    """Whether several new connections to 127.0.0.1 reach this one of all these."""
    return [reached(everybody, "127.0.0.1") for _ in range(6)] == [member] * 6


@pytest.fixture(name="handed_over", params=[socket.SOCK_STREAM, socket.SOCK_DGRAM])
def fixture_handed_over(request: pytest.FixtureRequest) -> Iterator[HandedOver]:
    """Return a socket of each type."""
    with closing(HandedOver(request.param)) as handed_over:
        yield handed_over


def test_a_group_around_a_socket_that_was_handed_over(handed_over: HandedOver) -> None:
    """It is steered as any other; and it outlives the group, live again at the end."""
    first, group = handed_over.ours, handed_over.gather()
    for _ in range(2):  # a reload may leave it out, and another one bring it back
        second, third = group.join("2", BACKLOG), group.join("3", BACKLOG)
        for member in (second, first, third):
            group.cut_over(member)
            assert leads_only_to(member, first, second, third)
        group.leave(first)  # its generation is gone; it stays
        assert leads_only_to(third, first, second, third)
        group.leave(second)
        assert leads_only_to(third, first, third)
        group.park()
        assert group.live is first
        assert leads_only_to(first, first, third)
        group.close()
        assert third.fileno() == -1
        assert bound_there(first) == inodes(first)
        assert leads_only_to(first, first)
    first.close()
    assert leads_only_to(handed_over.systemd, handed_over.systemd)


def test_adopting_loses_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those that wait nor those that come while the group is made are lost."""
    with closing(HandedOver(socket.SOCK_STREAM)) as handed_over, ExitStack() as stack:

        def call(number: int) -> list[socket.socket]:
            clients = [stack.enter_context(socket.socket()) for _ in range(number)]
            for client in clients:
                client.setblocking(False)
                client.connect_ex(handed_over.ours.getsockname())
            return clients

        during: list[socket.socket] = []
        steer = bpf.steer

        def steer_while_others_come(member: socket.socket, program: bytes) -> None:
            during.extend([] if during else call(20))
            steer(member, program)

        before = call(20)
        monkeypatch.setattr(bpf, "steer", steer_while_others_come)
        group = handed_over.gather()
        after = call(20)
        assert len(during) == 20
        for _ in (*before, *during, *after):
            assert take_one([handed_over.ours]) is group.live


def test_an_address_with_others(handed_over: HandedOver) -> None:
    """With ReusePort= several services may share an address: it is not taken from any of them."""
    bpf.allow_others(handed_over.ours)
    with beside(handed_over.ours) as other:
        assert "others are bound to its address, too" in gather(handed_over.ours)
        found = {reached([handed_over.ours, other], "127.0.0.1") for _ in range(64)}
        assert found == {handed_over.ours, other}


def test_a_socket_of_another_network(handed_over: HandedOver) -> None:
    """With PrivateNetwork= there could be a second one only where nobody comes from outside."""

    def run() -> str:
        if not leave_network():
            return _NO_NETWORK
        raise_loopback()
        obstacle = gather(handed_over.ours)
        assert not handed_over.ours.getsockopt(socket.SOL_SOCKET, SO_REUSEPORT)
        return obstacle

    obstacle = apart(run)
    if obstacle == _NO_NETWORK:
        cannot(_NO_NETWORK)
    assert "it is of another network namespace" in obstacle


def test_connections_that_are_accepted_with_their_first_byte() -> None:
    """With DeferAcceptSec= (TCP_DEFER_ACCEPT) a member joins, and is like the first one."""
    with closing(HandedOver(socket.SOCK_STREAM)) as handed_over:
        handed_over.ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
        group = handed_over.gather()
        new = group.join("2", BACKLOG)
        assert new.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) > 0
        assert not connections.waiting(new)
        group.cut_over(new)
        with socket.create_connection(new.getsockname()) as client:
            client.send(b"GET")
            assert take_one([handed_over.ours, new]) is new
        group.close()


def test_a_member_is_like_the_first_one() -> None:
    """What systemd has set on a socket, its successors have, too."""
    options = [
        (socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000),
        (socket.SOL_SOCKET, socket.SO_SNDBUF, 50_000),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    ]
    with closing(HandedOver(socket.SOCK_STREAM)) as handed_over:
        for level, option, value in options:
            handed_over.ours.setsockopt(level, option, value)
        group = handed_over.gather()
        new = group.join("2", BACKLOG)
        for level, option, _ in options:
            assert new.getsockopt(level, option) == handed_over.ours.getsockopt(level, option) > 0
        group.close()


@pytest.mark.parametrize("nonblock", [0, 1])
def test_a_member_is_as_was_asked_for(nonblock: int) -> None:
    """It has the backlog, blocks or does not block, and is the master's alone."""
    for text in ("127.0.0.1:0", "udp:127.0.0.1:0"):
        with closing(Place(f"{text}?nonblock={nonblock}", "127.0.0.1")) as place:
            new = place.join()
            assert os.get_blocking(new.fileno()) is not bool(nonblock)
            assert not os.get_inheritable(new.fileno())
            if new.type == socket.SOCK_STREAM:
                info = new.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
                assert struct.unpack_from("=I", info, 28)[0] == BACKLOG  # tcpi_sacked


# -- where the kernel refuses -------------------------------------------------------------------

_SYSTEM_CALLS = {"x86_64": (54, 41), "aarch64": (208, 198)}  # setsockopt(2) and socket(2)
_REFUSALS = {  # which of the two, and which of its arguments has which value
    "steering": (0, 2, 51),  # SO_ATTACH_REUSEPORT_CBPF
    "netlink": (1, 0, int(socket.AF_NETLINK)),  # RestrictAddressFamilies= of systemd.exec(5)
}
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2  # of prctl(2)

needs_numbers = pytest.mark.skipif(
    platform.machine() not in _SYSTEM_CALLS, reason="the numbers of the calls are not known"
)


def refuse_in_kernel(what: str) -> None:
    """Have the kernel refuse a system call of this process with EPERM (seccomp(2))."""
    call, argument, value = _REFUSALS[what]
    steps = (
        (0x20, 0, 0, 0),  # the number of the call
        (0x15, 0, 3, _SYSTEM_CALLS[platform.machine()][call]),
        (0x20, 0, 0, 16 + 8 * argument),
        (0x15, 0, 1, value),
        (0x06, 0, 0, 0x00050000 | errno.EPERM),  # SECCOMP_RET_ERRNO
        (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    )
    program = b"".join(struct.pack("=HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(program, len(program))
    libc.prctl(_NO_NEW_PRIVILEGES, 1)
    filter_program = struct.pack("@HP", len(steps), ctypes.addressof(buffer))
    assert ctypes.CDLL(None).prctl(_SET_SECCOMP, _FILTER, filter_program, 0, 0) == 0


@needs_numbers
@pytest.mark.parametrize("what", _REFUSALS)
@pytest.mark.parametrize("text", ["127.0.0.1:0", "udp:127.0.0.1:0", "[::1]:0"])
def test_a_kernel_without_steering(what: str, text: str) -> None:
    """One socket for all generations is opened, with the reason; and it is nobody else's."""

    def run() -> None:
        refuse_in_kernel(what)
        before = descriptors()
        group = open_listener(parse(text, 0)).group
        assert isinstance(group, Shared)
        assert group.obstacle == "the kernel has no steering here (Operation not permitted)"
        assert len(descriptors()) == len(before) + 1
        with pytest.raises(OSError, match="Address already in use"):
            beside(group.live)
        assert reached([group.live], group.live.getsockname()[0]) is group.live

    apart(run)


@needs_numbers
@pytest.mark.parametrize("what", _REFUSALS)
def test_a_kernel_that_steers_no_more(plain: Place, what: str) -> None:
    """Nobody can join, which is said, and nothing is left of the attempt."""

    def run() -> None:
        old, before = plain.group.live, descriptors()
        refuse_in_kernel(what)
        reason = "cannot be joined: Operation not permitted; --handover shared does without"
        with pytest.raises(ListenerError, match=reason):
            plain.join()
        assert descriptors() == before
        assert plain.leads_only_to(old)

    apart(run)


def test_a_kernel_that_does_not_do_as_told(plain: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a program is taken and nothing is steered by it, the newcomer is not believed."""
    old, before = plain.group.live, descriptors()
    everything_to_the_first = bpf.choose(0)
    monkeypatch.setattr(bpf, "choose", lambda *_: everything_to_the_first)
    monkeypatch.setattr(handshake, "_PATIENCE", 20)
    with pytest.raises(ListenerError, match="cannot be joined: the kernel does not steer to it"):
        plain.join()
    assert descriptors() == before
    assert bound_there(old) == inodes(old)


def test_no_descriptor_is_left() -> None:
    """However few there are: a member joins, or it is said why not; nothing comes of half of it."""

    def run() -> list[str]:
        place = Place(*PLACES["tcp"])
        return [outcome_with(place, descriptors_left) for descriptors_left in range(6)]

    def outcome_with(place: Place, descriptors_left: int) -> str:
        old, before = place.group.live, descriptors()
        try:
            with limited_to(descriptors_left):
                place.join()
        except ListenerError as error:
            assert descriptors() == before
            assert place.leads_only_to(old)
            return str(error).partition(": cannot be joined: ")[2]
        place.leave(place.members[-1])
        assert descriptors() == before
        return "joined"

    outcomes = apart(run)
    why = "Too many open files; --handover shared does without a second socket"
    joined = outcomes.count("joined")
    assert joined > 0
    assert outcomes == [why] * (6 - joined) + ["joined"] * joined


@contextmanager
def limited_to(descriptors_left: int) -> Iterator[None]:
    """Let this process open so many descriptors more, and not one beyond."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.dup(0) for _ in range(descriptors_left + 1)]  # the lowest ones
    for fd in free:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_cut_over_needs_no_descriptor() -> None:
    """Where there is none, it is said afterwards; what is new goes where it is meant to go."""

    def run() -> None:
        place = Place(*PLACES["tcp"])
        new = place.join()
        with limited_to(0), suppress(OSError):
            place.group.cut_over(new)
        assert place.leads_only_to(new)

    apart(run)


def test_a_spare_that_cannot_be_had(plain: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one behind it a member is live all the same."""
    plain.join()
    last = plain.join()

    def refuse(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(steering, "_twin", refuse)
    plain.group.cut_over(last)
    assert plain.leads_only_to(last)


@pytest.mark.parametrize("adopted", [False, True])
def test_one_socket_for_all(*, adopted: bool) -> None:
    """A shared one is there for everybody, whoever comes and goes."""
    with socket.create_server(("127.0.0.1", 0)) as only:
        group = Shared(only, "because", adopted=adopted)
        assert group.join("2", BACKLOG) is only
        group.cut_over(only)
        group.divert(only, 10)
        group.settle()
        group.park()
        group.leave(only)
        assert group.strangers() == set()
        entrance = group.open_entrance(only, 3)
        assert (entrance.family, entrance.place) == (only.family, only.getsockname())
        assert reached([only], "127.0.0.1") is only
        group.close_entrance(entrance)
        group.close()
        assert (only.fileno() >= 0) is adopted


# -- networks that are not as usual ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dual-by-4", "udp-dual-by-4"])
def test_where_ipv6_is_disabled(kind: str) -> None:
    """As in many containers: a dual-stack socket can be bound there, and ::1 does not exist."""

    def run() -> None:
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1", encoding="ascii")
        place = Place(*PLACES[kind])
        old, new = place.group.live, place.join()
        assert place.leads_only_to(old)
        assert place.doors_lead_home()
        place.group.cut_over(new)
        assert place.leads_only_to(new)

    in_a_network_of_its_own(run)


@pytest.mark.parametrize("kind", ["tcp", "tcp-any", "dual-by-4", "udp", "udp-dual-by-4"])
def test_where_there_is_no_loopback(kind: str) -> None:
    """Nothing can be proved where nobody can connect; that is no reason not to join."""

    def run() -> None:
        place = Place(*PLACES[kind])
        old, new = place.group.live, place.join()
        raise_loopback()
        assert place.leads_only_to(old)
        place.group.cut_over(new)
        assert place.leads_only_to(new)

    in_a_network_of_its_own(run, loopback=False)
