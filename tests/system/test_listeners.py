"""Sockets that the master owns: bound, adopted, repaired, closed."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from overseer_py.address import Address, Kind, parse
from overseer_py.errors import ConfigError, ListenerError
from overseer_py.sockets import Sockets
from overseer_py.system.fdstore import FdStore
from overseer_py.system.listeners import Listener, Seat, adopt, choose, open_listener
from overseer_py.system.loop import Loop
from overseer_py.system.notify import ServiceManager
from tests.load import fetch, free_port
from tests.master import HELLO, PATIENCE, Master
from tests.needs import need
from tests.system.apart import apart
from tests.system.test_bpf import at_one_port, bound_client

NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")

Open = Callable[..., Listener]


@pytest.fixture(name="opened")
def fixture_opened() -> Iterator[Open]:
    """Return a function that opens a listener, which is closed after the test."""
    with ExitStack() as stack:

        def opened(text: str, index: int = 0) -> Listener:
            return stack.enter_context(closing(open_listener(parse(text, index))))

        yield opened


def meets(listener: Listener, place: tuple[str, int] | str) -> socket.socket:
    """Connect to a place; return the connection that the listener accepts there."""
    with connect(place):
        accepted, _ = listener.socket.accept()
    return accepted


def connect(place: tuple[str, int] | str) -> socket.socket:
    """Return a connection to a place."""
    if isinstance(place, str):
        client = socket.socket(socket.AF_UNIX)
        client.connect(place)
        return client
    return socket.create_connection(place, timeout=PATIENCE)


def shut_down(listener: Listener) -> None:
    """Have another process, which shares the socket, shut it down."""
    code = f"import socket; socket.socket(fileno={listener.fd}).shutdown(socket.SHUT_RDWR)"
    subprocess.run([sys.executable, "-c", code], pass_fds=[listener.fd], check=True)
    assert listener.kind == "unix" or not listening(listener)


def listening(listener: Listener) -> bool:
    """Whether connections are taken."""
    return bool(listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


# -- tcp --------------------------------------------------------------------------------------


def test_ipv4(opened: Open) -> None:
    """An IPv4 address is listened on, under the real port, and is the master's alone."""
    listener = opened("web=127.0.0.1:0")
    assert listener.name == "web"
    assert listener.kind == "tcp"
    assert listener.port
    assert listener.address == f"127.0.0.1:{listener.port}"
    assert listener.inherited() == ("web", listener.address, listener.port)
    assert not os.get_inheritable(listener.fd)
    assert os.get_blocking(listener.fd)
    meets(listener, ("127.0.0.1", listener.port)).close()


def test_ipv6_in_brackets_is_ipv6_only(opened: Open) -> None:
    """What is written in brackets takes no IPv4 connections."""
    listener = opened("[::1]:0")
    assert listener.port
    assert listener.address == f"[::1]:{listener.port}"
    assert listener.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    meets(listener, ("::1", listener.port)).close()
    # Nobody else may listen there: so it is bound, without listening.
    everywhere, bound = at_one_port(
        lambda: opened("[::]:0"),
        lambda o: bound_client(socket.SOCK_STREAM, "127.0.0.1", o.port or 0),
    )
    assert everywhere.port
    with bound, pytest.raises(ConnectionRefusedError):
        connect(("127.0.0.1", everywhere.port))


def test_no_host_is_every_address(opened: Open) -> None:
    """``:0`` is reached by IPv4 and by IPv6 at one port."""
    listener = opened(":0")
    assert listener.port
    for host in ("127.0.0.1", "::1"):
        meets(listener, (host, listener.port)).close()


def test_a_name_is_looked_up(opened: Open) -> None:
    """A host may be a name; its IPv4 address is taken if it has one."""
    listener = opened("localhost:0")
    assert listener.address == f"127.0.0.1:{listener.port}"


