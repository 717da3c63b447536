"""What a generation still has to do, as the kernel tells it: real connections in every stage."""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from overseer_py.address import parse
from overseer_py.system import bpf, connections
from overseer_py.system.connections import Unfinished
from overseer_py.system.listeners import open_listener
from overseer_py.system.sockdiag import Entry, State
from tests.master import PATIENCE
from tests.system.apart import apart

SOON, LATE = 50, 10**6  # milliseconds: a jiffy has 10 at most; no machine is as slow as that

REQUEST = b"GET / HTTP/1.1\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
PLACES = {  # what is listened on, and how to get there
    "tcp": ("127.0.0.1:0", "127.0.0.1"),
    "tcp6": ("[::1]:0", "::1"),
    "dual-by-4": (":0", "127.0.0.1"),
    "dual-by-6": (":0", "::1"),
}


def saw(fact: Callable[[], object]) -> bool:
    """Wait until something is so."""
    give_up_at = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    return True


def has_waiting(listener: socket.socket, number: int) -> None:
    """Wait until so many connections wait, not fewer and not more."""
    saw(lambda: connections.waiting(listener) == number)


def inode(sock: socket.socket) -> int:
    """Return the number by which the kernel knows a socket."""
    return os.fstat(sock.fileno()).st_ino


def open_now(listeners: Iterable[socket.socket]) -> list[Entry]:
    """Return the connections to these listeners whose handshake is done."""
    return [o for o in connections.at_ports(listeners) if not connections.is_half_open(o)]


def half_open(listener: socket.socket) -> set[int]:
    """Return the clients (by their ports) whose handshake with a listener is half done."""
    found = connections.at_ports([listener])
    return {int.from_bytes(o.peer[0]) for o in found if connections.is_half_open(o)}


def port(client: socket.socket) -> int:
    """Return the port of a client."""
    return int(client.getsockname()[1])


class Server:
    """A listener, and its clients."""

    def __init__(self, text: str, host: str) -> None:
        """``host`` is the address by which it is reached."""
        self._opened = open_listener(parse(text, 0))
        self.listener = self._opened.socket
        self.host, self.port = host, self._opened.port or 0
        self._stack = ExitStack()

    def client(self) -> socket.socket:
        """Return a socket for a client, not connected yet."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        return self._stack.enter_context(socket.socket(family, self.listener.type))

    def call(self) -> socket.socket:
        """Return a client's connection that nobody has accepted yet."""
        client = self.client()
        client.connect((self.host, self.port))
        return client

    def accept(self) -> Connection:
        """Accept the next connection."""
        return Connection(self.listener, self._stack.enter_context(self.listener.accept()[0]))

    def close(self) -> None:
        """Close all."""
        self._stack.close()
        self._opened.close()


class Connection:
    """The server's end of a connection, and what the kernel lists of it."""

    def __init__(self, listener: socket.socket, sock: socket.socket) -> None:
        self.listener, self.socket = listener, sock

    @property
    def entry(self) -> Entry:
        """The entry as it is now."""
        (entry,) = (o for o in open_now([self.listener]) if o.inode == inode(self.socket))
        return entry

    @property
    def is_busy(self) -> bool:
        """Whether it may be in a request, with the last byte just gone."""
        return is_busy(self.entry, LATE)

    def becomes_idle(self) -> bool:
        """Whether it is between two requests once it has been still for a while, and not before."""
        while is_busy(last := self.entry, SOON):
            time.sleep(0.01)
        assert age(last) >= SOON
        return True

    def is_busy_for_good(self) -> bool:
        """Whether it is busy, and long after the last byte, too."""
        assert self.is_busy
        saw(lambda: age(self.entry) > 2 * SOON)
        return is_busy(self.entry, SOON)

    def read(self) -> None:
        """Read what has come of a request."""
        assert self.socket.recv(65536)


def is_busy(connection: Entry, still: int) -> bool:
    """Whether a connection is busy if it is not after so many milliseconds without a byte."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "STILL", still)
        return connections.is_busy(connection)


def age(connection: Entry) -> int:
    """Return how many milliseconds ago anything was sent or received.

    Before that, both are the moment of the set-up, which may be two jiffies: the one that the
    connection was received in counts.
    """
    sent, _, received = struct.unpack_from("=III", connection.tcp_info, 44)
    return min(int(sent), int(received)) if connections.has_answered(connection) else int(received)


@pytest.fixture(name="server", params=PLACES)
def fixture_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Return a server of every kind."""
    with closing(Server(*PLACES[request.param])) as server:
        yield server


