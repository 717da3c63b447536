"""The kernel's own list of sockets: who has accepted a connection, and what there is at a port."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from overseer_py.system import sockdiag
from overseer_py.system.sockdiag import Entry, State, at_port, server_inode
from tests.master import PATIENCE
from tests.system.test_bpf import at_one_port


@pytest.fixture(name="listener", params=["127.0.0.1", "::1", "dual", "unix"])
def fixture_listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """Return a listening socket of each family."""
    match request.param:
        case "unix":
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(tmp_path / "socket"))
            listener.listen()
        case "dual":
            listener = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        case host:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, 0), family=family)
    with listener:
        yield listener


def connect(listener: socket.socket) -> socket.socket:
    """Return a connection to a listener, which nobody has accepted yet."""
    name = listener.getsockname()
    client = socket.socket(listener.family)
    client.connect(("::1", name[1]) if name[0] == "::" else name)
    return client


def test_a_connection_that_nobody_has_accepted(listener: socket.socket) -> None:
    """What waits in the queue has no inode yet."""
    with connect(listener) as client:
        assert server_inode(client) == 0
        accepted, _ = listener.accept()
        with accepted:
            assert server_inode(client) == os.fstat(accepted.fileno()).st_ino


def test_two_connections_are_told_apart(listener: socket.socket) -> None:
    """Each client learns of its own connection."""
    with connect(listener) as one, connect(listener) as two:
        first, _ = listener.accept()
        second, _ = listener.accept()
        with first, second:
            assert server_inode(one) == os.fstat(first.fileno()).st_ino
            assert server_inode(two) == os.fstat(second.fileno()).st_ino


def test_a_dual_stack_listener_is_asked_by_ipv4() -> None:
    """A listener on every address accepts IPv4 connections as mapped ones; they are found."""
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        place = ("127.0.0.1", listener.getsockname()[1])
        with socket.create_connection(place) as client:
            accepted, _ = listener.accept()
            with accepted:
                assert server_inode(client) == os.fstat(accepted.fileno()).st_ino


def test_a_client_at_another_address() -> None:
    """The two ends are told apart, also when their ports are the same."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.bind(("127.0.0.2", listener.getsockname()[1]))
        client.connect(listener.getsockname())
        with listener.accept()[0] as accepted:
            assert server_inode(client) == os.fstat(accepted.fileno()).st_ino


def test_a_server_that_has_closed(listener: socket.socket) -> None:
    """A connection that was accepted and closed has nobody on the other side."""
    with connect(listener) as client:
        listener.accept()[0].close()
        assert server_inode(client) == 0


# -- lists ------------------------------------------------------------------------------------

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
LISTENING = [State.LISTEN]


def inode(sock: socket.socket) -> int:
    """Return the number by which the kernel knows a socket."""
    return os.fstat(sock.fileno()).st_ino


def port(sock: socket.socket) -> int:
    """Return the port of a socket."""
    return int(sock.getsockname()[1])


def of_this_server(entries: Iterable[Entry], server: socket.socket) -> list[Entry]:
    """Return those that are connected to it: several clients may share a port of the kernel's."""
    return [entry for entry in entries if entry.peer[0] == port(server).to_bytes(2)]


def listed(sock: socket.socket, protocol: int, states: list[State]) -> list[Entry]:
    """Return what is listed at the port of a socket."""
    return list(at_port(sock.family, protocol, port(sock), states))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_sockets_of_one_port(host: str) -> None:
    """Those in the wanted states are listed, by their own port, and no others."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server((host, 0), family=family))
        stack.enter_context(socket.create_server((host, 0), family=family))  # elsewhere
        client = stack.enter_context(connect(server))
        accepted = stack.enter_context(server.accept()[0])
        (only,) = listed(server, TCP, LISTENING)
        assert (only.inode, only.state, only.peer[0]) == (inode(server), State.LISTEN, b"\0\0")
        assert only.address == sockdiag.packed(host)
        (only,) = listed(server, TCP, [State.ESTABLISHED])
        assert (only.inode, only.state) == (inode(accepted), State.ESTABLISHED)
        assert only.peer == (port(client).to_bytes(2), sockdiag.packed(host))
        assert len(listed(server, TCP, [State.ESTABLISHED, State.LISTEN])) == 2
        clients = of_this_server(listed(client, TCP, [State.ESTABLISHED]), server)
        assert [o.inode for o in clients] == [inode(client)]
        assert listed(server, TCP, [State.CLOSE_WAIT]) == []
        assert listed(server, UDP, [State.CLOSED]) == []


def test_what_is_under_way() -> None:
    """Bytes that are not read yet are counted, and connections that wait with their listener."""
    with socket.create_server(("127.0.0.1", 0)) as server, connect(server) as client:
        client.send(b"hello")
        assert select.select([server], [], [], PATIENCE)[0]
        (queue,) = listed(server, TCP, LISTENING)
        assert queue.unread == 1
        with server.accept()[0] as accepted:
            assert select.select([accepted], [], [], PATIENCE)[0]
            (queue,) = listed(server, TCP, LISTENING)
            (connection,) = listed(server, TCP, [State.ESTABLISHED])
            assert (queue.unread, connection.unread, connection.unsent) == (0, 5, 0)


def test_tcp_info_if_it_is_asked_for() -> None:
    """It is the same as the socket's own (tcp(7))."""
    with socket.create_server(("127.0.0.1", 0)) as server, connect(server) as client:
        states = [State.ESTABLISHED]
        (bare,) = of_this_server(at_port(socket.AF_INET, TCP, port(client), states), server)
        assert bare.tcp_info == b""
        found = at_port(socket.AF_INET, TCP, port(client), states, info=True)
        (entry,) = of_this_server(found, server)
        own = client.getsockopt(TCP, socket.TCP_INFO, 256)
        assert len(entry.tcp_info) >= 160
        assert entry.tcp_info[:8] == own[:8]


