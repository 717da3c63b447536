"""The program of a group, as the kernel runs it: which socket gets what is new."""

from __future__ import annotations

import errno
import select
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol, TypeVar

import pytest

from overseer_py.system import bpf
from overseer_py.system.bpf import Door, choose
from tests.master import PATIENCE

KINDS = {
    "tcp4": (socket.SOCK_STREAM, "127.0.0.1"),
    "tcp6": (socket.SOCK_STREAM, "::1"),
    "udp4": (socket.SOCK_DGRAM, "127.0.0.1"),
    "udp6": (socket.SOCK_DGRAM, "::1"),
}
SO_REUSEPORT = 15


def unbound(kind: int, host: str) -> socket.socket:
    """Return a socket of this type for an address of that family."""
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)


def bound_client(kind: int, host: str, port: int = 0) -> socket.socket:
    """Return a socket to call from, bound to an address of this machine."""
    client = unbound(kind, host)
    try:
        client.bind((host, port))
    except OSError:
        client.close()
        raise
    return client


@contextmanager
def call(kind: int, place: tuple[str, int], client: socket.socket | None) -> Iterator[None]:
    """Connect to a place, or send a datagram there; a client of the test's own stays open."""
    with ExitStack() as stack:
        caller = client or stack.enter_context(unbound(kind, place[0]))
        caller.settimeout(PATIENCE)
        if kind == socket.SOCK_STREAM:
            caller.connect(place)
        else:
            caller.sendto(b"hello", place)
        yield


def take_one(sockets: Sequence[socket.socket]) -> socket.socket:
    """Wait until something new comes to one of these sockets, take it out, and return that one."""
    wait = select.poll()
    for sock in sockets:
        wait.register(sock, select.POLLIN)
    ready = {fd for fd, _ in wait.poll(1000 * PATIENCE)}
    (reached,) = (sock for sock in sockets if sock.fileno() in ready)
    if reached.type == socket.SOCK_STREAM:
        reached.accept()[0].close()
    else:
        reached.recv(9, socket.MSG_DONTWAIT)
    return reached


def reached(
    sockets: Sequence[socket.socket], host: str, client: socket.socket | None = None
) -> socket.socket:
    """Return which of the sockets at one port gets what comes to it at this address."""
    kind, port = sockets[0].type, sockets[0].getsockname()[1]
    with call(kind, (host, port), client):
        return take_one(sockets)


class _Closable(Protocol):
    def close(self) -> None: ...


_C = TypeVar("_C", bound=_Closable)


def at_one_port(
    first: Callable[[], _C], second: Callable[[_C], socket.socket]
) -> tuple[_C, socket.socket]:
    """Return two at one port; another port is tried where only the first one finds it free."""
    while True:
        one = first()
        try:
            return one, second(one)
        except OSError as error:
            one.close()
            if error.errno != errno.EADDRINUSE:
                raise


class Bench:
    """Three sockets of one group, in the order of their indexes."""

    def __init__(self, kind: int, host: str, to: str) -> None:
        """``to`` is the address by which they are reached."""
        self.kind, self.to = kind, to
        self.sockets: list[socket.socket] = []
        for _ in range(3):
            sock = unbound(kind, host)
            bpf.allow_others(sock)
            if not self.sockets:
                bpf.steer(sock, choose(0))
            sock.bind((host, self.sockets[0].getsockname()[1] if self.sockets else 0))
            if kind == socket.SOCK_STREAM:
                sock.listen()
            self.sockets.append(sock)

    def steer(self, program: bytes) -> None:
        """Attach a program."""
        bpf.steer(self.sockets[1], program)

    def reached(self, client: socket.socket | None = None) -> int:
        """Return the index of the one that is reached."""
        return self.sockets.index(reached(self.sockets, self.to, client))

    def client(self, host: str = "", port: int = 0) -> socket.socket:
        """Return a socket that is bound to an address of this machine, and connected to none."""
        return bound_client(self.kind, host or self.to, port)

    def close(self) -> None:
        """Close all."""
        for sock in self.sockets:
            sock.close()


