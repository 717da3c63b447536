"""Unix sockets at one path: the newcomer beside it, renamed over it at the cut-over."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from overseer_py.address import parse
from overseer_py.errors import ListenerError
from overseer_py.system import connections
from overseer_py.system.listeners import open_listener
from overseer_py.system.unix import Renamed
from tests.needs import cannot
from tests.system.apart import apart
from tests.system.test_steering import needs_numbers, refuse_in_kernel

NOBODY = 65534

Open = Callable[..., Renamed]


@pytest.fixture(name="opened")
def fixture_opened(tmp_path: Path) -> Iterator[Open]:
    """Return a function that opens a group at tmp_path/app; it is closed after the test."""
    with ExitStack() as stack:

        def opened(options: str = "", name: str = "app") -> Renamed:
            group = open_listener(parse(f"unix:{tmp_path}/{name}{options}", 0)).group
            assert isinstance(group, Renamed)
            return stack.enter_context(closing(group))

        yield opened


def call(place: object) -> socket.socket:
    """Return a connection to a path that nobody has accepted yet."""
    client = socket.socket(socket.AF_UNIX)
    try:
        client.connect(str(place))
    except OSError:
        client.close()
        raise
    return client


def reached(place: object, *members: socket.socket) -> socket.socket:
    """Return which of these has one new connection to a path in its queue, and take it out."""
    with call(place):
        (member,) = (member for member in members if connections.waiting(member))
        member.accept()[0].close()
    return member


def owner_and_mode(path: Path) -> tuple[int, int, int]:
    """Return whose a file is, and for whom."""
    found = path.lstat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def beside(path: Path, label: str) -> Path:
    """Return the path of a member that has not been live yet."""
    return path.with_name(f".{path.name}.overseer-{label}")


def left_in(directory: Path) -> list[str]:
    """Return the names in a directory."""
    return sorted(path.name for path in directory.iterdir())


def test_a_newcomer_gets_the_path_at_the_cut_over(opened: Open, tmp_path: Path) -> None:
    """Until then clients reach the old one, by the path that they know, and afterwards it."""
    group, path = opened(), tmp_path / "app"
    for generation in ("2", "3", "4"):
        old, new = group.live, group.join(generation, 9)
        assert left_in(tmp_path) == [beside(path, generation).name, "app"]
        assert reached(path, old, new) is old
        group.cut_over(new)
        assert group.live is new
        assert left_in(tmp_path) == ["app"]
        assert reached(path, old, new) is new
        group.leave(old)
        assert old.fileno() == -1
        assert reached(path, new) is new
    group.cut_over(group.live)  # it is live already
    assert reached(path, group.live) is group.live


def test_the_path_is_never_missing(opened: Open, tmp_path: Path) -> None:
    """Clients that connect all the while reach one or the other, and never nobody."""
    group, path = opened(), tmp_path / "app"
    failures: list[OSError] = []
    turns = threading.Semaphore(0)

    def connect_again_and_again() -> None:
        for _ in range(100 * 20):
            turns.acquire()
            try:
                call(path).close()
            except OSError as error:
                failures.append(error)

    client = threading.Thread(target=connect_again_and_again, daemon=True)
    client.start()
    for generation in range(100):
        turns.release(20)
        group.cut_over(group.join(str(generation), 4096))
    client.join()
    assert failures == []


def test_what_waits_stays_where_it_is(opened: Open, tmp_path: Path) -> None:
    """What came before the cut-over is the old one's to serve."""
    group, path = opened(), tmp_path / "app"
    old, new = group.live, group.join("2", 9)
    with ExitStack() as stack:
        clients = [stack.enter_context(call(path)) for _ in range(3)]
        group.cut_over(new)
        assert reached(path, new) is new
        assert connections.waiting(old) == 3
        for client in clients:
            with old.accept()[0] as accepted:
                accepted.send(b"served")
            assert client.recv(9) == b"served"
        assert connections.waiting(old) == connections.waiting(new) == 0


@pytest.mark.parametrize("options", ["", "?mode=0600", "?mode=0666", "?mode=0"])
def test_the_mode_is_the_same(opened: Open, tmp_path: Path, options: str) -> None:
    """Who may connect does not change with the generation, nor with the mask of the day."""
    group, path = opened(options), tmp_path / "app"
    first = owner_and_mode(path)
    group.join("2", 9)
    assert owner_and_mode(beside(path, "2")) == first
    group.cut_over(group.join("3", 9))
    assert owner_and_mode(path) == first