# -- who is at an address -----------------------------------------------------------------------

SO_REUSEPORT = 15


def bound(kind: int, host: str, at: int = 0, *, only_ipv6: int = 0) -> socket.socket:
    """Return a socket at an address where others are allowed."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    # Before it is bound, the kernel could choose a port at which there are others of this kind.
    sock.setsockopt(socket.SOL_SOCKET, SO_REUSEPORT, int(at != 0))
    if ":" in host:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_ipv6)
    try:
        sock.bind((host, at))
    except OSError:
        sock.close()
        raise
    sock.setsockopt(socket.SOL_SOCKET, SO_REUSEPORT, 1)
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_who_is_at_the_same_place(kind: int, host: str) -> None:
    """They are listed as they came, and who comes again is the last; others are left out."""
    streams = kind == socket.SOCK_STREAM
    other_kind = socket.SOCK_DGRAM if streams else socket.SOCK_STREAM
    first, other = at_one_port(
        lambda: bound(kind, host), lambda first: bound(other_kind, host, port(first))
    )
    with first, other, ExitStack() as stack:
        at = port(first)
        sockets = [first, *(stack.enter_context(bound(kind, host, at)) for _ in range(4))]
        stack.enter_context(bound(kind, host))  # elsewhere
        assert sockdiag.same_place(sockets[3]) == [inode(sock) for sock in sockets]
        if streams:
            again = sockets.pop(1)
            again.shutdown(socket.SHUT_RDWR)
            again.listen()
            sockets.append(again)
        sockets.pop(2).close()
        assert sockdiag.same_place(first) == [inode(sock) for sock in sockets]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_who_is_at_an_overlapping_place(kind: int) -> None:
    """What is at a part of an address overlaps with it; what is at another does not."""
    with ExitStack() as stack:

        def at(host: str, only_ipv6: int = 0) -> socket.socket:
            return stack.enter_context(bound(kind, host, number, only_ipv6=only_ipv6))

        number = 0
        dual = at("::")
        number = port(dual)
        six, any_four, four, loopback = at("::", 1), at("0.0.0.0"), at("127.0.0.1"), at("::1")
        assert sockdiag.is_only_ipv6(six)
        assert not sockdiag.is_only_ipv6(dual)
        assert not sockdiag.is_only_ipv6(four)
        everybody = {inode(sock) for sock in (dual, six, any_four, four, loopback)}
        assert sockdiag.overlapping(dual) == everybody
        assert sockdiag.overlapping(six) == everybody - {inode(any_four), inode(four)}
        assert sockdiag.overlapping(any_four) == {inode(any_four), inode(four)}
        assert sockdiag.overlapping(four) == {inode(four)}
        assert sockdiag.overlapping(loopback) == {inode(loopback)}
        assert sockdiag.same_place(dual) == [inode(dual)]
        assert sockdiag.same_place(six) == [inode(six)]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connected_socket_at_the_address(host: str) -> None:
    """It is noticed at this very address, be it the socket itself."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock, ExitStack() as stack:
        sock.bind((host, 0))
        assert not sockdiag.has_connected(sock)
        if family == socket.AF_INET:
            elsewhere = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            elsewhere.bind(("127.0.0.2", port(sock)))
            elsewhere.connect(("127.0.0.2", 9))
        client = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        client.connect(sock.getsockname())
        assert not sockdiag.has_connected(sock)
        sock.connect((host, 9))
        assert sockdiag.has_connected(sock)


def test_a_list_that_the_kernel_does_not_have() -> None:
    """What cannot be listed is an error, and not an empty list."""
    with pytest.raises(OSError, match="sock_diag: No such file or directory") as caught:
        list(at_port(socket.AF_INET, 253, 80, LISTENING))  # a protocol for experiments
    assert caught.value.errno == errno.ENOENT


def test_the_queue_at_a_path(tmp_path: Path) -> None:
    """Connections that wait are counted; one that has been accepted does not wait."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server, ExitStack() as stack:
        server.bind(path)
        server.listen()
        for number in range(3):
            assert sockdiag.unix_queue(server) == number
            stack.enter_context(connect(server))
        server.accept()[0].close()
        assert sockdiag.unix_queue(server) == 2


def test_connections_of_a_path(tmp_path: Path) -> None:
    """They are listed by the path they were accepted at: that very one, and no longer one."""
    paths = [str(tmp_path / name) for name in ("a", "a.2", "ü")]
    with ExitStack() as stack:
        accepted = {}
        for path in paths:
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(path)
            server.listen()
            stack.enter_context(connect(server))
            accepted[path] = inode(stack.enter_context(server.accept()[0]))
        for path in paths:
            assert sockdiag.unix_connections([path]) == {accepted[path]}
        assert sockdiag.unix_connections(paths) == set(accepted.values())
        assert sockdiag.unix_connections([str(tmp_path), "a"]) == set()


def test_addresses_as_they_are_listed() -> None:
    """16 bytes, of which an IPv4 one has the first 4; the interface is no part of it."""
    assert sockdiag.packed("1.2.3.4") == bytes([1, 2, 3, 4]) + bytes(12)
    assert sockdiag.packed("::1") == bytes(15) + b"\1"
    assert sockdiag.packed("fe80::1%lo") == b"\xfe\x80" + bytes(13) + b"\1"