@pytest.fixture(name="bench", params=KINDS)
def fixture_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Return a group of each kind."""
    kind, host = KINDS[request.param]
    bench = Bench(kind, host, host)
    yield bench
    bench.close()


@pytest.fixture(name="tcp")
def fixture_tcp() -> Iterator[Bench]:
    """Return a group of TCP sockets."""
    bench = Bench(*KINDS["tcp4"], to="127.0.0.1")
    yield bench
    bench.close()


def test_all_goes_to_the_live_one(bench: Bench) -> None:
    """Whatever is attached last, by whichever member, holds for every new connection."""
    for live in (0, 2, 1, 0):
        bench.steer(choose(live))
        assert [bench.reached() for _ in range(6)] == [live] * 6


def test_a_program_is_there_before_the_others(bench: Bench) -> None:
    """What was attached before the first one listened (UDP: was bound) holds for those who join."""
    assert [bench.reached() for _ in range(6)] == [0] * 6


def test_a_door_leads_past_the_program(bench: Bench) -> None:
    """From its address and port, and from no other port, a door leads to its socket."""
    with bench.client() as one, bench.client() as two, bench.client() as other:
        doors = [Door(bench.to, one.getsockname()[1], 1), Door(bench.to, two.getsockname()[1], 2)]
        bench.steer(choose(0, doors))
        assert bench.reached() == 0
        assert bench.reached(one) == 1
        assert bench.reached(other) == 0
        assert bench.reached(two) == 2


@pytest.mark.parametrize(
    ("kind", "others"),
    [
        ("tcp4", ("127.0.0.2", "126.0.0.1", "127.1.0.1", "1::1", "::1")),
        ("udp4", ("127.0.0.2", "126.0.0.1", "127.1.0.1", "1::1", "::1")),
        ("tcp6", ("::2", "::1:0:1", "0:0:1::1", "1::1", "127.0.0.1", "0.0.0.1")),
        ("udp6", ("::2", "::1:0:1", "0:0:1::1", "1::1", "127.0.0.1", "0.0.0.1")),
    ],
)
def test_a_door_is_for_one_address_only(kind: str, others: Sequence[str]) -> None:
    """The same port of any other address is no door, whichever part of the address differs."""
    bench = Bench(*KINDS[kind], to=KINDS[kind][1])
    with ExitStack() as stack:
        stack.callback(bench.close)
        client = stack.enter_context(bench.client())
        port = client.getsockname()[1]
        bench.steer(choose(0, [Door(other, port, 1) for other in others]))
        assert bench.reached(client) == 0


def test_the_same_port_of_two_addresses(tcp: Bench) -> None:
    """Two doors may differ in their address only."""
    one, two = at_one_port(tcp.client, lambda one: tcp.client("127.0.0.2", one.getsockname()[1]))
    with one, two:
        port = one.getsockname()[1]
        tcp.steer(choose(0, [Door("127.0.0.1", port, 1), Door("127.0.0.2", port, 2)]))
        assert tcp.reached(two) == 2
        assert tcp.reached(one) == 1


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_doors_of_a_dual_stack_socket(kind: int) -> None:
    """Behind one port an IPv4 door is for IPv4, and an IPv6 door for IPv6."""
    bench = Bench(kind, "::", "::1")
    with ExitStack() as stack:
        stack.callback(bench.close)
        four, six = at_one_port(
            lambda: bound_client(kind, "127.0.0.1"),
            lambda four: bound_client(kind, "::1", four.getsockname()[1]),
        )
        stack.enter_context(four)
        stack.enter_context(six)
        port = six.getsockname()[1]
        bench.to = "127.0.0.1"
        bench.steer(choose(0, [Door("127.0.0.1", port, 1), Door("::1", port, 2)]))
        assert bench.reached() == 0
        assert bench.reached(four) == 1
        bench.to = "::1"
        assert bench.reached() == 0
        assert bench.reached(six) == 2


@pytest.mark.parametrize("kind", ["tcp4", "udp4"])
def test_options_in_the_header(kind: str) -> None:
    """The port is found behind an IPv4 header of any length (RFC 791, section 3.1)."""
    bench = Bench(*KINDS[kind], to="127.0.0.1")
    with ExitStack() as stack:
        stack.callback(bench.close)
        for options in (b"\1\1\1\0", b"\1" * 39 + b"\0"):
            client = stack.enter_context(bench.client())
            client.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, options)
            bench.steer(choose(0, [Door("127.0.0.1", client.getsockname()[1], 1)]))
            assert bench.reached(client) == 1


def test_many_doors(bench: Bench) -> None:
    """There is room for some hundreds, and the last one is as good as the first."""
    with ExitStack() as stack:
        clients = [stack.enter_context(bench.client()) for _ in range(400)]
        doors = [Door(bench.to, c.getsockname()[1], 1 + i % 2) for i, c in enumerate(clients)]
        program = choose(0, doors)
        assert len(program) < 8 * 900, "with 20 kB, as before Linux 6.8, it would be refused"
        bench.steer(program)
        assert bench.reached() == 0
        for index in (0, 1, 127, 128, 254, 255, 256, 398, 399):
            assert bench.reached(clients[index]) == 1 + index % 2
        other = "127.0.0.2" if bench.to == "127.0.0.1" else "::2"
        elsewhere = [Door(other, door.port, 1) for door in doors]
        for number in (1, 124, 125, 126, 127, 128, 129, 400):
            client = stack.enter_context(bench.client())
            bench.steer(
                choose(0, [*elsewhere[:number], Door(bench.to, client.getsockname()[1], 2)])
            )
            assert bench.reached() == 0
            assert bench.reached(client) == 2


@pytest.mark.parametrize(("percent", "least", "most"), [(10, 10, 90), (50, 130, 270)])
def test_a_share_is_drawn_by_lot(bench: Bench, percent: int, least: int, most: int) -> None:
    """About so many per cent of 400 go there, and all others to the live one."""
    bench.steer(choose(2, share=(1, percent)))
    count = Counter(bench.reached() for _ in range(400))
    assert least <= count[1] <= most  # five standard deviations and more
    assert count[1] + count[2] == 400


def test_all_or_nothing_is_a_share(bench: Bench) -> None:
    """0 per cent is none and 100 per cent is all, but for what comes through a door."""
    with bench.client() as one, bench.client() as two:
        doors = [Door(bench.to, client.getsockname()[1], 2) for client in (one, two)]
        for percent, expected, client in ((0, 0, one), (100, 1, two)):
            bench.steer(choose(0, doors, (1, percent)))
            assert [bench.reached() for _ in range(200)] == [expected] * 200
            assert bench.reached(client) == 2


def test_a_deaf_socket_hears_nothing(bench: Bench) -> None:
    """Packets to it are lost without a trace, until it is to hear again."""
    deaf = bench.sockets[1]
    bpf.deafen(deaf)
    with bench.client() as client, bench.client() as other:
        bench.steer(choose(1, [Door(bench.to, other.getsockname()[1], 0)]))
        client.setblocking(False)
        if bench.kind == socket.SOCK_STREAM:
            client.connect_ex(deaf.getsockname())
        else:
            client.sendto(b"lost", deaf.getsockname())
        # What comes later has come: so the first is lost, however often it is sent again.
        assert bench.reached(other) == 0
        assert not select.select([deaf], [], [], 0)[0]
    bpf.undeafen(deaf)
    bpf.undeafen(deaf)  # nor is it an error where nobody is deaf
    bench.steer(choose(1))
    assert bench.reached() == 1


def test_a_socket_without_a_group() -> None:
    """A program is refused where it would have nothing to choose from."""
    with socket.socket() as alone, pytest.raises(OSError, match="Invalid argument"):
        bpf.steer(alone, choose(0))
    with socket.create_server(("127.0.0.1", 0)) as alone:
        bpf.allow_others(alone)
        with pytest.raises(OSError, match="Invalid argument"):
            bpf.steer(alone, choose(0))


def test_whether_others_are_allowed() -> None:
    """The option is set, and unset."""
    with socket.socket() as sock:
        for allowed in (1, 0):
            bpf.allow_others(sock, allowed)
            assert sock.getsockopt(socket.SOL_SOCKET, SO_REUSEPORT) == allowed
