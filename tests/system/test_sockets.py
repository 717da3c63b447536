"""What each generation has of the listeners: sockets of its own, or shared ones, over time."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from overseer_py.address import parse
from overseer_py.errors import ListenerError
from overseer_py.sockets import Sockets
from overseer_py.system import connections
from overseer_py.system.fdstore import FdStore
from overseer_py.system.listeners import Listener, Seat
from overseer_py.system.loop import Loop
from overseer_py.system.notify import ServiceManager
from tests.needs import cannot
from tests.system.apart import apart
from tests.system.test_bpf import reached
from tests.system.test_steering import beside, bound_there, descriptors, duplicate, inodes

BACKLOG = 4096
NOBODY = 65534


class Service:
    """The sockets of a service, in a loop."""

    def __init__(self, environ: dict[str, str] | None = None) -> None:
        self.loop = Loop()
        self.told: list[tuple[str, bool]] = []  # listeners that were shut down, and revived
        self._manager = ServiceManager(environ or {})
        store = FdStore(self._manager, environ or {}, wanted=True)
        self.sockets = Sockets(environ or {}, self.loop, store, self._on_shut_down)
        self.listeners: list[Listener] = []

    def _on_shut_down(self, listener: Listener) -> None:
        self.told.append((listener.name, self.sockets.revive(listener)))

    def open(self, *texts: str) -> list[Listener]:
        """Open these, as a reload would."""
        addresses = [parse(text, index) for index, text in enumerate(texts)]
        self.listeners = self.sockets.open(addresses)
        return self.listeners

    def join(self, generation: int, *, own: bool = True) -> list[Seat]:
        """Begin a generation."""
        steered = {listener: own and not listener.obstacle for listener in self.listeners}
        return self.sockets.join(generation, steered)

    def turn(self) -> int:
        """Do what is due in the loop; return how much that was."""
        calls = self.loop.turn(0)
        for call in calls:
            call()
        return len(calls)

    def is_quiet(self) -> bool:
        """Whether nothing is due any more."""
        self.turn()
        return self.turn() == 0

    def close(self) -> None:
        """Close all."""
        self.sockets.close()
        self.loop.close()
        self._manager.close()


@pytest.fixture(name="service")
def fixture_service() -> Iterator[Service]:
    """Return a service without listeners."""
    with closing(Service()) as service:
        yield service


@pytest.fixture(name="both")
def fixture_both(service: Service, tmp_path: Path) -> Service:
    """Return a service that listens at a port and at a path."""
    service.open("tcp=127.0.0.1:0", f"unix=unix:{tmp_path}/app")
    return service


def gets(seat: Seat, *others: Seat) -> bool:
    """Whether what is new at an address comes to this seat, and not to the others."""
    seats = [seat, *others]
    if seat.listener.kind != "unix":
        host = seat.socket.getsockname()[0]
        return all(reached([o.socket for o in seats], host) is seat.socket for _ in range(6))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(seat.listener.address)
        waiting = [o.socket for o in seats if connections.waiting(o.socket)]
        seat.socket.accept()[0].close()
    return waiting == [seat.socket]


def all_get(seats: list[Seat], *others: list[Seat]) -> bool:
    """Whether each of these seats gets what is new at its address."""
    return all(gets(each, *(o[i] for o in others)) for i, each in enumerate(seats))


def beside_path(directory: Path, generation: int) -> Path:
    """Return the path of a generation that has not been live yet."""
    return directory / f".app.overseer-{generation}"


def shut_down(seat: Seat) -> None:
    """Do as a worker does that shuts its socket down for everybody who has it."""
    with duplicate(seat.socket) as workers:
        workers.shutdown(socket.SHUT_RDWR)


# -- one generation after the other -------------------------------------------------------------


def test_the_first_generation_has_what_was_opened(both: Service) -> None:
    """There is nothing to keep it apart from."""
    seats = both.join(1)
    assert [seat.socket for seat in seats] == [listener.socket for listener in both.listeners]
    assert [seat.name for seat in seats] == ["tcp", "unix"]
    assert [seat.fd for seat in seats] == [listener.fd for listener in both.listeners]
    assert [seat.inherited() for seat in seats] == [o.inherited() for o in both.listeners]
    assert all_get(seats)
    assert both.sockets.own(1) == []  # what is new comes there


def test_a_rollout(both: Service) -> None:
    """The second one has sockets of its own, unseen until the cut-over; the first one's end."""
    before = descriptors()
    first, second = both.join(1), both.join(2)
    assert {seat.fd for seat in first}.isdisjoint(seat.fd for seat in second)
    assert all_get(first, second)
    assert both.sockets.own(2) == second
    both.sockets.cut_over(2)
    assert all_get(second, first)
    assert [listener.socket for listener in both.listeners] == [seat.socket for seat in second]
    assert (both.sockets.own(1), both.sockets.own(2)) == (first, [])
    both.sockets.leave(1)
    assert [seat.fd for seat in first] == [-1, -1]
    assert all_get(second)
    assert both.is_quiet()
    assert len(descriptors()) == len(before)


