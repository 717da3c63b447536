"""The kernel's own list of sockets: who has accepted a connection, and what there is at a port."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from overseer_py.system import sockdiag
from overseer_py.system.sockdiag import Entry, State, at_port, server_inode
from tests.master import PATIENCE


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
        assert [o.inode for o in listed(client, TCP, [State.ESTABLISHED])] == [inode(client)]
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
        (bare,) = at_port(socket.AF_INET, TCP, port(client), states)
        assert bare.tcp_info == b""
        (entry,) = at_port(socket.AF_INET, TCP, port(client), states, info=True)
        own = client.getsockopt(TCP, socket.TCP_INFO, 256)
        assert len(entry.tcp_info) >= 160
        assert entry.tcp_info[:8] == own[:8]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize(
    ("family", "host", "only_ipv6"),
    [
        (socket.AF_INET, "127.0.0.1", 0),
        (socket.AF_INET6, "::1", 1),
        (socket.AF_INET6, "::", 1),
        (socket.AF_INET6, "::", 0),
    ],
)
def test_who_is_beside(family: int, host: str, only_ipv6: int, kind: int) -> None:
    """A socket is listed at its own port, and whether it takes IPv6 only."""
    with socket.socket(family, kind) as sock, socket.socket(family, kind) as elsewhere:
        for each in (sock, elsewhere):
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_ipv6)
            each.bind((host, 0))
            if kind == socket.SOCK_STREAM:
                each.listen()
        (only,) = sockdiag.beside(sock, family)
        assert (only.inode, only.only_ipv6) == (inode(sock), bool(only_ipv6))
        assert only.address == sockdiag.packed(host)
        other = socket.AF_INET if family == socket.AF_INET6 else socket.AF_INET6
        assert list(sockdiag.beside(sock, other)) == []


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