def test_the_owner_is_the_same(opened: Open, tmp_path: Path) -> None:
    """Also a path that was given away."""
    if os.geteuid() != 0:
        cannot("only root can give files away")
    group, path = opened(f"?user={NOBODY}&group=12345&mode=0640"), tmp_path / "app"
    assert owner_and_mode(path) == (NOBODY, 12345, 0o640)
    new = group.join("2", 9)
    assert owner_and_mode(beside(path, "2")) == (NOBODY, 12345, 0o640)
    group.cut_over(new)
    assert owner_and_mode(path) == (NOBODY, 12345, 0o640)


@pytest.mark.parametrize("nonblock", [0, 1])
def test_a_member_is_as_was_asked_for(opened: Open, nonblock: int) -> None:
    """It blocks, or does not block, as the first one does, and is the master's alone."""
    group = opened(f"?nonblock={nonblock}")
    for member in (group.live, group.join("2", 9)):
        assert os.get_blocking(member.fileno()) is not bool(nonblock)
        assert not os.get_inheritable(member.fileno())


def test_a_path_that_was_never_used(opened: Open, tmp_path: Path) -> None:
    """Who leaves without having been live takes the path beside with it, and nothing else."""
    group, path = opened(), tmp_path / "app"
    new = group.join("2", 9)
    group.leave(new)
    assert left_in(tmp_path) == ["app"]
    assert reached(path, group.live) is group.live
    new = group.join("3", 9)
    (beside(path, "3")).unlink()  # somebody has tidied up
    group.leave(new)
    assert left_in(tmp_path) == ["app"]


def test_who_leaves_after_the_cut_over(opened: Open, tmp_path: Path) -> None:
    """The path is another's by now, and stays."""
    group, path = opened(), tmp_path / "app"
    old, new, third = group.live, group.join("2", 9), group.join("3", 9)
    group.cut_over(new)
    group.cut_over(third)
    group.leave(old)
    group.leave(new)
    assert left_in(tmp_path) == ["app"]
    assert reached(path, third) is third


def test_the_end_leaves_nothing(opened: Open, tmp_path: Path) -> None:
    """All paths of ours are gone, also that of a member that never was live."""
    group = opened()
    first, second, third = group.live, group.join("2", 9), group.join("3", 9)
    group.cut_over(second)
    group.close()
    assert left_in(tmp_path) == []
    assert [member.fileno() for member in (first, second, third)] == [-1, -1, -1]
    group.close()  # once more is no error


def test_the_end_leaves_what_is_anothers(opened: Open, tmp_path: Path) -> None:
    """A path that somebody else has taken over since is not removed."""
    group, path = opened(), tmp_path / "app"
    group.cut_over(group.join("2", 9))
    path.unlink()
    other = opened()
    group.close()
    assert reached(path, other.live) is other.live
    other.cut_over(other.join("2", 9))
    path.unlink()
    path.write_text("precious", encoding="ascii")
    other.close()
    assert path.read_text(encoding="ascii") == "precious"


def test_a_path_that_is_anothers(opened: Open, tmp_path: Path) -> None:
    """Nothing is renamed over it, nor bound beside it for that; whoever has it is undisturbed."""
    group, path = opened(), tmp_path / "app"
    old, new = group.live, group.join("2", 9)
    path.unlink()
    other = opened()
    for attempt in (lambda: group.join("3", 9), lambda: group.cut_over(new), group.replace):
        with pytest.raises(ListenerError, match="another's file is there; remove it"):
            attempt()
    assert reached(path, other.live) is other.live
    assert left_in(tmp_path) == [beside(path, "2").name, "app"]
    other.close()
    group.cut_over(new)  # where there is nothing, it is ours again
    assert reached(path, old, new) is new


def test_a_stray_process_does_not_wait_for_ever(opened: Open) -> None:
    """Who still holds a socket that has left is told that nobody will come any more."""
    group = opened()
    old, new = group.live, group.join("2", 9)
    with socket.socket(fileno=os.dup(old.fileno())) as stray:
        group.cut_over(new)
        group.leave(old)
        with pytest.raises(OSError, match="Invalid argument"):
            stray.accept()


def test_what_a_killed_master_has_left(opened: Open, tmp_path: Path) -> None:
    """A path beside that nobody listens on is replaced; a file that is no socket is refused."""
    group, path = opened(), tmp_path / "app"
    for index, listens in enumerate((False, True)):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(beside(path, str(index))))
            if listens:
                dead.listen()
    for index in range(2):
        new = group.join(str(index), 9)
        group.cut_over(new)
        assert reached(path, new) is new
    beside(path, "9").write_text("precious", encoding="ascii")
    with pytest.raises(ListenerError, match="a file is there that is no socket; remove it"):
        group.join("9", 9)
    assert beside(path, "9").read_text(encoding="ascii") == "precious"