def test_a_rollout_that_fails(both: Service) -> None:
    """The first one has noticed nothing, and nothing of the second one is left."""
    first, before = both.join(1), descriptors()
    second = both.join(2)
    both.sockets.leave(2)
    assert [seat.fd for seat in second] == [-1, -1]
    assert descriptors() == before
    assert all_get(first)
    assert both.is_quiet()
    both.sockets.leave(2)  # nobody
    both.sockets.cut_over(9)
    assert all_get(first)


def test_a_canary(both: Service) -> None:
    """A share goes to the second one at the port, and at a path nothing; it can be called off."""
    first, second = both.join(1), both.join(2)
    both.sockets.divert(2, 100)
    assert gets(second[0], first[0])
    assert gets(first[1], second[1])
    assert both.sockets.own(2) == second
    both.sockets.leave(2)
    assert all_get(first)


def test_hundreds_of_rollouts(service: Service, tmp_path: Path) -> None:
    """However many there are, in the end it is as after the first one."""
    service.open("a=127.0.0.1:0", "b=udp:127.0.0.1:0", f"c=unix:{tmp_path}/app", "d=:0")
    live, current = 1, service.join(1)
    before = len(descriptors())
    for generation in range(2, 202):
        seats, leaves = service.join(generation), generation
        if generation % 4:  # every fourth one fails
            service.sockets.cut_over(generation)
            leaves, live, current = live, generation, seats
        service.sockets.leave(leaves)
    assert all_get(current)
    assert len(descriptors()) == before
    assert [len(bound_there(o.socket)) for o in service.listeners if o.port] == [1, 1, 1]
    assert os.listdir(tmp_path) == ["app"]
    assert service.is_quiet()


# -- shared ones --------------------------------------------------------------------------------


def test_a_shared_socket(both: Service) -> None:
    """All generations have the one that there is, and it ends with none of them."""
    first, second = both.join(1, own=False), both.join(2, own=False)
    assert [seat.socket for seat in first] == [seat.socket for seat in second]
    assert both.sockets.own(1) == both.sockets.own(2) == []
    both.sockets.cut_over(2)
    both.sockets.leave(1)
    assert all_get(second)
    both.sockets.leave(2)
    assert all_get(both.join(3))


def test_some_are_shared(both: Service) -> None:
    """A generation may have a socket of its own at one listener, and share another."""
    first = both.join(1)
    tcp, unix = both.listeners
    second = both.sockets.join(2, {tcp: False, unix: True})
    assert second[0].socket is first[0].socket
    assert both.sockets.own(2) == [second[1]]
    both.sockets.cut_over(2)
    both.sockets.leave(1)
    assert all_get(second)


def test_from_own_to_shared_and_back(both: Service) -> None:
    """What is shared is the live one, whosever it was."""
    both.join(1)
    second = both.join(2)
    both.sockets.cut_over(2)
    third = both.join(3, own=False)
    assert [seat.socket for seat in third] == [seat.socket for seat in second]
    both.sockets.leave(2)
    assert all_get(third)
    fourth = both.join(4)
    both.sockets.cut_over(4)
    both.sockets.leave(3)
    both.sockets.leave(1)
    assert all_get(fourth)


def test_a_shared_socket_that_is_not_live(both: Service) -> None:
    """It stays as long as one of those who share it."""
    both.join(1)
    both.join(2)
    both.sockets.cut_over(2)
    third, fourth = both.join(3, own=False), both.join(4)
    both.sockets.cut_over(4)
    both.sockets.leave(2)
    assert all(seat.fd >= 0 for seat in third)
    assert both.sockets.own(3) == third
    both.sockets.leave(3)
    assert [seat.fd for seat in third] == [-1, -1]
    assert all_get(fourth)