def test_port_0_can_be_asked_for_again(opened: Open) -> None:
    """Two listeners at port 0 get two ports; a taken one can be had by its number afterwards."""
    first, second = opened("127.0.0.1:0"), opened("127.0.0.1:0", 1)
    assert first.port != second.port
    port = first.port
    first.close()
    assert opened(f"127.0.0.1:{port}").port == port


def test_accepted_connections_do_not_wait_for_more(opened: Open) -> None:
    """TCP_NODELAY is on for what is accepted, although no server has asked for it."""
    for text in ("127.0.0.1:0", "[::1]:0", ":0"):
        listener = opened(text)
        host = "::1" if text.startswith("[") else "127.0.0.1"
        assert listener.port
        with meets(listener, (host, listener.port)) as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", ""])
def test_a_port_is_free_again_at_once(opened: Open, host: str) -> None:
    """Connections in TIME_WAIT do not keep a new master from the address."""
    listener = opened(f"{host}:0")
    port = listener.port
    assert port
    with connect((host.strip("[]") or "127.0.0.1", port)) as client:
        accepted, _ = listener.socket.accept()
        accepted.close()  # the server's side closes first, and so is the one that waits
        assert client.recv(1) == b""
    listener.close()
    meets(opened(f"{host}:{port}"), (host.strip("[]") or "127.0.0.1", port)).close()


def backlog_of(listener: Listener) -> int:
    """Return the length of the accept queue, from TCP_INFO: tcpi_sacked of a listener."""
    info = listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("=I", info, 28)[0])


def test_backlog(opened: Open) -> None:
    """4096 connections wait unless told otherwise, as far as the system lets them."""
    most = int(Path("/proc/sys/net/core/somaxconn").read_text(encoding="ascii"))
    assert backlog_of(opened("127.0.0.1:0")) == min(4096, most)
    listener = opened("127.0.0.1:0?backlog=7", 1)
    assert backlog_of(listener) == 7
    listener.socket.listen(1)  # a worker, with the socket that it shares
    Seat(listener, listener.socket).listen()
    assert backlog_of(listener) == 7


def test_nonblock(opened: Open, tmp_path: Path) -> None:
    """``?nonblock=1`` is for programs that expect it; others get a socket that blocks."""
    for text in ("127.0.0.1:0", "udp:127.0.0.1:0", f"unix:{tmp_path}/a"):
        assert os.get_blocking(opened(text).fd)
    for text in ("127.0.0.1:0?nonblock=1", "udp::0?nonblock=1", f"unix:{tmp_path}/b?nonblock=1"):
        assert not os.get_blocking(opened(text).fd)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "", "udp:127.0.0.1", "udp:"])
def test_a_taken_address_is_refused_with_the_remedy(opened: Open, host: str) -> None:
    """A second bind fails, names the address, and says what can be done."""
    port = opened(f"{host}:0").port
    with pytest.raises(ListenerError) as caught:
        opened(f"{host}:{port}")
    reason = "address already in use; stop whoever has it, or choose another"
    assert str(caught.value) == f"listen {host}:{port}: {reason}"
    assert caught.value.exit_status == 3


def test_a_low_port_without_the_right_to_it() -> None:
    """Who may not have a low port is told what would help."""
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text(encoding="ascii"))
    if first <= 81:
        pytest.skip(f"on this machine anybody may have port 81: low ones end at {first}")

    def run() -> str:
        if os.geteuid() == 0:
            os.setresuid(NOBODY, NOBODY, NOBODY)
        with pytest.raises(ListenerError) as caught:
            open_listener(parse("127.0.0.1:81", 0))
        return str(caught.value)

    reason = "permission denied; a low port needs root or CAP_NET_BIND_SERVICE"
    assert apart(run) == f"listen 127.0.0.1:81: {reason}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("192.0.2.1:80", "no such address on this machine"),
        ("udp:192.0.2.1:80", "no such address on this machine"),
        ("host..name:80", "host..name: not a host's name"),
        (f"{'a' * 64}:80", f"{'a' * 64}: not a host's name"),
        ("a%b:80", "a%b: Name or service not known"),
    ],
)
def test_a_host_that_cannot_be_had(text: str, reason: str) -> None:
    """An address of another machine and a name that is none are refused with the reason."""
    with pytest.raises(ListenerError) as caught:
        open_listener(parse(text, 0))
    assert str(caught.value) == f"listen {text}: {reason}"


