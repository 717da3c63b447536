"""What is kept with systemd: found by the next master, and let go when nobody wants it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from overseer_py.address import parse
from overseer_py.sockets import Sockets
from overseer_py.system.fdstore import FdStore
from overseer_py.system.loop import Loop
from overseer_py.system.notify import ServiceManager
from overseer_py.system.notify import parse as parse_message
from tests.load import free_port
from tests.system.apart import apart

FIRST = 3


class Keeper:
    """systemd's end: it has what it was given, by name, as sd_notify(3) says."""

    def __init__(self, path: Path) -> None:
        self.kept: dict[str, int] = {}
        self.most = 0  # that it ever had at once
        self.environ = {"NOTIFY_SOCKET": str(path)}
        self.goes_on = threading.Event()  # it takes the next message; clear: it is busy
        self.goes_on.set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def names(self) -> list[str]:
        """Return the names of what it has, once it has heard all that was said."""
        with closing(ServiceManager(self.environ)) as manager:
            assert manager.wait(60)
        return sorted(self.kept)

    def only(self) -> int:
        """Return the one that it has."""
        self.names()
        (fd,) = self.kept.values()
        return fd

    def hand_over(self) -> dict[str, str]:
        """Place all that is kept at descriptors 3, 4, …; return the variables.  Only apart."""
        names = self.names()
        high = [os.dup2(self.kept[name], 100 + index) for index, name in enumerate(names)]
        for index, fd in enumerate(high):
            os.dup2(fd, FIRST + index)
            os.close(fd)
        listen = {"LISTEN_FDS": str(len(names)), "LISTEN_PID": str(os.getpid())}
        return {**self.environ, **listen, "LISTEN_FDNAMES": ":".join(names)}

    def close(self) -> None:
        """Let go of all."""
        self.goes_on.set()
        with closing(ServiceManager(self.environ)) as manager:
            assert manager.insist(END=1)
        self._thread.join()
        self._socket.close()
        for fd in self.kept.values():
            os.close(fd)

    def _serve(self) -> None:
        said: dict[str, str] = {}
        while "END" not in said:
            self.goes_on.wait()
            data, fds, *_ = socket.recv_fds(self._socket, 4096, 4)
            said = parse_message(data)
            if "FDSTORE" in said and not self._has(fds[0]):
                self.kept[said["FDNAME"]] = fds.pop()
                self.most = max(self.most, len(self.kept))
            elif "FDSTOREREMOVE" in said:
                fds.append(self.kept.pop(said["FDNAME"]))
            for fd in fds:
                os.close(fd)

    def _has(self, fd: int) -> bool:
        """Whether it is one of those that are kept: then it is not kept again."""
        return any(os.path.sameopenfile(fd, other) for other in self.kept.values())


class Master:
    """The sockets of one master."""

    def __init__(self, environ: dict[str, str], *, fdstore: bool = True) -> None:
        self._manager = ServiceManager(environ)
        self._loop = Loop()
        self.store = FdStore(self._manager, environ, wanted=fdstore)
        self.sockets = Sockets(environ, self._loop, self.store, lambda _: None)

    def open(self, *texts: str) -> list[str]:
        """Open these; return their addresses."""
        self.listeners = self.sockets.open([parse(text, i) for i, text in enumerate(texts)])
        return [listener.address for listener in self.listeners]

    def close(self) -> None:
        """End as a master does."""
        self.sockets.close()
        self._loop.close()
        self._manager.close()


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    """Give a systemd."""
    with closing(Keeper(tmp_path / "notify")) as keeper:
        yield keeper


def with_room(run: Callable[[], None]) -> None:
    """Run it apart, where nothing that is in use is at the descriptors that are handed over."""

    def inside() -> None:
        for _ in range(10):
            os.dup(0)
        run()

    apart(inside)


def test_what_is_open_is_kept(keeper: Keeper, tmp_path: Path) -> None:
    """Under the listener's name; what is removed or renamed is, too."""
    path = tmp_path / "app.sock"
    with closing(Master(keeper.environ)) as master:
        web, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        master.open(f"web={web}", f"admin={admin}", f"unix:{path}")
        names = ["overseer-1-web", "overseer-2-admin", "overseer-3-listener-2"]
        assert keeper.names() == names
        master.sockets.keep_only(master.listeners[:1])
        assert keeper.names() == names[:1]
        assert not path.exists()
        master.open(f"www={web}", f"admin={admin}")
        master.sockets.keep_only(master.listeners)
        assert sorted(name.split("-")[2] for name in keeper.names()) == ["admin", "www"]