def test_a_live_socket_that_nobody_has(both: Service) -> None:
    """It waits for the next generation, with all that is in its queue."""
    seats = both.join(1)
    clients = [socket.create_connection(seats[0].socket.getsockname())]
    clients.append(socket.socket(socket.AF_UNIX))
    clients[1].connect(both.listeners[1].address)
    both.sockets.leave(1)
    again = both.join(2)
    assert [seat.socket for seat in again] == [seat.socket for seat in seats]
    for seat, client in zip(again, clients, strict=True):
        with client, seat.socket.accept()[0] as accepted:
            accepted.send(b"served")
            assert client.recv(9) == b"served"


def test_a_generation_takes_over(both: Service) -> None:
    """By ``exclusive``, a rollout that failed leaves its live sockets to the one that was."""
    before = len(descriptors())
    first, second = both.join(1), both.join(2)
    both.sockets.cut_over(2)
    old = [seat.socket for seat in first]
    both.sockets.take_over(1)
    assert [seat.socket for seat in first] == [seat.socket for seat in second]
    assert [sock.fileno() for sock in old] == [-1, -1]
    both.sockets.leave(2)
    assert all_get(first)
    assert both.sockets.own(1) == []
    assert len(descriptors()) == before
    both.sockets.take_over(1)  # what it has already
    assert all_get(first)


# -- what cannot be -----------------------------------------------------------------------------


def test_a_join_that_fails(both: Service, tmp_path: Path) -> None:
    """If one listener cannot be joined, nothing is left at the others."""
    beside_path(tmp_path, 2).write_text("precious", encoding="ascii")
    first, before = both.join(1), descriptors()
    with pytest.raises(ListenerError, match="a file is there that is no socket; remove it"):
        both.join(2)
    assert descriptors() == before
    assert bound_there(first[0].socket) == inodes(first[0].socket)
    assert both.sockets.own(2) == []
    assert all_get(first)
    assert both.is_quiet()
    assert all_get(first, both.join(3))


def test_a_listener_that_stays_behind(service: Service, tmp_path: Path) -> None:
    """If one cannot be cut over, the others are, and it is said."""
    service.open(f"unix=unix:{tmp_path}/app", "tcp=127.0.0.1:0")
    first, second = service.join(1), service.join(2)
    beside_path(tmp_path, 2).unlink()
    with pytest.raises(ListenerError, match=r"could not be cut over: .*No such file"):
        service.sockets.cut_over(2)
    assert gets(second[1], first[1])
    assert gets(first[0])


# -- shut down by a worker ------------------------------------------------------------------------


def test_a_shut_down_port_is_revived(both: Service) -> None:
    """For all who have it, and for nobody else."""
    first, second = both.join(1, own=False), both.join(2, own=False)
    shut_down(first[0])
    assert both.is_quiet()
    assert both.told == [("tcp", True)]
    assert first[0].socket is second[0].socket
    assert gets(first[0])


def test_a_port_is_revived_during_a_rollout(both: Service) -> None:
    """What is new goes on coming to the old generation, and the new one stays unseen."""
    first, second = both.join(1), both.join(2)
    for _ in range(2):
        shut_down(first[0])
        assert both.is_quiet()
        assert gets(first[0], second[0])
    assert both.told == [("tcp", True)] * 2
    both.sockets.cut_over(2)
    assert gets(second[0], first[0])


def test_a_backlog_revives(both: Service) -> None:
    """Whoever looks first at what was shut down: it listens, and in its right place."""
    first, second = both.join(1), both.join(2)
    shut_down(first[0])
    both.sockets.listen_again()
    assert gets(first[0], second[0])
    assert both.is_quiet()
    assert gets(first[0], second[0])


def test_a_shut_down_path_is_replaced(both: Service) -> None:
    """Those who had the dead socket have the new one; who has another keeps it."""
    first, second = both.join(1), both.join(2)
    dead, own = first[1].socket, second[1].socket
    shut_down(first[1])
    assert both.is_quiet()
    assert both.told == [("unix", False)]
    assert first[1].socket is both.listeners[1].socket is not dead
    assert second[1].socket is own
    assert gets(first[1], second[1])
    both.sockets.cut_over(2)
    both.sockets.leave(1)
    assert all_get(second)
    shut_down(second[1])
    both.turn()
    assert both.told == [("unix", False)] * 2


@pytest.mark.parametrize("which", [0, 1])
def test_one_that_is_not_live_is_shut_down(both: Service, which: int) -> None:
    """It is no emergency, and noticed once: everybody else is where he was."""
    first, second = both.join(1), both.join(2)
    third = both.join(3)
    shut_down(second[which])
    assert both.is_quiet()
    assert both.told == []
    assert gets(first[which], third[which])
    both.sockets.cut_over(3)
    assert gets(third[which], first[which])
    both.sockets.leave(2)
    both.sockets.leave(1)
    assert all_get(third)