# -- udp --------------------------------------------------------------------------------------


def test_udp(opened: Open) -> None:
    """A UDP socket is bound under its real port and receives."""
    listener = opened("udp:127.0.0.1:0")
    assert (listener.kind, listener.stream) == ("udp", False)
    assert listener.port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"hello", ("127.0.0.1", listener.port))
    assert listener.socket.recv(10) == b"hello"
    Seat(listener, listener.socket).listen()  # no business of a UDP socket's, and no error


def test_udp_and_tcp_share_a_port(opened: Open) -> None:
    """One port number serves both, as a name server has it."""
    port = opened("tcp=127.0.0.1:0").port
    assert opened(f"udp=udp:127.0.0.1:{port}").port == port


# -- unix -------------------------------------------------------------------------------------


def test_unix(opened: Open, tmp_path: Path) -> None:
    """A unix socket is at its path as long as it is open."""
    path = tmp_path / "a=b.sock"
    listener = opened(f"app=unix:{path}")
    assert (listener.name, listener.kind, listener.port) == ("app", "unix", None)
    assert listener.address == str(path)
    meets(listener, str(path)).close()
    listener.close()
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777, 0o000])
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_mode_of_a_unix_socket(opened: Open, tmp_path: Path, mode: int, umask: int) -> None:
    """The mode is the one asked for, whatever the mask, and the mask stays as it was."""
    before = os.umask(umask)
    try:
        opened(f"unix:{tmp_path}/a?mode={mode:o}")
        opened(f"unix:{tmp_path}/b", 1)
    finally:
        assert os.umask(before) == umask
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o777 & ~umask


@root_only
def test_owner_of_a_unix_socket(opened: Open, tmp_path: Path) -> None:
    """User and group are given by name or number, together or alone."""
    for name, options, owner in (
        ("a", "user=nobody", (NOBODY, os.getegid())),
        ("b", "group=12345", (os.geteuid(), 12345)),
        ("c", "mode=0660&user=12346&group=nogroup", (12346, NOBODY)),
    ):
        opened(f"{name}=unix:{tmp_path}/{name}?{options}")
        found = (tmp_path / name).stat()
        assert (found.st_uid, found.st_gid) == owner


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("user=no-such-user", "user no-such-user: no such user"),
        ("group=no-such-group", "group no-such-group: no such group"),
        ("user=99999999999", "user 99999999999: no such user"),
        ("user=4294967295", "user 4294967295: no such user"),
        ("group=²", "group ²: no such group"),
    ],
)
def test_an_owner_that_does_not_exist(tmp_path: Path, option: str, reason: str) -> None:
    """A user or group that nobody is fails before anything is bound."""
    with pytest.raises(ConfigError) as caught:
        open_listener(parse(f"unix:{tmp_path}/a?{option}", 0))
    assert str(caught.value) == f"listen unix:{tmp_path}/a: {reason}"
    assert not (tmp_path / "a").exists()


def test_an_owner_that_only_root_can_give(tmp_path: Path) -> None:
    """If the owner cannot be changed, no socket is left behind."""

    def run() -> tuple[str, bool]:
        if os.geteuid() == 0:
            os.chown(tmp_path, NOBODY, NOBODY)
            os.chdir(tmp_path)  # its parents are for the one who runs the tests
            os.setresuid(NOBODY, NOBODY, NOBODY)
        with pytest.raises(ListenerError) as caught:
            open_listener(Address("a", Kind.UNIX, path="a", user="0"))
        return str(caught.value), os.path.exists("a")

    assert apart(run) == ("listen unix:a: Operation not permitted", False)


