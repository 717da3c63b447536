"""Writing for readers that are slow, stuck or gone: it never blocks and never fails."""

from __future__ import annotations

import os
import pty
import select
import socket
import stat
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from overseer_py.system.loop import Loop
from overseer_py.system.outlet import Outlet
from tests.system.apart import apart

CHUNK = b"x" * 1000 + b"\n"


@pytest.fixture(name="loop")
def fixture_loop() -> Iterator[Loop]:
    """Return a loop."""
    with closing(Loop()) as loop:
        yield loop


def ends(kind: str) -> tuple[int, int]:
    """Return a reading end and a writing end."""
    match kind:
        case "pipe":
            return os.pipe()
        case "socketpair":
            one, other = socket.socketpair()
            return one.detach(), other.detach()
        case "datagrams":
            one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            return one.detach(), other.detach()
    return pty.openpty()


def turn(loop: Loop) -> int:
    """Do what is due now; return how many calls that was."""
    calls = loop.turn(0)
    for call in calls:
        call()
    return len(calls)


def read_all(fd: int, loop: Loop) -> bytes:
    """Read what comes until there is no more, with the loop writing on."""
    found = b""
    while True:
        turned = turn(loop)
        if select.select([fd], [], [], 0)[0]:
            found += os.read(fd, 1 << 20)
        elif not turned:
            return found


KINDS = ["pipe", "socketpair", "datagrams", "pty"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_arrives_at_once(loop: Loop, kind: str) -> None:
    """With a reader that keeps up every byte passes, in order, without a turn of the loop."""
    reader, writer = ends(kind)
    with closing(Outlet(writer, loop)) as outlet:
        for word in (b"one ", b"two ", b"three\n"):
            outlet.write(word)
        assert outlet.dropped == 0
        expected = b"one two three\n".replace(b"\n", b"\r\n" if kind == "pty" else b"\n")
        assert read_all(reader, loop) == expected
        assert turn(loop) == 0
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stuck_reader_blocks_nobody(loop: Loop, kind: str) -> None:
    """What does not fit is kept up to a bound, then dropped and counted, whole chunks at a time."""
    reader, writer = ends(kind)
    with closing(Outlet(writer, loop)) as outlet:
        count = 0
        while outlet.dropped < 10:
            outlet.write(CHUNK)
            count += 1
            assert count < 10_000, "it goes somewhere"
        assert count > 1000  # a megabyte is kept
        # Nor does it spin: a terminal passes on what it has got, but not for ever.
        assert any(turn(loop) == 0 for _ in range(1000))
        arrived = read_all(reader, loop).replace(b"\r", b"")
        assert arrived == CHUNK * (count - 10)
        outlet.write(b"again\n")
        assert read_all(reader, loop).replace(b"\r", b"") == b"again\n"
        assert turn(loop) == 0
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("kind", ["pipe", "socketpair", "datagrams", "pty"])
def test_a_reader_that_is_gone_is_no_error(loop: Loop, kind: str) -> None:
    """EPIPE and EIO are counted, before and after something waits to be written."""
    for stuck in (False, True):
        reader, writer = ends(kind)
        with closing(Outlet(writer, loop)) as outlet:
            if stuck:
                for _ in range(500):
                    outlet.write(CHUNK)
            os.close(reader)
            while turn(loop):
                pass
            outlet.write(CHUNK)
            outlet.flush()
            assert outlet.dropped >= 1
            assert turn(loop) == 0
        os.close(writer)


@pytest.mark.parametrize("kind", KINDS)
def test_the_open_file_of_others_is_left_alone(loop: Loop, kind: str) -> None:
    """O_NONBLOCK belongs to the open file, which workers share: it is never set."""
    reader, writer = ends(kind)
    with closing(Outlet(writer, loop)) as outlet:
        while outlet.dropped < 2:
            outlet.write(CHUNK)
            assert os.get_blocking(writer)
            assert os.get_blocking(reader)
    assert os.get_blocking(writer)
    os.fstat(writer)  # still open: it is not the outlet's to close
    os.close(reader)
    os.close(writer)


def test_a_pipe_that_cannot_be_opened_anew(loop: Loop) -> None:
    """Another user's pipe may not be opened through /proc: it is polled, and still never blocks."""

    def run() -> tuple[int, int]:
        reader, writer = os.pipe()
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 65534)
            with suppress(PermissionError):
                os.close(os.open(f"/proc/self/fd/{writer}", os.O_WRONLY))
                return 0, 0
        outlet = Outlet(writer, loop)
        count = 0
        while outlet.dropped < 10:
            outlet.write(CHUNK)
            count += 1
        assert os.get_blocking(writer)
        arrived = read_all(reader, loop)
        outlet.write(b"again\n")
        assert read_all(reader, loop) == b"again\n"
        return count - 10, len(arrived)

    if os.geteuid() != 0:
        pytest.skip("only root can have a pipe that it may not open")
    kept, arrived = apart(run)
    assert kept > 1000
    assert arrived == kept * len(CHUNK)