@pytest.fixture(name="tcp")
def fixture_tcp() -> Iterator[Server]:
    """Return a TCP server."""
    with closing(Server(*PLACES["tcp"])) as server:
        yield server


# -- the queue --------------------------------------------------------------------------------


def test_connections_that_wait(server: Server) -> None:
    """They are counted until somebody accepts them, whoever it is that looks."""
    for number in range(4):
        has_waiting(server.listener, number)
        server.call()
    with socket.socket(fileno=os.dup(server.listener.fileno())) as workers:
        for number in (3, 2, 1, 0):
            workers.accept()[0].close()
            has_waiting(server.listener, number)


def test_a_connection_that_ended_in_the_queue_waits(tcp: Server) -> None:
    """Its request may be in there: only who accepts it can tell."""
    client = tcp.call()
    client.send(REQUEST)
    client.close()
    has_waiting(tcp.listener, 1)
    tcp.accept()
    assert connections.waiting(tcp.listener) == 0


def test_datagrams_that_wait() -> None:
    """Whether there are any is told, also an empty one; and they stay there."""
    for place in (("udp:127.0.0.1:0", "127.0.0.1"), ("udp:[::1]:0", "::1")):
        with closing(Server(*place)) as server:
            assert connections.waiting(server.listener) == 0
            client = server.call()
            for datagram in (b"one", b"", b"three"):
                client.send(datagram)
            for datagram in (b"one", b"", b"three"):
                saw(lambda: connections.waiting(server.listener))
                assert server.listener.recv(9) == datagram
            assert connections.waiting(server.listener) == 0


def test_connections_that_wait_at_a_path(tmp_path: Path) -> None:
    """They are counted until somebody accepts them."""
    path = f"{tmp_path}/app"
    with closing(open_listener(parse(f"unix:{path}", 0))) as opened, ExitStack() as stack:
        for number in range(4):
            assert connections.waiting(opened.socket) == number
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(path)
        for number in (3, 2, 1, 0):
            opened.socket.accept()[0].close()
            assert connections.waiting(opened.socket) == number


def test_nothing_waits_where_nobody_listens(tcp: Server) -> None:
    """A listener that was shut down has lost its queue."""
    tcp.call()
    tcp.listener.shutdown(socket.SHUT_RDWR)
    assert connections.waiting(tcp.listener) == 0


# -- handshakes ---------------------------------------------------------------------------------


def begin(server: Server) -> socket.socket:
    """Begin a handshake that goes no further: the client is deaf to the server's answer."""
    client = server.client()
    bpf.deafen(client)
    client.setblocking(False)
    assert client.connect_ex((server.host, server.port)) == errno.EINPROGRESS
    return client


def test_half_open_connections(server: Server) -> None:
    """They are told by their clients, and do not wait to be accepted yet."""
    assert half_open(server.listener) == set()
    one, two = begin(server), begin(server)
    server.call()  # not this one: it is done
    has_waiting(server.listener, 1)
    saw(lambda: half_open(server.listener) == {port(one), port(two)})
    assert len(open_now([server.listener])) == 1


def test_half_open_connections_elsewhere(tcp: Server) -> None:
    """Those to another port are not ours, and at a path or for datagrams there are none."""
    with closing(Server(*PLACES["tcp"])) as other:
        begin(other)
        saw(lambda: len(half_open(other.listener)) == 1)
        assert half_open(tcp.listener) == set()
    with closing(Server("udp:127.0.0.1:0", "127.0.0.1")) as datagrams:
        assert half_open(datagrams.listener) == set()
    with socket.socket(socket.AF_UNIX) as path:
        path.bind("")
        path.listen()
        assert half_open(path) == set()


def test_a_handshake_stays_with_who_began_it(tcp: Server) -> None:
    """Whatever is steered meanwhile, it comes to the queue of the socket that got its SYN."""
    group, old = tcp._opened.group, tcp.listener  # noqa: SLF001 - the group of this server
    client, new = begin(tcp), group.join("2", 9)
    saw(lambda: half_open(old))
    group.cut_over(new)
    assert half_open(old) == half_open(new) == {port(client)}
    bpf.undeafen(client)
    has_waiting(old, 1)
    assert connections.waiting(new) == 0
    assert half_open(old) == set()
    old.close()


# -- a connection and its requests ----------------------------------------------------------------


def test_a_fresh_connection(server: Server) -> None:
    """It is busy: a request may be on its way; if none comes, it is not."""
    server.call()
    connection = server.accept()
    assert connection.is_busy
    assert connection.becomes_idle()
    assert not connections.has_answered(connection.entry)