def test_a_stale_unix_socket_is_replaced(opened: Open, tmp_path: Path) -> None:
    """The socket of a master that was killed is no obstacle."""
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.is_socket()
    meets(opened(f"unix:{path}"), str(path)).close()


def test_a_live_unix_socket_is_refused(opened: Open, tmp_path: Path) -> None:
    """A socket on which somebody listens, or a full one, is left to its owner."""
    path = tmp_path / "app.sock"
    first = opened(f"unix:{path}?backlog=1")
    waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(4)]
    for _ in range(2):
        with pytest.raises(ListenerError, match="somebody listens there; stop that program first"):
            opened(f"unix:{path}")
        for client in waiting:  # and again when its queue is full
            client.setblocking(False)
            client.connect_ex(str(path))
    first.socket.accept()[0].close()
    assert listening(first)
    for client in waiting:
        client.close()


def test_a_file_that_is_no_socket_is_refused(opened: Open, tmp_path: Path) -> None:
    """Neither a file nor a directory nor a link is removed for a socket."""
    (tmp_path / "file").write_text("precious", encoding="ascii")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("file", "link", "dangling", ""):
        with pytest.raises(ListenerError, match="a file is there that is no socket; remove it"):
            opened(f"unix:{tmp_path}/{name}")
    assert (tmp_path / "file").read_text(encoding="ascii") == "precious"


def test_a_path_that_cannot_be(opened: Open, tmp_path: Path) -> None:
    """A path of 108 bytes and more, and one in no directory, are refused with the reason."""
    room = 107 - len(os.fsencode(tmp_path)) - 1
    if room < 3:
        pytest.skip("the directory for tests has too long a path itself")
    opened(f"unix:{tmp_path}/{'a' * room}")
    with pytest.raises(ListenerError, match="more than 107 bytes; choose a shorter one"):
        opened(f"unix:{tmp_path}/{'a' * (room + 1)}")
    with pytest.raises(ListenerError, match="No such file or directory"):
        opened(f"unix:{tmp_path}/x/y")


def test_a_path_of_any_bytes(opened: Open, tmp_path: Path) -> None:
    """A path need not be text: bytes that are not UTF-8 are a path as well."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    meets(opened(f"unix:{path}"), path).close()


def test_only_its_own_path_is_removed(opened: Open, tmp_path: Path) -> None:
    """At the end the path stays if it is somebody else's socket by now, or is gone already."""
    path = tmp_path / "app.sock"
    first = opened(f"unix:{path}")
    path.unlink()
    second = opened(f"unix:{path}")
    first.close()
    meets(second, str(path)).close()
    path.unlink()
    path.write_text("precious", encoding="ascii")
    for _ in range(2):  # once closed, the inode's number may be used again
        second.close()
        assert path.exists()
    third = opened(f"unix:{tmp_path}/other.sock")
    third.close()
    Path(f"{tmp_path}/other.sock").write_text("precious", encoding="ascii")
    third.close()
    assert Path(f"{tmp_path}/other.sock").exists()


# -- shut down by a worker ----------------------------------------------------------------------


def test_a_shut_down_port_is_listened_on_again(opened: Open) -> None:
    """One worker's shutdown(2) closes a listener for everybody: it is repaired in place."""
    first = opened("127.0.0.1:0")
    port = first.port
    first.close()
    listener = opened(f"127.0.0.1:{port}?backlog=9")
    before = listener.address, listener.fd, listener.socket_inode
    shut_down(listener)
    assert listener.port
    assert listener.revive()
    assert (listener.address, listener.fd, listener.socket_inode) == before
    assert backlog_of(listener) == 9
    meets(listener, ("127.0.0.1", listener.port)).close()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", ""])
