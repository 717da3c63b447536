"""Who has accepted a connection is what the kernel says."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from overseer_py.system.sockdiag import server_inode


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
