"""The guard outlives the master by as long as it takes to leave nothing behind."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
from collections.abc import Callable
from typing import NoReturn

from overseer_py.system import procfs
from overseer_py.system.guard import Guard
from overseer_py.system.launch import Launch
from tests.master import PATIENCE
from tests.system.apart import House, apart

ENVIRON = {"PATH": os.environ["PATH"]}
DEAF = ["sh", "-c", "trap '' TERM; echo up; exec sleep infinity"]


def after_the_death_of(master: Callable[[House, int], None]) -> None:
    """Kill a master that has come so far; wait until nobody holds the pipe that it was given."""

    def run() -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _be(master, writer)
        os.close(writer)
        while data := os.read(reader, 100):
            if b"done" in data:
                os.kill(pid, signal.SIGKILL)
            assert select.select([reader], [], [], PATIENCE)[0], "somebody lives on"

    apart(run)


def _be(master: Callable[[House, int], None], writer: int) -> NoReturn:
    try:
        master(House(), writer)
        os.write(writer, b"done")
        while True:
            signal.pause()
    finally:
        os._exit(1)


def hears(reader: int, house: House) -> None:
    """Wait for a word of a program's; the master's children may end meanwhile."""
    assert os.read(reader, 10) == b"up\n"
    house.children.reap()


def test_a_worker_that_ignores_the_signal_is_killed() -> None:
    """What the parent-death signal does not end, the guard does."""

    def master(house: House, writer: int) -> None:
        guard = Guard(house.children, None)
        reader, up = os.pipe2(os.O_CLOEXEC)
        process = house.spawn(Launch(DEAF, ENVIRON, fds=[writer], stdout=up))
        guard.worker(process.pid)
        hears(reader, house)

    after_the_death_of(master)


def test_what_carries_the_masters_mark_is_killed() -> None:
    """A process that left its session and its parent is known by OVERSEER_PID."""

    def master(house: House, writer: int) -> None:
        Guard(house.children, None)
        reader, up = os.pipe2(os.O_CLOEXEC)
        environ = {**ENVIRON, "OVERSEER_PID": str(os.getpid())}
        argv = ["setsid", "-f", *DEAF]
        house.spawn(Launch(argv, environ, fds=[writer], stdout=up), {"NO": "mark"})
        hears(reader, house)

    after_the_death_of(master)


def test_whoever_holds_a_listener_is_killed() -> None:
    """A process without any mark that holds the master's socket would keep its port."""

    def master(house: House, writer: int) -> None:
        guard = Guard(house.children, None)
        listener = socket.create_server(("127.0.0.1", 0))
        guard.listeners({os.fstat(listener.fileno()).st_ino})
        reader, up = os.pipe2(os.O_CLOEXEC)
        fds = [writer, listener.fileno()]
        house.spawn(Launch(["setsid", "-f", *DEAF], ENVIRON, fds=fds, stdout=up), {"NO": "mark"})
        hears(reader, house)

    after_the_death_of(master)


def test_a_guard_that_was_killed_is_replaced() -> None:
    """The next one knows all that the first one knew."""

    def master(house: House, writer: int) -> None:
        guard = Guard(house.children, None)
        (first,) = procfs.children(os.getpid())
        reader, up = os.pipe2(os.O_CLOEXEC)
        process = house.spawn(Launch(DEAF, ENVIRON, fds=[writer], stdout=up))
        guard.worker(process.pid)
        hears(reader, house)
        os.kill(first, signal.SIGKILL)
        house.turn()
        (second,) = (pid for pid in procfs.children(os.getpid()) if pid != process.pid)
        assert second != first

    after_the_death_of(master)


def test_a_guard_holds_the_lock_and_nothing_else() -> None:
    """Of all that the master has open it keeps its pipe, stdio and the lock on the name."""

    def run() -> None:
        house = House()
        lock = os.memfd_create("lock")
        with socket.create_server(("127.0.0.1", 0)):
            Guard(house.children, lock)
            (pid,) = procfs.children(os.getpid())
            while procfs.read(f"/proc/{pid}/comm") != b"overseer-guard\n":
                os.sched_yield()
            while len(held := procfs.entries(f"/proc/{pid}/fd")) != 5:
                os.sched_yield()
            links = {procfs.link(f"/proc/{pid}/fd/{name}").partition(":")[0] for name in held}
            assert "/memfd" in links
            assert "socket" not in links
            assert procfs.sockets(pid) == {}

    apart(run)


def test_without_a_guard_nothing_is_written_to_strangers() -> None:
    """If the next guard cannot be started, its pipe's number is another's; a worker tries again."""

    def run() -> bytes:
        house = House()
        guard = Guard(house.children, None)
        (pid,) = procfs.children(os.getpid())
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        house.children.reap()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        reader, writer = os.pipe2(os.O_NONBLOCK)
        for fd in range(3, 20):
            if fd not in (reader, writer):
                os.dup2(writer, fd)
        guard.listeners({1})
        assert not procfs.children(os.getpid())
        guard.worker(os.getpid())
        assert len(procfs.children(os.getpid())) == 1
        os.write(writer, b"end")
        return os.read(reader, 100)

    assert apart(run) == b"end"