def test_a_canary_is_moved(both: Service) -> None:
    """Where another one is shut down, the share goes on to the right one."""
    first, second, third = both.join(1), both.join(2), both.join(3)
    both.sockets.divert(3, 100)
    assert gets(third[0], first[0])
    shut_down(second[0])
    assert both.is_quiet()
    assert gets(third[0], first[0])


@pytest.mark.parametrize("which", [0, 1])
def test_what_is_cut_over_to_was_shut_down(both: Service, which: int) -> None:
    """It is repaired as if it had been live, so that somebody listens."""
    first, second = both.join(1), both.join(2)
    shut_down(second[which])
    assert both.is_quiet()
    both.sockets.cut_over(2)
    assert both.is_quiet()
    assert both.told == ([("unix", False)] if which else [])
    assert gets(second[which], first[which])
    both.told.clear()
    shut_down(second[which])
    both.turn()
    assert both.told == [(both.listeners[which].name, which == 0)]


def test_all_of_a_canary_is_shut_down(both: Service) -> None:
    """Its sockets are there again when it gets a share."""
    first, second = both.join(1), both.join(2)
    shut_down(second[0])
    assert both.is_quiet()
    both.sockets.divert(2, 100)
    assert gets(second[0], first[0])


def test_a_process_that_stays(both: Service) -> None:
    """Who still holds a socket of a generation that is gone does not keep the loop busy."""
    first, second = both.join(1), both.join(2)
    with duplicate(first[0].socket), duplicate(first[1].socket):
        both.sockets.cut_over(2)
        both.sockets.leave(1)
        assert both.turn() == 0
        assert all_get(second)
    third = both.join(3)  # at the same descriptors
    assert all_get(second, third)


def test_the_backlog_is_restored(both: Service) -> None:
    """After a worker's own listen(2), of what is live; nobody else's socket is touched."""

    def backlog(seat: Seat) -> int:
        info = seat.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return int(struct.unpack_from("=I", info, 28)[0])  # tcpi_sacked

    first, second = both.join(1), both.join(2)
    most = min(BACKLOG, int(Path("/proc/sys/net/core/somaxconn").read_text(encoding="ascii")))
    assert backlog(first[0]) == backlog(second[0]) == most
    for seat in (first[0], second[0]):
        seat.socket.listen(3)
    both.sockets.listen_again()
    assert (backlog(first[0]), backlog(second[0])) == (most, 3)


# -- what is asked about them ---------------------------------------------------------------------


def test_sockets_that_nobody_else_may_hold(both: Service) -> None:
    """They are the seats of all generations, and what is live."""
    live = [listener.socket for listener in both.listeners]
    assert both.sockets.own_inodes() == inodes(*live)
    first, second = both.join(1), both.join(2)
    seats = [seat.socket for seat in [*first, *second]]
    assert both.sockets.own_inodes() == inodes(*seats)
    both.sockets.cut_over(2)
    assert both.sockets.own_inodes() == inodes(*seats)
    both.sockets.leave(1)
    assert both.sockets.own_inodes() == inodes(*(seat.socket for seat in second))


def test_strangers(service: Service, tmp_path: Path) -> None:
    """Each is told with the listener that it is beside."""
    tcp, udp, _ = service.open("a=:0", "b=udp:127.0.0.1:0", f"c=unix:{tmp_path}/app")
    assert list(service.sockets.strangers()) == []
    with beside(tcp.socket) as one, beside(udp.socket) as two:
        expected = [(tcp, *inodes(one)), (udp, *inodes(two))]
        assert list(service.sockets.strangers()) == expected


def test_a_listener_by_another_name(both: Service, tmp_path: Path) -> None:
    """A reload may rename it: it is one group, and there until neither name needs it."""
    before = len(descriptors())
    first, old = both.join(1), both.listeners
    new = both.open("web=127.0.0.1:0", f"app=unix:{tmp_path}/app")
    assert [o.name for o in new] == ["web", "app"]
    second = both.join(2)
    assert all_get(first, second)
    both.sockets.cut_over(2)
    assert all_get(second, first)
    assert [o.socket for o in old] == [o.socket for o in new]
    both.sockets.leave(1)
    assert [o.name for o in both.sockets.keep_only(new)] == ["tcp", "unix"]
    assert all_get(second)
    shut_down(second[0])
    assert both.is_quiet()
    assert both.told == [("web", True)]
    assert len(descriptors()) == before
    both.sockets.leave(2)
    both.sockets.keep_only([])
    assert len(descriptors()) == before - 2
    assert os.listdir(tmp_path) == []