def test_a_port_that_was_chosen_is_kept(opened: Open, host: str) -> None:
    """Also a port that the kernel chose is the same after a shutdown, and nobody else's."""
    listener = opened(f"{host}:0")
    port = listener.port
    shut_down(listener)
    family = socket.AF_INET if host == "127.0.0.1" else socket.AF_INET6
    with socket.socket(family) as thief, pytest.raises(OSError, match="already in use"):
        thief.bind((host.strip("[]") or "::", port))
    assert listener.revive()
    assert listener.port == port
    assert listening(listener)


def test_a_unix_socket_gets_a_new_one(opened: Open, tmp_path: Path) -> None:
    """A unix socket cannot be revived: a new one takes its path, its mode and its owner."""
    path = tmp_path / "app.sock"
    listener = opened(f"unix:{path}?mode=0640")
    inode = listener.socket_inode
    shut_down(listener)
    assert not listener.revive()
    assert listener.socket_inode != inode
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    meets(listener, str(path)).close()
    listener.close()
    assert not path.exists()


class Reports:
    """The sockets of a service, in a loop, and what was told of them."""

    def __init__(self, environ: dict[str, str] | None = None) -> None:
        self.loop = Loop()
        self.told: list[tuple[str, bool]] = []
        self._manager = ServiceManager({})
        store = FdStore(self._manager, {}, wanted=False)
        self.sockets = Sockets(environ or {}, self.loop, store, self._on_shut_down)

    def _on_shut_down(self, listener: Listener) -> None:
        self.told.append((listener.name, self.sockets.revive(listener)))

    def open(self, *texts: str) -> list[Listener]:
        """Open these."""
        return self.sockets.open([parse(text, index) for index, text in enumerate(texts)])

    def turn(self) -> int:
        """Do what is due now; return how many calls that was."""
        calls = self.loop.turn(0)
        for call in calls:
            call()
        return len(calls)

    def close(self) -> None:
        """Close all."""
        self.sockets.close()
        self.loop.close()
        self._manager.close()


@pytest.fixture(name="reports")
def fixture_reports() -> Iterator[Reports]:
    """Return sockets in a loop."""
    with closing(Reports()) as reports:
        yield reports


def test_a_shutdown_is_noticed_once(reports: Reports, tmp_path: Path) -> None:
    """Each shutdown is told once, and afterwards the loop is quiet again."""
    for listener in reports.open("tcp=127.0.0.1:0", f"unix=unix:{tmp_path}/a", "udp=udp::0"):
        assert reports.turn() == 0
        for _ in range(2):
            if listener.kind == "udp":
                with pytest.raises(OSError, match="not connected"):
                    listener.socket.shutdown(socket.SHUT_RDWR)  # and it is shut down all the same
            else:
                shut_down(listener)
            reports.turn()
            assert reports.turn() == 0
    assert reports.told == [("tcp", True)] * 2 + [("unix", False)] * 2 + [("udp", False)]


# -- several together, over time ------------------------------------------------------------------


def test_all_or_none_is_opened(reports: Reports, tmp_path: Path) -> None:
    """If one listener cannot be had, those that were bound before it are free again."""
    taken, free = (reports.open("x=127.0.0.1:0")[0].port, f"unix:{tmp_path}/a")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ListenerError):
            reports.open(f"x=127.0.0.1:{taken}", free, f"127.0.0.1:{other.getsockname()[1]}")
    assert not (tmp_path / "a").exists()
    assert reports.open("x=127.0.0.1:0")[0].port == taken  # what was open is open


def test_what_is_open_is_not_opened_again(reports: Reports, tmp_path: Path) -> None:
    """The same places at a reload are the same sockets, in whatever order and by any name."""
    first = reports.open("a=127.0.0.1:0", f"b=unix:{tmp_path}/s")
    again = reports.open(f"new=unix:{tmp_path}/s", "a=127.0.0.1:0")
    assert again[1] is first[0]
    assert [listener.name for listener in again] == ["new", "a"]
    assert again[0].socket_inode == first[1].socket_inode
    gone = reports.sockets.keep_only(again)
    assert [listener.name for listener in gone] == ["b"]
    meets(again[0], f"{tmp_path}/s").close()  # the path is still ours
    reports.sockets.keep_only([])
    assert not (tmp_path / "s").exists()