def test_a_live_socket_beside(opened: Open, tmp_path: Path) -> None:
    """One on which somebody listens is left alone, and the reason is said."""
    group, path = opened(), tmp_path / "app"
    other = opened(name=beside(path, "2").name)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ListenerError, match="somebody listens there; stop that program first"):
        group.join("2", 9)
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert reached(beside(path, "2"), other.live) is other.live
    assert reached(path, group.live) is group.live


def test_a_directory_that_is_gone(opened: Open, tmp_path: Path) -> None:
    """Nobody can join, which is said with the path, and nothing is left of the attempt."""
    (tmp_path / "run").mkdir()
    group = opened(name="run/app")
    (tmp_path / "run").rename(tmp_path / "gone")
    before = os.listdir("/proc/self/fd")
    path = tmp_path / "run" / "app"
    with pytest.raises(
        ListenerError, match=f"unix:{path}: {beside(path, '2')}: No such file or directory"
    ):
        group.join("2", 9)
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize(("room", "obstacle"), [(18, False), (17, True), (0, True)])
def test_a_long_path(opened: Open, tmp_path: Path, room: int, obstacle: bool) -> None:
    """Where there is no room for a dot and a number, generations share one socket, and why."""
    length = 107 - room - len(os.fsencode(tmp_path)) - 1
    if length < 1:
        pytest.skip("the directory for tests has too long a path itself")
    name = "a" * length
    group = opened(name=name)
    reason = "its path is too long for a second one beside it"
    assert group.obstacle == (reason if obstacle else "")
    if not obstacle:
        new = group.join("1234567", 9)
        group.cut_over(new)
        assert reached(tmp_path / name, new) is new


@needs_numbers
def test_a_kernel_without_lists(tmp_path: Path) -> None:
    """Who cannot see when a worker is quiet has one socket for all generations, and the reason."""

    def run() -> tuple[str, bool]:
        refuse_in_kernel("netlink")
        with closing(open_listener(parse(f"unix:{tmp_path}/app", 0))) as listener:
            call(tmp_path / "app").close()
            return listener.obstacle, bool(listener.socket.accept())

    reason = "the kernel does not list unix sockets here (Operation not permitted)"
    assert apart(run) == (reason, True)


def test_an_entrance(opened: Open, tmp_path: Path) -> None:
    """It is the path beside, and after the cut-over the one that all know."""
    group, path = opened(), tmp_path / "app"
    old, new = group.live, group.join("2", 9)
    for place, member in ((path, old), (beside(path, "2"), new)):
        entrance = group.open_entrance(member, 3)
        assert (entrance.family, entrance.place) == (socket.AF_UNIX, str(place))
        assert entrance.sockets == ()
        assert reached(entrance.place, old, new) is member
        group.close_entrance(entrance)
    group.cut_over(new)
    assert reached(group.open_entrance(new, 1).place, old, new) is new


def test_a_share_cannot_be_had(opened: Open, tmp_path: Path) -> None:
    """A path leads to one socket: nobody is tried by a few, and nobody else can be there."""
    group, path = opened(), tmp_path / "app"
    old, new = group.live, group.join("2", 9)
    group.divert(new, 100)
    group.settle()
    group.park()
    assert reached(path, old, new) is old
    assert group.strangers() == set()


def test_a_shut_down_socket_is_replaced(opened: Open, tmp_path: Path) -> None:
    """A worker has shut the live one down for everybody: a new one has its path and its mode."""
    group, path = opened("?mode=0640"), tmp_path / "app"
    group.cut_over(group.join("2", 9))
    waiting = group.join("3", 9)
    group.live.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ConnectionRefusedError):
        call(path)
    group.replace()
    assert owner_and_mode(path) == (os.geteuid(), os.getegid(), 0o640)
    assert reached(path, group.live, waiting) is group.live
    group.cut_over(waiting)
    assert reached(path, group.live) is waiting


def test_a_replaced_socket_is_removed_in_the_end(opened: Open, tmp_path: Path) -> None:
    """Its path is ours, although it is another file than before."""
    group = opened()
    before = os.open(tmp_path / "app", os.O_PATH)  # so that its number is not used again
    group.live.shutdown(socket.SHUT_RDWR)
    group.replace()
    group.close()
    os.close(before)
    assert left_in(tmp_path) == []