def test_the_live_one_is_kept(keeper: Keeper) -> None:
    """The store follows every cut-over; at the end it has one that no worker ever had."""
    with closing(Master(keeper.environ)) as master:
        master.open("web=127.0.0.1:0")
        (listener,) = master.listeners
        for generation in (1, 2, 3):
            (seat,) = master.sockets.join(generation, {listener: True})
            master.sockets.cut_over(generation)
            assert os.path.sameopenfile(keeper.only(), seat.fd)
            # The guard must not take systemd, which is not always pid 1, for a stray.
            assert os.fstat(seat.fd).st_ino not in master.sockets.own_inodes()
        master.sockets.park(served=True)
        with socket.socket(fileno=os.dup(keeper.only())) as kept:
            assert not os.path.sameopenfile(kept.fileno(), seat.fd)
            assert [each.socket for each in master.sockets.own(3)] == [seat.socket]
            kept.settimeout(60)
            with socket.create_connection(kept.getsockname()):
                kept.accept()[0].close()


def test_one_more_than_listeners_is_room_enough(keeper: Keeper) -> None:
    """However many there are: each gives its old socket up before the next one has two."""
    with closing(Master(keeper.environ)) as master:
        master.open(*[f"127.0.0.1:{free_port()}" for _ in range(5)])
        for generation in (1, 2, 3):
            master.sockets.join(generation, dict.fromkeys(master.listeners, True))
            master.sockets.cut_over(generation)
        assert len(keeper.names()) == 5
        assert keeper.most == 6


def test_a_busy_systemd_is_waited_for(keeper: Keeper) -> None:
    """More is said than its queue has room for (unix(7)): nothing of it is lost."""
    with closing(Master(keeper.environ)) as master:
        master.open(*[f"127.0.0.1:{free_port()}" for _ in range(5)])
        master.sockets.join(1, dict.fromkeys(master.listeners, True))
        keeper.names()
        keeper.goes_on.clear()
        with closing(ServiceManager(keeper.environ)) as other:
            while other.tell(STATUS="busy"):
                pass
        threading.Timer(0.02, keeper.goes_on.set).start()  # while it waits: nothing tells when
        master.sockets.keep_only([])
        assert keeper.names() == []


def test_who_waits_and_is_not_served_stays(keeper: Keeper) -> None:
    """A master that ends before its worker serves leaves clients where they wait."""
    with closing(Master(keeper.environ)) as master:
        master.open("web=127.0.0.1:0")
        before = keeper.only()
        master.sockets.join(1, dict.fromkeys(master.listeners, True))
        master.sockets.park(served=False)
        assert keeper.only() == before


def test_port_0_takes_nobodys_place(tmp_path: Path) -> None:
    """Names follow from positions: what a fixed port wants is not for a port 0 of that name."""

    def run() -> None:
        keeper = Keeper(tmp_path / "notify")
        first = Master(keeper.environ)
        (address,) = first.open(f"127.0.0.1:{free_port()}")
        first.close()
        second = Master(keeper.hand_over())
        assert second.open("127.0.0.1:0", address)[1] == address
        second.close()
        keeper.close()

    with_room(run)


def test_descriptors_of_another_process(keeper: Keeper) -> None:
    """Behind a wrapper nothing can be found again, so nothing is kept, and there is a reason."""
    with closing(Master({**keeper.environ, "LISTEN_FDS": "1", "LISTEN_PID": "1"})) as master:
        master.open("127.0.0.1:0")
        assert master.store.obstacle.startswith("LISTEN_PID is another process's")
        assert keeper.names() == []


