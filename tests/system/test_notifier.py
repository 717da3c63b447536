"""What a call asks for is read from outside, as the program means it."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from overseer_py.system import notifier
from overseer_py.system.notifier import Place
from tests.needs import cannot
from tests.system.snared import snared

INET, INET6, UNIX = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX
MPTCP = 262


def binding(
    family: int, address: object, kind: int = socket.SOCK_STREAM, protocol: int = 0
) -> Callable[[], None]:
    """Return what binds such a socket, whatever comes of it."""

    def run() -> None:
        with socket.socket(family, kind, protocol) as sock:
            sock.bind(address)  # type: ignore[arg-type]  # as the family has it

    return run


@pytest.mark.parametrize(
    ("run", "place"),
    [
        (binding(INET, ("127.0.0.1", 80)), Place(INET, "127.0.0.1", 80)),
        (binding(INET, ("", 65535)), Place(INET, "0.0.0.0", 65535)),
        (binding(INET, ("127.0.0.1", 0)), Place(INET, "127.0.0.1")),
        (binding(INET6, ("::1", 80)), Place(INET6, "::1", 80)),
        (binding(INET6, ("fe80::1", 80, 0, 1)), Place(INET6, "fe80::1%lo", 80)),
        (binding(INET6, ("::ffff:127.0.0.1", 80)), Place(INET6, "::ffff:127.0.0.1", 80)),
        (binding(UNIX, "/tmp/x"), Place(UNIX, "/tmp/x")),
        (binding(UNIX, "\0abstract"), None),
        (binding(INET, ("127.0.0.1", 80), socket.SOCK_DGRAM), None),
        (binding(UNIX, "/tmp/x", socket.SOCK_DGRAM), None),
    ],
)
def test_where_a_bind_goes(run: Callable[[], None], place: Place | None) -> None:
    """Host and port, or path; nothing for what is no stream, or has no name."""
    with snared(run) as child:
        call = child.call()
        assert notifier.place_of(call) == place
        assert child.trap.is_valid(call)
        child.trap.answer(call)
        assert child.status() == 0


def test_mptcp() -> None:
    """A socket of Multipath TCP is as one of TCP."""
    try:
        socket.socket(INET, socket.SOCK_STREAM, MPTCP).close()
    except OSError:
        cannot("the kernel has no MPTCP")
    with snared(binding(INET, ("127.0.0.1", 80), protocol=MPTCP)) as child:
        assert notifier.place_of(child.call()) == Place(INET, "127.0.0.1", 80)


def test_a_path_is_as_the_caller_means_it(tmp_path: Path) -> None:
    """Relative ones count from its directory."""

    def run() -> None:
        os.chdir(tmp_path)
        socket.socket(UNIX).bind("run/app.sock")

    with snared(run) as child:
        path = str(tmp_path.resolve() / "run" / "app.sock")
        assert notifier.place_of(child.call()) == Place(UNIX, path)


@pytest.mark.parametrize("way", ["absolute", "relative", "directory"])
def test_what_is_unlinked(tmp_path: Path, way: str) -> None:
    """By unlink(2) or unlinkat(2), from the root, from here or from an open directory."""
    path = tmp_path.resolve() / "app.sock"
    path.touch()

    def run() -> None:
        if way == "absolute":
            os.unlink(path)
        elif way == "relative":
            os.chdir(tmp_path)
            os.unlink("app.sock")
        else:
            os.unlink("app.sock", dir_fd=os.open(tmp_path, os.O_DIRECTORY))

    with snared(run, paths=True) as child:
        call = child.call()
        assert call.name in ("unlink", "unlinkat")
        assert notifier.path_of(call) == str(path)
        child.trap.answer(call)
        assert child.status() == 0
    assert path.exists()


def test_a_descriptors_flags() -> None:
    """Non-blocking and close-on-exec, each for itself."""

    def run() -> None:
        for inheritable, blocking in ((True, True), (False, True), (True, False), (False, False)):
            with socket.socket() as sock:
                sock.set_inheritable(inheritable)
                sock.setblocking(blocking)
                sock.bind(("127.0.0.1", 0))

    with snared(run) as child:
        found = []
        for _ in range(4):
            call = child.call()
            found.append(notifier.flags(call))
            child.trap.proceed(call)
        assert found == [(False, False), (False, True), (True, False), (True, True)]


def test_a_socket_that_others_know() -> None:
    """One that epoll watches, or that has a copy, cannot be replaced; any other can."""

    def run() -> None:
        with socket.socket() as plain, socket.socket() as copied, socket.socket() as watched:
            copy = copied.dup()
            epoll = select.epoll()
            epoll.register(watched, 0)
            for sock in (plain, copied, watched):
                sock.bind(("127.0.0.1", 0))
            copy.close()
            epoll.close()

    with snared(run) as child:
        found = []
        for _ in range(3):
            call = child.call()
            found.append(notifier.is_shared(call))
            child.trap.proceed(call)
        assert found == [False, True, True]


def test_a_socket_is_borrowed() -> None:
    """It is the caller's own: what is set here is set there."""

    def run() -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    with snared(run) as child:
        call = child.call()
        with notifier.borrow(call) or socket.socket() as theirs:
            assert os.fstat(theirs.fileno()).st_ino == notifier.inode(call)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        child.trap.proceed(call)
        assert child.status() == 0


def test_memory_that_is_not_there() -> None:
    """A wrong address is an error of the caller's, not of ours."""

    def run() -> None:
        import ctypes  # noqa: PLC0415 - in the child

        with socket.socket() as sock:
            ctypes.CDLL(None).bind(sock.fileno(), ctypes.c_void_p(1), 16)

    with snared(run) as child:
        call = child.call()
        with pytest.raises(OSError, match="Input/output"):
            notifier.place_of(call)
        child.trap.proceed(call)
        assert child.status() == 0
