"""What a worker says is heard by its master."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from overseer_py import Client, worker
from tests.master import Master, program


def running(tmp_path: Path, *words: str, options: tuple[str, ...] = ()) -> Master:
    """Run a worker that says these."""
    command = program("worker_tells", *words)
    return Master(tmp_path, "--ready", "notify", *options, "--", *command)


def test_ready_and_status(tmp_path: Path) -> None:
    """READY=1 makes it ready; the status is one line, whatever it is made of."""
    words = ["status=warm\nREADY=0\n", "heartbeat", "ready", "drained", "stopping"]
    with running(tmp_path, *words) as master:
        master.ready()
        (found,) = Client(pid=master.pid).status()["workers"]
        assert found["status"] == "warm READY=0"
        assert master.stop() == 0
        assert len(master.all("worker-stopping")) == 1
        assert {f["how"] for f in master.all("worker-exited")} == {"exited with status 0"}


def test_a_start_that_is_extended(tmp_path: Path) -> None:
    """It takes longer than --ready-timeout, and is waited for."""
    words = ["extend=60", "work=5", "ready", "drained"]
    with running(tmp_path, *words, options=("--ready-timeout", "4s")) as master:
        master.ready()
        assert master.stop() == 0


def test_a_drain_that_is_extended(tmp_path: Path) -> None:
    """It takes longer than --drain-timeout, and is waited for."""
    words = ["ready", "drained", "extend=60", "work=4"]
    with running(tmp_path, *words, options=("--drain-timeout", "3s")) as master:
        master.ready()
        assert master.stop() == 0
        assert master.all("drain-timed-out") == []
        assert {f["how"] for f in master.all("worker-exited")} == {"exited with status 0"}


def test_a_worker_asks_for_a_rollout(tmp_path: Path) -> None:
    """The whole service is replaced, and the worker drained like any other."""
    with running(tmp_path, "ready", "restart", "drained") as master:
        master.saw("rollout-committed", generation=2)
        master.saw("generation-gone", generation=1)
        assert master.stop() == 0


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "@overseer-nobody"])
def test_nobody_hears(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Nothing happens, and the answer says so."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    said = [worker.ready(), worker.status("x"), worker.heartbeat(), worker.extend(1)]
    assert [*said, worker.stopping(), worker.restart()] == [False] * 6


def test_systemd_hears_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words are those of sd_notify(3), at an address in the file system, too."""
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(10)
        assert worker.ready()
        assert worker.extend(1.5)
        assert worker.status("a\nb")
        heard = [systemd.recv(100) for _ in range(3)]
    assert heard == [b"READY=1", b"EXTEND_TIMEOUT_USEC=1500000", b"STATUS=a b"]
    assert os.environ["NOTIFY_SOCKET"] == path