def test_a_pipe_without_a_reader(loop: Loop) -> None:
    """Nobody has read since the start: it is opened, written to and closed all the same."""
    reader, writer = os.pipe()
    os.close(reader)
    with closing(Outlet(writer, loop)) as outlet:
        outlet.write(CHUNK)
        outlet.write(CHUNK)
        assert outlet.dropped == 2
    os.close(writer)


def test_a_file_is_written_where_others_write(loop: Loop, tmp_path: Path) -> None:
    """Several writers share the position in the file: nobody overwrites anybody."""
    path = tmp_path / "log"
    with path.open("wb", buffering=0) as file:
        with closing(Outlet(file.fileno(), loop)) as outlet:
            outlet.write(b"one\n")
            file.write(b"two\n")
            outlet.write(b"three\n" + b"x" * (1 << 20))
            file.write(b"end\n")
        assert turn(loop) == 0
    assert path.read_bytes() == b"one\ntwo\nthree\n" + b"x" * (1 << 20) + b"end\n"


@pytest.mark.parametrize(("path", "dropped"), [("/dev/null", 0), ("/dev/full", 3)])
def test_devices(loop: Loop, path: str, dropped: int) -> None:
    """The null device takes everything; a full one nothing, and that is no error."""
    fd = os.open(path, os.O_WRONLY)
    assert stat.S_ISCHR(os.fstat(fd).st_mode)
    with closing(Outlet(fd, loop)) as outlet:
        for _ in range(3):
            outlet.write(CHUNK)
        assert outlet.dropped == dropped
    os.close(fd)


def test_one_huge_chunk_is_taken(loop: Loop) -> None:
    """What is larger than all that is kept passes if nothing waits, in however many turns."""
    reader, writer = os.pipe()
    with closing(Outlet(writer, loop)) as outlet:
        outlet.write(b"y" * (3 << 20))
        outlet.write(b"too much")
        assert outlet.dropped == 1
        assert read_all(reader, loop) == b"y" * (3 << 20)
    os.close(reader)
    os.close(writer)


def test_closing_leaves_nothing(loop: Loop) -> None:
    """An outlet that is closed with something to write frees its descriptors."""
    before = os.listdir("/proc/self/fd")
    for kind in KINDS:
        reader, writer = ends(kind)
        outlet = Outlet(writer, loop)
        for _ in range(500):
            outlet.write(CHUNK)
        outlet.close()
        assert turn(loop) == 0
        os.close(reader)
        os.close(writer)
    assert os.listdir("/proc/self/fd") == before


def test_nothing_is_written_as_nothing(loop: Loop) -> None:
    """The empty piece at the end of a worker's output is no message to whoever reads."""
    reader, writer = ends("datagrams")
    with closing(Outlet(writer, loop)) as outlet:
        outlet.write(b"")
        outlet.write(b"word")
        assert os.read(reader, 10) == b"word"
    os.close(reader)
    os.close(writer)