def test_names_are_unique(reports: Reports) -> None:
    """Two listeners of one name would be one to the worker."""
    with pytest.raises(ListenerError, match="two listeners are named a; write NAME=ADDR"):
        reports.open("a=127.0.0.1:0", "a=[::1]:0")


# -- handed over by systemd -----------------------------------------------------------------------


def handed_over(count: int) -> list[int]:
    """Have this many listening sockets at 3, 4, …; return their inodes.  Only apart."""
    listeners = [open_listener(parse("127.0.0.1:0", index)).socket for index in range(count)]
    inodes = [os.fstat(listener.fileno()).st_ino for listener in listeners]
    fds = [os.dup2(listener.fileno(), 100 + i) for i, listener in enumerate(listeners)]
    for index, fd in enumerate(fds):
        os.dup2(fd, 3 + index)
    for listener in listeners:
        listener.detach()
    return inodes


def environ_of(count: int, names: str = "", pid: int | None = None) -> dict[str, str]:
    """Return the variables that systemd would set."""
    return {"LISTEN_FDS": str(count), "LISTEN_PID": str(pid or os.getpid())} | (
        {"LISTEN_FDNAMES": names} if names else {}
    )


def test_sockets_that_were_handed_over() -> None:
    """They are taken in order, by their names, private, and without a delay for small answers."""

    def run() -> None:
        inodes = handed_over(2)
        adopted = adopt(environ_of(2, "http:admin"), os.getpid())
        assert [listener.name for listener in adopted] == ["http", "admin"]
        assert [listener.fd for listener in adopted] == [3, 4]
        assert [listener.socket_inode for listener in adopted] == inodes
        for listener in adopted:
            assert listener.kind == "tcp"
            assert not os.get_inheritable(listener.fd)
            assert listener.port
            with meets(listener, ("127.0.0.1", listener.port)) as accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

    apart(run)


def test_sockets_for_somebody_else() -> None:
    """Without a LISTEN_PID of our own, or a number of sockets, nothing is taken."""
    pid = os.getpid()
    for environ in (
        {},
        environ_of(1, pid=pid + 1),
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": str(pid)},
        {"LISTEN_FDS": "x", "LISTEN_PID": str(pid)},
        {"LISTEN_FDS": "0", "LISTEN_PID": str(pid)},
    ):
        assert adopt(environ, pid) == []


def test_names_of_sockets_that_were_handed_over() -> None:
    """Two of one unit have one name there and two here; what has no name gets a number."""

    def run() -> None:
        handed_over(4)
        adopted = adopt(environ_of(4, "http:http:"), os.getpid())
        assert [o.name for o in adopted] == ["http", "http-1", "listener-2", "listener-3"]
        assert choose(parse("fd:http", 0), adopted) == adopted[:2]
        assert choose(parse("fd:3", 0), adopted) == adopted[:1]
        assert choose(parse("fd:5", 0), adopted) == adopted[2:3]
        for text in ("fd:https", "fd:2", "fd:7", "fd:0"):
            with pytest.raises(ListenerError, match=f"listen {text}: no such socket .*http, http"):
                choose(parse(text, 0), adopted)
        with pytest.raises(ListenerError, match="there is: nothing"):
            choose(parse("fd:http", 0), [])

    apart(run)


def test_what_was_handed_over_must_listen() -> None:
    """A descriptor that is closed, no socket, or a connection, is refused with its number."""

    def run() -> None:
        os.closerange(3, 10)
        with pytest.raises(ListenerError, match="listen fd:3: Bad file descriptor; is LISTEN_FDS"):
            adopt(environ_of(1), os.getpid())
        os.dup2(0, 3)
        with pytest.raises(ListenerError, match=r"listen fd:3: .*non-socket; is LISTEN_FDS right"):
            adopt(environ_of(1), os.getpid())
        one, _two = socket.socketpair()
        os.dup2(one.fileno(), 3)
        with pytest.raises(ListenerError, match="fd:3: not a listening socket; set Accept=no"):
            adopt(environ_of(1), os.getpid())

    apart(run)