def test_a_request(server: Server) -> None:
    """From its first byte to the answer the connection is busy, however long that takes."""
    client = server.call()
    connection = server.accept()
    assert connection.becomes_idle()
    for answered in (False, True):  # on a kept-alive connection it is the same
        client.send(REQUEST)
        saw(lambda: connection.entry.unread == len(REQUEST))
        assert connections.has_answered(connection.entry) is answered
        assert connection.is_busy_for_good(), "it is not read yet"
        connection.read()
        assert connection.entry.unread == 0
        assert connection.is_busy_for_good(), "it is not answered yet"
        connection.socket.send(ANSWER)
        assert connection.is_busy, "this may be the first part only"
        assert connections.has_answered(connection.entry)
        assert connection.becomes_idle()
        assert client.recv(99) == ANSWER


def test_a_request_in_parts(tcp: Server) -> None:
    """One that has begun is not over before it was answered, all of it or not."""
    client = tcp.call()
    connection = tcp.accept()
    client.send(REQUEST[:5])
    connection.read()
    assert connection.is_busy_for_good()
    client.send(REQUEST[5:])
    connection.read()
    assert connection.is_busy_for_good()


def test_an_answer_that_has_not_arrived(tcp: Server) -> None:
    """What the client has not acknowledged may be lost with the program."""
    client = tcp.call()
    connection = tcp.accept()
    client.send(REQUEST)
    connection.read()
    bpf.deafen(client)
    connection.socket.send(ANSWER)
    assert connection.is_busy_for_good()
    assert connection.entry.unsent == len(ANSWER)
    bpf.undeafen(client)
    assert connection.becomes_idle()
    assert client.recv(99) == ANSWER


def test_a_client_that_says_no_more(tcp: Server) -> None:
    """Half-closed by the client: busy until it was answered, as any other."""
    client = tcp.call()
    connection = tcp.accept()
    client.send(REQUEST)
    client.shutdown(socket.SHUT_WR)
    saw(lambda: connection.entry.state == State.CLOSE_WAIT)
    connection.read()
    assert connection.is_busy_for_good(), "it has not heard the end yet"
    assert connection.socket.recv(9) == b""
    assert connection.is_busy_for_good()
    connection.socket.send(ANSWER)
    assert connection.is_busy
    assert connection.becomes_idle()


def test_a_client_that_is_gone(tcp: Server) -> None:
    """It has hung up without a word: the server has only to hear of it, and that counts."""
    client = tcp.call()
    connection = tcp.accept()
    client.close()
    saw(lambda: connection.entry.state == State.CLOSE_WAIT)
    assert connection.is_busy_for_good()
    connection.socket.close()
    saw(lambda: not open_now([tcp.listener]))


STILL = connections.STILL


def info(*, sent: int, received: int, bytes_received: int = 9, segments_sent: int = 1) -> bytes:
    """Return a struct tcp_info; the first two are milliseconds ago."""
    data = bytearray(232)
    struct.pack_into("=III", data, 44, sent, 0, received)
    struct.pack_into("=Q", data, 128, bytes_received)
    struct.pack_into("=I", data, 156, segments_sent)
    return bytes(data)


def entry(tcp_info: bytes, unread: int = 0, unsent: int = 0) -> Entry:
    """Return an entry of the kernel's list."""
    attribute = struct.pack("=HH", 4 + len(tcp_info), 2) + tcp_info  # INET_DIAG_INFO
    nobody = (b"", b"")
    return Entry(State.ESTABLISHED, b"", nobody, unread, unsent, 1, attribute)


@pytest.mark.parametrize(
    ("tcp_info", "busy"),
    [
        (info(sent=STILL - 1, received=STILL + 9), True),
        (info(sent=STILL, received=STILL + 9), False),
        (info(sent=STILL + 9, received=STILL), True),
        (info(sent=9000, received=8996), True),
        # In one jiffy: the answer after the request, or the next request after the answer?
        (info(sent=STILL, received=STILL), True),
        (info(sent=2 * STILL - 1, received=2 * STILL - 1), True),
        (info(sent=2 * STILL, received=2 * STILL), False),
        # Nothing was sent: then the time is that of the set-up.
        (info(sent=9000, received=9000, segments_sent=0), True),
        (info(sent=8000, received=9000, segments_sent=0), True),
        # Nothing has come.
        (info(sent=9, received=STILL - 1, bytes_received=0, segments_sent=0), True),
        (info(sent=9, received=STILL, bytes_received=0, segments_sent=0), False),
        # An older kernel does not tell enough.
        (info(sent=9000, received=9001)[:159], True),
        (info(sent=9000, received=9001)[:160], False),
        (b"", True),
    ],
)
def test_what_the_times_mean(tcp_info: bytes, *, busy: bool) -> None:
    """A tie is taken to be a request; and bytes under way are one, whatever the times say."""
    assert connections.is_busy(entry(tcp_info)) is busy
    assert connections.is_busy(entry(tcp_info, unread=1))
    assert connections.is_busy(entry(tcp_info, unsent=1))


