"""Connections know their states, and are let go in the order that harms nobody."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from overseer_py import worker
from overseer_py.worker.connections import Connection, ConnectionState
from tests.master import PATIENCE

S = ConnectionState


class Echo(socketserver.StreamRequestHandler):
    """Answers each line with itself; ``wait`` keeps it busy until the gate is open."""

    gate = threading.Event()

    def handle(self) -> None:
        """Answer."""
        for line in self.rfile:
            if line == b"wait\n":
                self.gate.wait(PATIENCE)
            self.wfile.write(line)


class Server(worker.DrainingMixIn, socketserver.ThreadingTCPServer):
    """What is under test."""

    linger = 0.0


@contextmanager
def serving() -> Iterator[Server]:
    """Give a server that serves."""
    Echo.gate.clear()
    server = Server.on(socket.create_server(("127.0.0.1", 0)), Echo)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield server
    finally:
        Echo.gate.set()
        server.shutdown()
        thread.join()
        server.connections.finish(PATIENCE)
        server.server_close()


def connect(server: Server) -> socket.socket:
    """Return a client's connection."""
    return socket.create_connection(server.socket.getsockname(), PATIENCE)


def until(server: Server, **states: int) -> None:
    """Wait until so many connections are in these states, and none in another."""
    give_up = threading.Event()
    timer = threading.Timer(PATIENCE, give_up.set)
    timer.start()
    wanted = {S(name): count for name, count in states.items()}
    while {state: count for state in S if (count := server.connections.count(state))} != wanted:
        assert not give_up.is_set(), {state: server.connections.count(state) for state in S}
    timer.cancel()


def test_states() -> None:
    """New, active while it is answered, idle when the next request is read, closed."""
    with serving() as server, connect(server) as client:
        until(server, new=1)
        client.sendall(b"hello\n")
        assert client.recv(100) == b"hello\n"
        until(server, idle=1)
        client.sendall(b"half a ")
        until(server, active=1)
        client.sendall(b"line\nwait\n")
        assert client.recv(100) == b"half a line\n"
        until(server, active=1)  # the second request came with the first
        client.close()
        Echo.gate.set()
        until(server)
        assert server.connections.count() == 0


def test_idle_ones_are_hung_up_first() -> None:
    """What waits ends at once, what is active has its time, and what is left is cut off."""
    with serving() as server, connect(server) as idle, connect(server) as busy:
        idle.sendall(b"hello\n")
        assert idle.recv(100) == b"hello\n"
        busy.sendall(b"wait\n")
        until(server, idle=1, active=1)
        server.connections.hang_up()
        assert idle.recv(100) == b""
        until(server, active=1)
        assert server.connections.drain(linger=0, timeout=0) == 1
        assert busy.recv(100) == b""


def test_what_is_active_is_waited_for() -> None:
    """It gets its answer, then the end."""
    with serving() as server, connect(server) as busy:
        busy.sendall(b"wait\n")
        until(server, active=1)
        cut: list[int] = []
        drain = threading.Thread(target=lambda: cut.append(server.connections.drain(0)))
        drain.start()
        Echo.gate.set()
        assert busy.recv(100) == b"wait\n"
        assert busy.recv(100) == b""
        drain.join(PATIENCE)
        assert cut == [0]


def test_what_came_before_the_end_is_answered() -> None:
    """A request that is on its way when the connection is hung up is not lost."""
    connections = worker.Connections()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        served, _ = connections.accept(listener)
    with client, served:
        served.sendall(b"first")
        served.setblocking(False)
        with pytest.raises(BlockingIOError):
            served.recv(100)
        assert served.state is S.IDLE
        client.sendall(b"second")
        connections.hang_up()
        served.setblocking(True)
        assert served.recv(100) == b"second"
        assert str(served.state) == "active"
        served.sendall(b"answer")
        assert served.recv(100) == b""
        assert client.recv(11, socket.MSG_WAITALL) == b"firstanswer"


def test_a_new_one_is_not_hung_up_at_once() -> None:
    """Its first request may be on its way."""
    connections = worker.Connections()
    here, there = socket.socketpair()
    with there, connections.add(here) as served:
        connections.hang_up()
        there.sendall(b"hello")
        assert served.recv(100) == b"hello"


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_one_that_is_dropped_does_not_count() -> None:
    """Nothing is kept of a connection that nobody has any more."""
    connections = worker.Connections()
    here, there = socket.socketpair()
    with there:
        connection: Connection | None = connections.add(here)
        assert connections.count(S.NEW) == 1
        connection = None  # noqa: F841 - as a program does that forgets to close it
        assert connections.count() == 0


@pytest.mark.parametrize("timeout", [None, 0.5])
def test_what_a_socket_has_is_kept(timeout: float | None) -> None:
    """Family, kind and time-out are those of the accepted socket."""
    here, there = socket.socketpair()
    here.settimeout(timeout)
    with there, worker.Connections().add(here) as served:
        assert (served.family, served.type) == (there.family, there.type)
        assert served.gettimeout() == timeout