def test_the_same_name_at_another_address(both: Service) -> None:
    """Then there are two groups, and each generation has its own."""
    first = both.join(1)
    port = both.listeners[0].port
    both.open("tcp=[::1]:0")
    second = both.join(2)
    assert all_get(first)
    assert all_get(second)
    both.sockets.cut_over(2)
    assert all_get(first)
    assert (both.sockets.own(1), both.sockets.own(2)) == (first, [])
    both.sockets.leave(1)
    both.sockets.keep_only(both.listeners)
    assert all_get(second)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


# -- handed over ----------------------------------------------------------------------------------


def handed_over(*, nonblock: bool = False) -> socket.socket:
    """Have a listening socket at descriptor 3; return it as systemd has it.  Only apart."""
    systemd = socket.create_server(("127.0.0.1", 0))
    os.dup2(systemd.fileno(), 100)
    systemd.detach()
    os.dup2(100, 3)
    os.set_blocking(3, not nonblock)
    return socket.socket(fileno=100)


def adopting() -> Service:
    """Return a service that has been handed descriptor 3."""
    service = Service({"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())})
    service.open()
    return service


def test_rollouts_with_a_socket_that_was_handed_over() -> None:
    """It is the first generation's, stays open for ever, and at the end what is new waits there."""

    def run() -> None:
        systemd, service = handed_over(), adopting()
        first, second = service.join(1), service.join(2)
        assert inodes(first[0].socket) == inodes(systemd)
        for _ in range(2):
            assert all_get(first, second)
            service.sockets.cut_over(2)
            assert all_get(second, first)
            service.sockets.park(served=True)
            assert all_get(first, second)
        service.sockets.cut_over(2)
        service.sockets.leave(1)
        assert first[0].fd == 3
        third = service.join(3)
        service.sockets.cut_over(3)
        service.sockets.leave(2)
        assert all_get(third, first)
        service.sockets.leave(3)
        service.close()
        assert bound_there(systemd) == inodes(systemd)
        assert reached([systemd], "127.0.0.1") is systemd

    apart(run)


def test_a_socket_that_others_hold_rightly() -> None:
    """Who has handed it over is never taken for a stray, whatever is live."""

    def run() -> None:
        systemd, service = handed_over(), adopting()
        assert service.sockets.own_inodes() == set()
        service.join(1)
        assert service.sockets.own_inodes() == set()
        (second,) = service.join(2)
        assert service.sockets.own_inodes() == inodes(second.socket)
        service.sockets.cut_over(2)
        assert service.sockets.own_inodes() == inodes(second.socket)
        assert systemd.fileno() == 100

    apart(run)


@pytest.mark.parametrize("nonblock", [False, True])
def test_a_member_blocks_as_what_was_handed_over(nonblock: bool) -> None:
    """With NonBlocking= a program may rely on it (systemd.service(5))."""

    def run() -> bool:
        handed_over(nonblock=nonblock)
        service = adopting()
        service.join(1)
        (seat,) = service.join(2)
        return os.get_blocking(3) is os.get_blocking(seat.fd) is not nonblock

    assert apart(run)


def test_a_socket_of_another_user() -> None:
    """Only sockets of one user can be steered: it is shared, and the reason names both."""
    if os.geteuid() != 0:
        cannot("only root can give a socket away")

    def run() -> str:
        handed_over()
        os.fchown(3, NOBODY, NOBODY)
        service = adopting()
        first, second = service.join(1), service.join(2)
        assert first[0].socket is second[0].socket
        return service.listeners[0].obstacle

    why = f"handed over by uid {NOBODY}; a second socket there must be of the same, not of 0"
    assert apart(run) == why


def test_a_socket_that_was_handed_over_at_a_path(tmp_path: Path) -> None:
    """Its path is not ours to rename over: all generations share it."""

    def run() -> None:
        systemd = socket.socket(socket.AF_UNIX)
        systemd.bind(f"{tmp_path}/app")
        systemd.listen()
        os.dup2(systemd.fileno(), 3)
        service = adopting()
        (listener,) = service.listeners
        assert listener.obstacle == "its path belongs to whoever handed it over"
        first, second = service.join(1), service.join(2)
        assert first[0].socket is second[0].socket
        service.sockets.cut_over(2)
        service.sockets.leave(1)
        assert service.sockets.own_inodes() == set()
        service.sockets.leave(2)
        service.close()
        assert second[0].fd == 3
        assert (tmp_path / "app").is_socket()

    apart(run)