def test_the_next_master_goes_on(tmp_path: Path) -> None:
    """With the very sockets, by address and name; connections that wait are not lost."""
    path = tmp_path / "app.sock"
    texts = ["web=127.0.0.1:0", "six=[::1]:0", "udp:127.0.0.1:0", f"unix:{path}?mode=0640"]

    def run() -> None:
        keeper = Keeper(tmp_path / "notify")
        first = Master(keeper.environ)
        addresses = first.open(*texts)
        port = int(addresses[0].rpartition(":")[2])
        first.sockets.park(served=True)
        first.close()
        inode = path.stat().st_ino
        with socket.create_connection(("127.0.0.1", port)) as client:
            second = Master(keeper.hand_over())
            assert second.open(*texts[:3], f"unix:{path}?mode=0600") == addresses
            assert [listener.obstacle for listener in second.listeners] == [""] * 4
            listener = second.listeners[0]
            listener.socket.settimeout(60)
            assert listener.socket.accept()[1] == client.getsockname()
        assert (path.stat().st_ino, path.stat().st_mode & 0o777) == (inode, 0o600)
        assert len(keeper.names()) == len(texts)
        (seat, *_) = second.sockets.join(1, dict.fromkeys(second.listeners, True))
        second.sockets.cut_over(1)
        assert seat.socket is listener.socket
        for fd in map(os.dup, keeper.kept.values()):
            assert not os.get_inheritable(fd)
            os.close(fd)
        second.sockets.keep_only([])
        assert keeper.names() == []
        assert not path.exists()
        second.close()
        keeper.close()

    with_room(run)


@pytest.mark.parametrize("fdstore", [True, False])
def test_what_nobody_wants_any_more(tmp_path: Path, fdstore: bool) -> None:
    """It is let go before anything is bound: a narrower address can be had at once."""

    def run() -> None:
        keeper = Keeper(tmp_path / "notify")
        first = Master(keeper.environ)
        wide, gone = first.open("web=0.0.0.0:0", "gone=127.0.0.1:0")
        first.close()
        second = Master(keeper.hand_over(), fdstore=fdstore)
        narrow = wide.replace("0.0.0.0", "127.0.0.1")
        assert second.open(f"web={narrow}") == [narrow]
        assert len(keeper.names()) == fdstore
        host, _, port = gone.rpartition(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)))
        second.close()
        keeper.close()

    with_room(run)


def test_the_newest_of_a_name(tmp_path: Path) -> None:
    """A master that died within a cut-over has left two; the older one is let go."""

    def run() -> None:
        keeper = Keeper(tmp_path / "notify")
        first = Master(keeper.environ)
        first.open("web=127.0.0.1:0")
        older = os.dup(keeper.only())
        (listener,) = first.listeners
        first.sockets.join(1, {listener: True})
        first.sockets.join(2, {listener: True})
        first.sockets.cut_over(2)
        newer = os.dup(keeper.only())
        keeper.kept["overseer-1-web"] = older
        first.close()
        second = Master(keeper.hand_over())
        second.open("web=127.0.0.1:0")
        assert os.path.sameopenfile(second.listeners[0].fd, newer)
        assert os.path.sameopenfile(keeper.only(), newer)
        second.close()
        os.close(newer)
        keeper.close()

    with_room(run)


def test_a_long_name(tmp_path: Path) -> None:
    """Systemd's names have 255 letters at most, as a listener's have: the end is cut off."""
    long = "x" * 255

    def run() -> None:
        keeper = Keeper(tmp_path / "notify")
        first = Master(keeper.environ)
        addresses = first.open(f"{long}=127.0.0.1:0")
        (name,) = keeper.names()
        assert len(name) <= 255
        first.close()
        second = Master(keeper.hand_over())
        assert second.open(f"{long}=127.0.0.1:0") == addresses
        second.close()
        keeper.close()

    with_room(run)


def test_without_systemd() -> None:
    """There is a reason to tell, and nothing is kept."""
    with closing(Master({})) as master:
        master.open("127.0.0.1:0")
        assert master.store.obstacle.startswith("NOTIFY_SOCKET is not set")
        assert not master.store.holds(master.listeners[0].socket)
        assert not master.listeners[0].lasting


def test_a_systemd_that_does_not_hear(tmp_path: Path) -> None:
    """A full queue costs a second at most; what was not stored is not taken for stored."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(path))
        with closing(ServiceManager({"NOTIFY_SOCKET": str(path)})) as manager:
            while manager.tell(STATUS="x" * 1000):
                pass
        with closing(Master({"NOTIFY_SOCKET": str(path)})) as master:
            master.open("127.0.0.1:0")
            assert not master.store.holds(master.listeners[0].socket)
