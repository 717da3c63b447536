"""Who waits for connections is seen from outside, however a program waits."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from overseer_py.system import procfs, traffic
from tests.master import PATIENCE

PREPARE = """
import os, select, signal, socket, sys, threading
listener = socket.socket(fileno=int(sys.argv[1]))
listener.setblocking(True)
fd = listener.fileno()
class Other:
    pass
def poll():
    waits = select.poll()
    waits.register(0, select.POLLIN)
    waits.register(fd, select.POLLIN)
    waits.poll()
def polls_for_output():
    waits = select.poll()
    waits.register(fd, select.POLLOUT if listener.type == socket.SOCK_STREAM else 0)
    waits.poll()
def epoll():
    waits = select.epoll()
    waits.register(fd, select.EPOLLIN)
    signal.pause()
def epoll_exclusive():
    waits = select.epoll()
    waits.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
    waits.poll()
def epoll_hangup():
    waits = select.epoll()
    waits.register(fd, 0)
    waits.poll()
def under_another_number():
    os.dup2(fd, 77)
    select.select([77], [], [])
def in_a_thread(wait):
    threading.Thread(target=wait, daemon=True).start()
    signal.pause()
def in_a_child(wait):
    if os.fork() == 0:
        wait()
    signal.pause()
def in_a_grandchild(wait):
    in_a_child(lambda: in_a_child(wait))
def selects():
    select.select([0, fd], [], [])
def selects_for_output():
    select.select([], [], [fd])
def waits():
    signal.pause()
{wait}
"""

SEEN = [
    "epoll()",
    "epoll_exclusive()",
    "poll()",
    "selects()",
    "listener.accept()",
    "under_another_number()",
    "in_a_thread(poll)",
    "in_a_thread(selects)",
    "in_a_thread(listener.accept)",
    "in_a_thread(epoll)",
    "in_a_child(epoll)",
    "in_a_child(listener.accept)",
    "in_a_grandchild(selects)",
]


@contextmanager
def program(wait: str, *sockets: socket.socket) -> Iterator[int]:
    """Have a program wait in this way on the first socket; yield its pid."""
    code = PREPARE.replace("{wait}", wait)
    fds = [sock.fileno() for sock in sockets]
    command = [sys.executable, "-I", "-S", "-c", code, *map(str, fds)]
    with subprocess.Popen(
        command, pass_fds=fds, stdin=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            yield process.pid
        finally:
            for pid in procfs.tree([process.pid]):
                os.kill(pid, 9)


def inode(sock: socket.socket) -> int:
    """Return the number by which the kernel knows a socket."""
    return os.fstat(sock.fileno()).st_ino


def seen(pid: int, inodes: set[int]) -> bool:
    """Wait until a process or a descendant is seen to wait on all these sockets."""
    give_up_at = time.monotonic() + PATIENCE
    while traffic.waiting(procfs.tree([pid]), inodes) != inodes:
        assert time.monotonic() < give_up_at, "never seen"
    return True


def settled(pid: int, name: bytes) -> None:
    """Wait until some thread of a process, or of a descendant, is within this system call."""
    calls = {b"poll": (b"7", b"271", b"73"), b"pause": (b"34", b"73"), b"select": (b"23", b"270")}
    calls |= {b"epoll": (b"232", b"281", b"22"), b"read": (b"0", b"63")}
    give_up_at = time.monotonic() + PATIENCE
    while True:
        for one in procfs.tree([pid]):
            if procfs.read(f"/proc/{one}/syscall").split()[:1] in ([n] for n in calls[name]):
                return
        assert time.monotonic() < give_up_at, f"never in {name!r}"


@pytest.fixture(name="listener")
def fixture_listener() -> Iterator[socket.socket]:
    """Return a listening socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.mark.parametrize("wait", SEEN)
def test_waiting_is_seen(listener: socket.socket, wait: str) -> None:
    """Registered with epoll, or blocked in accept, poll or select, in any thread or descendant."""
    with program(wait, listener) as pid:
        assert seen(pid, {inode(listener)})


@pytest.mark.parametrize("wait", ["listener.recvfrom(9)", "listener.recvmsg(9)", "poll()"])
def test_waiting_for_datagrams_is_seen(wait: str) -> None:
    """A UDP server blocks in recvfrom or recvmsg."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        with program(wait, receiver) as pid:
            assert seen(pid, {inode(receiver)})


@pytest.mark.parametrize("wait", ["listener.accept()", "epoll()"])
def test_waiting_on_a_unix_socket_is_seen(wait: str) -> None:
    """The address family makes no difference."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")
        listener.listen()
        with program(wait, listener) as pid:
            assert seen(pid, {inode(listener)})


@pytest.mark.parametrize(
    ("wait", "call"),
    [
        ("waits()", b"pause"),
        ("epoll_hangup()", b"epoll"),
        ("selects_for_output()", b"select"),
        ("polls_for_output()", b"poll"),
        ("os.read(0, 1)", b"read"),
    ],
)
def test_holding_is_not_waiting(listener: socket.socket, wait: str, call: bytes) -> None:
    """Who has the socket open, and waits for something else, does not wait for connections."""
    with program(wait, listener) as pid:
        settled(pid, call)
        assert traffic.waiting(procfs.tree([pid]), {inode(listener)}) == set()


@pytest.mark.parametrize("wait", ["epoll()", "poll()", "selects()", "listener.accept()"])
def test_each_socket_is_told_apart(listener: socket.socket, wait: str) -> None:
    """Who waits on one socket is not taken to wait on another that it has open, too."""
    with socket.create_server(("127.0.0.1", 0)) as other, program(wait, listener, other) as pid:
        assert seen(pid, {inode(listener)})
        both = {inode(listener), inode(other)}
        assert traffic.waiting([pid], both) == {inode(listener)}
        assert traffic.waiting([pid], {inode(other)}) == set()
        assert traffic.waiting([pid], set()) == set()


def test_two_processes_may_share_the_work(listener: socket.socket) -> None:
    """It is enough that each socket has somebody who waits."""
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        program("listener.accept()", listener) as one,
        program("epoll()", other) as two,
    ):
        seen(one, {inode(listener)})
        seen(two, {inode(other)})
        both = {inode(listener), inode(other)}
        assert traffic.waiting([one, two], both) == both


def test_a_process_that_is_gone_waits_on_nothing(listener: socket.socket) -> None:
    """An end between two looks is no error."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert traffic.waiting([gone.pid, 2**22 + 1], {inode(listener)}) == set()


def test_a_high_descriptor_is_seen(listener: socket.socket) -> None:
    """A set of select(2) is read as far as it goes, a list of poll(2) as long as it is."""
    code = "os.dup2(fd, 1000); os.close(fd); select.select([0, 1000], [], [])"
    with program(code, listener) as pid:
        assert seen(pid, {inode(listener)})
