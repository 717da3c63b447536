"""What is heard on the ways in that a worker of another convention has."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from overseer_py.errors import LaunchError
from overseer_py.system import procfs
from overseer_py.system.launch import Launch
from overseer_py.system.loop import Loop
from overseer_py.words import Words

ACK = b'{"command": "worker:ack", "pid": 1}\n'


class Worker:
    """A worker of these conventions, as far as its master hears it: all in this process."""

    def __init__(self, *conventions: str) -> None:
        self.loop = Loop()
        self.heard = 0
        self.words = Words(conventions, self.loop, self._on_word)
        self.launch = self.words.fit(Launch(["true"], {}, fds=[0, 1]))

    def _on_word(self) -> None:
        self.heard += 1

    def turn(self) -> None:
        """Deal with all that has come."""
        while calls := self.loop.turn(0):
            for call in calls:
                call()

    @property
    def pair(self) -> int:
        """EINHORN_SOCK_FD, as it is here."""
        assert self.launch.environ["EINHORN_SOCK_FD"] == "5"
        return self.launch.fds[2]

    def connect(self) -> socket.socket:
        """Connect to EINHORN_SOCK_PATH, as it is here."""
        assert self.launch.environ["EINHORN_SOCK_PATH"] == "/proc/self/fd/6"
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(f"/proc/self/fd/{self.launch.fds[3]}")
        return connection


@pytest.fixture
def einhorn() -> Iterator[Worker]:
    """Give a worker, and see that nothing of it stays open."""
    before = procfs.entries("/proc/self/fd")
    worker = Worker("systemd", "einhorn")
    yield worker
    worker.words.stop()
    worker.loop.close()
    assert procfs.entries("/proc/self/fd") == before


def test_a_word_counts_once(einhorn: Worker) -> None:
    """Whichever way it comes first; who says it again finds somebody there, as with einhorn."""
    with einhorn.connect() as first, einhorn.connect() as second:
        first.sendall(ACK[:20])
        einhorn.turn()
        assert einhorn.heard == 0
        first.sendall(ACK[20:])
        einhorn.turn()
        assert einhorn.heard == 1
        second.sendall(ACK)
        os.write(einhorn.pair, ACK)
        with einhorn.connect() as third:
            third.sendall(ACK)
        einhorn.turn()
        assert einhorn.heard == 1


def test_what_is_no_word(einhorn: Worker) -> None:
    """Other commands mean nothing; what has no end, and who goes away, is forgotten."""
    os.write(einhorn.pair, b'{"command": "state"}\nworker:ack')  # the line has no end yet
    with einhorn.connect() as talks, einhorn.connect() as leaves:
        talks.sendall(bytes(5000))
        leaves.close()
        einhorn.turn()
        with pytest.raises(ConnectionError):
            talks.sendall(ACK)
    assert einhorn.heard == 0
    os.write(einhorn.pair, b"\n")
    einhorn.turn()
    assert einhorn.heard == 1


def test_a_worker_has_only_so_many_connections(einhorn: Worker) -> None:
    """It cannot take the master's descriptors, one by one."""
    before = len(procfs.entries("/proc/self/fd"))
    connections = []
    for _ in range(50):
        connections.append(einhorn.connect())
        einhorn.turn()
    assert len(procfs.entries("/proc/self/fd")) < before + 50 + 8
    for connection in connections:
        connection.close()


def test_the_path_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is to be removed, whoever is killed; with no place for one, there is the pair."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    worker = Worker("einhorn")
    assert list(tmp_path.iterdir()) == []
    worker.connect().close()
    worker.words.stop()
    worker.loop.close()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    worker = Worker("einhorn")
    assert "EINHORN_SOCK_PATH" not in worker.launch.environ
    os.write(worker.pair, ACK)
    worker.turn()
    assert worker.heard == 1
    worker.words.stop()
    worker.loop.close()


def test_the_worker_alone_has_its_ends(einhorn: Worker) -> None:
    """Once it is started, the master lets go of them: it sees when the worker has."""
    theirs = einhorn.launch.fds[2:]
    einhorn.words.begin()
    for fd in theirs:
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(fd)
    einhorn.turn()
    assert einhorn.heard == 0


def test_others_have_no_way_in() -> None:
    """Nothing is opened for them, and nothing of the launch changes."""
    before = procfs.entries("/proc/self/fd")
    words = Words(["systemd", "gracehttp", "server-starter"], Loop(), lambda: None)
    launch = Launch(["true"], {})
    assert words.fit(launch) is launch
    assert len(procfs.entries("/proc/self/fd")) <= len(before) + 1  # the loop
    words.stop()


def test_without_a_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker could not be started, and the reason is the system's."""

    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "socketpair", refuse)
    loop = Loop()
    before = procfs.entries("/proc/self/fd")
    with pytest.raises(LaunchError, match="could not be started: Too many open files"):
        Words(["grace", "einhorn"], loop, lambda: None)
    assert procfs.entries("/proc/self/fd") == before
    loop.close()
