"""Addresses that a program binds for itself: learned while it runs, or its own socket joined."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from overseer_py.address import Address, Kind
from overseer_py.errors import ListenerError
from overseer_py.system.listeners import Seat
from overseer_py.system.steering import Steered
from tests.load import PATIENCE, free_port
from tests.system.test_sockets import Service


@pytest.fixture
def service() -> Iterator[Service]:
    """Give the sockets of a service that has told nobody of its addresses."""
    service = Service()
    yield service
    assert service.is_quiet()
    service.close()


@pytest.fixture
def address() -> Address:
    """Give an address that is free."""
    return Address("web", Kind.TCP, "127.0.0.1", free_port(), adopted=True)


def group_of(seat: Seat) -> Steered:
    """Return the group of a socket."""
    assert isinstance(seat.listener.group, Steered)
    return seat.listener.group


def meets(address: Address, seat: Seat) -> bool:
    """Whether a client that connects comes to this very socket."""
    with socket.create_connection((address.host, address.port)) as client:
        seat.socket.settimeout(PATIENCE)
        try:
            accepted, peer = seat.socket.accept()
        except TimeoutError:
            return False
        accepted.close()
        return bool(peer == client.getsockname())


def test_the_first_generation_has_what_is_opened(service: Service, address: Address) -> None:
    """And the next one has a socket of its own, to which nothing comes before the cut-over."""
    service.join(1)
    first = service.sockets.learn(1, address, shared=False)
    assert meets(address, first)
    second, *_ = service.sockets.join(2, {first.listener: True})
    assert second.socket is not first.socket
    assert meets(address, first)
    service.sockets.cut_over(2)
    assert meets(address, second)
    service.sockets.leave(1)
    assert meets(address, second)


def test_what_a_candidate_learns_is_its_own(service: Service, address: Address) -> None:
    """The current generation comes later to the same address, and clients come to it."""
    service.join(1)
    service.join(2)
    candidate = service.sockets.learn(2, address, shared=False)
    current = service.sockets.learn(1, address, shared=False)
    assert candidate.listener is current.listener
    assert meets(address, current)
    service.sockets.cut_over(2)
    assert meets(address, candidate)


def test_what_an_old_generation_has_learned_last(service: Service, address: Address) -> None:
    """One that goes takes nobody with it who comes after it."""
    service.join(1)
    service.join(2)
    service.sockets.cut_over(2)
    service.sockets.learn(1, address, shared=False)
    current = service.sockets.learn(2, address, shared=False)
    service.sockets.leave(1)
    assert meets(address, current)


def test_shared(service: Service, address: Address) -> None:
    """All generations have the same socket if that is asked for."""
    service.join(1)
    service.join(2)
    seats = [service.sockets.learn(generation, address, shared=True) for generation in (1, 2)]
    assert seats[0].socket is seats[1].socket


def test_an_address_in_use(service: Service, address: Address) -> None:
    """Nothing has changed then."""
    service.join(1)
    with (
        socket.create_server((address.host, address.port)),
        pytest.raises(ListenerError, match="already in use"),
    ):
        service.sockets.learn(1, address, shared=False)
    assert service.sockets.learn(1, address, shared=False).name == "web"


def test_a_programs_own_socket(service: Service, address: Address) -> None:
    """It takes the place of the master's once it listens, and clients come to it."""
    service.join(1)
    seat = service.sockets.learn(1, address, shared=False)
    before = seat.socket
    theirs = socket.socket()
    inode = os.fstat(theirs.fileno()).st_ino
    group_of(seat).admit(theirs)
    assert meets(address, seat)  # it does not listen yet
    service.sockets.exchange(seat, inode)
    assert seat.socket is theirs
    assert before.fileno() < 0
    assert meets(address, seat)


def test_a_candidates_own_socket(service: Service, address: Address) -> None:
    """Nothing comes to it before the cut-over."""
    service.join(1)
    first = service.sockets.learn(1, address, shared=False)
    second, *_ = service.sockets.join(2, {first.listener: True})
    theirs = socket.socket()
    group_of(second).admit(theirs)
    service.sockets.exchange(second, os.fstat(theirs.fileno()).st_ino)
    assert meets(address, first)
    service.sockets.cut_over(2)
    assert second.socket is theirs
    assert meets(address, second)


def test_one_that_never_listens(service: Service, address: Address) -> None:
    """It is forgotten, and the address is as it was."""
    service.join(1)
    seat = service.sockets.learn(1, address, shared=False)
    theirs = socket.socket()
    inode = os.fstat(theirs.fileno()).st_ino
    group_of(seat).admit(theirs)
    group_of(seat).dismiss(inode)
    group_of(seat).dismiss(inode)  # nothing is there any more
    assert theirs.fileno() < 0
    assert meets(address, seat)