def test_adopted_sockets_of_a_service() -> None:
    """Without an address all are taken; by ``fd:``, those named, under a name of one's own."""

    def run() -> None:
        inodes = handed_over(2)
        reports = Reports(environ_of(2, "http:admin"))
        assert [o.name for o in reports.open()] == ["http", "admin"]
        (web,) = reports.open("web=fd:http")
        assert (web.name, web.socket_inode) == ("web", inodes[0])
        assert [o.name for o in reports.open("fd:admin", "127.0.0.1:0")] == ["admin", "listener-1"]
        assert len(reports.sockets.own_inodes()) == 1  # what systemd holds as well is not ours

    apart(run)


def test_an_adopted_socket_can_come_back() -> None:
    """What a reload leaves out stays open, since nobody could open it when the next wants it."""

    def run() -> None:
        inodes = handed_over(2)
        reports = Reports(environ_of(2, "http:admin"))
        reports.open()
        kept = reports.open("127.0.0.1:0")
        assert len(reports.sockets.keep_only(kept)) == 2
        again = reports.open("fd:http", "fd:admin")
        assert [listener.socket_inode for listener in again] == inodes
        assert again[0].port
        meets(again[0], ("127.0.0.1", again[0].port)).close()
        shut_down(again[1])
        reports.turn()
        assert reports.told == [("admin", True)]

    apart(run)


def test_an_adopted_unix_socket_is_told_of_once(tmp_path: Path) -> None:
    """Nothing repairs it, and the path is systemd's: said once, then the loop is quiet."""

    def run() -> list[tuple[str, bool]]:
        listener = open_listener(parse(f"unix:{tmp_path}/a", 0))
        os.dup2(listener.fd, 3)
        reports = Reports(environ_of(1, "app"))
        (adopted,) = reports.open()
        shut_down(adopted)
        assert reports.turn() == 1
        assert reports.turn() == 0
        return reports.told

    assert apart(run) == [("app", False)]
    assert (tmp_path / "a").is_socket()


def test_real_socket_activation(tmp_path: Path) -> None:
    """Under systemd's own activation a service serves, and restarts keep the socket."""
    activate = need("systemd-socket-activate")
    port = free_port()
    wrapper = [activate, "-l", f"127.0.0.1:{port}", "--fdname=http"]
    wrapper += ["-E", f"XDG_RUNTIME_DIR={tmp_path}", "-E", f"PATH={os.environ['PATH']}"]
    with Master(tmp_path, "--", *HELLO, wrapper=wrapper) as master:
        master.saw_line("Listening on")
        assert fetch(port).startswith("hello from ")
        listening = master.saw("listening")
        assert (listening["name"], listening["address"]) == ("http", f"127.0.0.1:{port}")
        served = {fetch(port)}
        for number in (signal.SIGHUP, signal.SIGUSR2):
            after = master.now()
            master.send(number)
            committed = master.saw("rollout-committed", after=after)
            master.saw("generation-gone", after=after, generation=committed["generation"] - 1)
            served.add(fetch(port))
        assert len(served) == 3
        assert not master.all("listener-closed")
        assert master.stop() == 0


def test_readable_means_a_connection_waits(opened: Open) -> None:
    """A listener is nothing but a socket: it is polled, and accepts without blocking."""
    listener = opened("127.0.0.1:0?nonblock=1")
    with pytest.raises(BlockingIOError) as caught:
        listener.socket.accept()
    assert caught.value.errno == errno.EAGAIN
    assert listener.port
    with connect(("127.0.0.1", listener.port)):
        readable, _, _ = select.select([listener.socket], [], [], PATIENCE)
        assert readable == [listener.socket]
        listener.socket.accept()[0].close()