def test_unfinished_in_words() -> None:
    """Only what there is, is said."""
    assert not Unfinished()
    some = Unfinished(queued=2, requests=1)
    assert some
    assert str(some) == "connections in the queue: 2, in a request: 1"
    assert str(Unfinished(half_open=3)) == "connections half open: 3"
    assert all(Unfinished(**{name: 1}) for name in ("queued", "half_open", "requests"))


# -- which connections ----------------------------------------------------------------------------


def test_connections_of_our_ports_only(server: Server) -> None:
    """Those that wait have no inode yet; those of other ports, and closed ones, are left out."""
    with closing(Server(*PLACES["tcp"])) as other:
        client = server.call()
        other.call()
        other.accept()
        has_waiting(server.listener, 1)
        assert [o.inode for o in open_now([server.listener])] == [0]
        connection = server.accept()
        (only,) = open_now([server.listener])
        assert (only.inode, only.state) == (inode(connection.socket), State.ESTABLISHED)
        assert only.peer[0] == port(client).to_bytes(2)
        assert len(open_now([server.listener, other.listener])) == 2
        connection.socket.close()
        saw(lambda: not open_now([server.listener]))


def test_connections_of_one_port_are_told_once(tcp: Server) -> None:
    """However many sockets a group has there."""
    group = tcp._opened.group  # noqa: SLF001 - the group of this server
    new = group.join("2", 9)
    tcp.call()
    connection = tcp.accept()
    (only,) = open_now([tcp.listener, new])
    assert only.inode == inode(connection.socket)


def test_a_long_list_is_complete() -> None:
    """Also of more connections than one message of the kernel has room for."""
    number = 1500

    def run() -> bool:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if hard != resource.RLIM_INFINITY and hard < 2 * number + 100:
            return False
        with closing(Server(*PLACES["dual-by-4"])) as server:
            expected = set()
            for _ in range(number):
                server.call()
                expected.add(inode(server.accept().socket))
            found = open_now([server.listener])
            assert {each.inode for each in found} == expected
            assert len(found) == number
            assert all(connections.has_answered(each) is False for each in found)
        return True

    if not apart(run):
        pytest.skip("this user may not have so many descriptors")


def test_connections_at_a_path(tmp_path: Path) -> None:
    """They are told by the path at which they were accepted, wherever that is by now."""
    path = f"{tmp_path}/app"
    with closing(open_listener(parse(f"unix:{path}", 0))) as opened, ExitStack() as stack:

        def accepted(listener: socket.socket) -> int:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(path)
            assert connections.waiting(listener) == 1
            return inode(stack.enter_context(listener.accept()[0]))

        old = opened.socket
        assert connections.open_by_path([old]) == set()
        first = {accepted(old), accepted(old)}
        new = opened.group.join("2", 9)
        opened.group.cut_over(new)
        second = {accepted(new)}
        assert connections.open_by_path([old]) == first
        assert connections.open_by_path([new]) == second
        assert connections.open_by_path([old, new]) == first | second
        stack.close()
        assert connections.open_by_path([old, new]) == set()
        opened.group.leave(old)


def test_connections_that_were_accepted(server: Server, tmp_path: Path) -> None:
    """Whoever has accepted them, at a port or at a path; those that wait are not among them."""
    path = f"{tmp_path}/app"
    with closing(open_listener(parse(f"unix:{path}", 0))) as opened, ExitStack() as stack:
        listeners = [server.listener, opened.socket]
        for number in range(2):
            server.call()
            has_waiting(server.listener, number + 1)
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
        assert connections.accepted(listeners) == {}
        tcp = server.accept().socket
        unix = stack.enter_context(opened.socket.accept()[0])
        assert connections.accepted(listeners).keys() == {inode(tcp), inode(unix)}
        assert connections.accepted([server.listener]).keys() == {inode(tcp)}


def test_no_path_no_connections(tcp: Server) -> None:
    """A TCP connection is at no path."""
    tcp.call()
    tcp.accept()
    assert connections.open_by_path([tcp.listener]) == set()
    assert connections.open_by_path([]) == set()
    assert open_now([]) == []
