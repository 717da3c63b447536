"""The library, as scripts use it; and what it costs to ask."""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from overseer_py import Client, NoInstanceError, RequestError, RolloutError
from tests.e2e.commands import TCP, Gate, Versions
from tests.e2e.documents import LAST_ROLLOUT, Document, check_status
from tests.load import fetch
from tests.master import HELLO, PATIENCE, Master, program

pytestmark = pytest.mark.usefixtures("here")


def test_a_deployment(tmp_path: Path) -> None:
    """What restart returns or raises is how it went; a callback hears what happens."""
    versions = Versions(tmp_path)
    with Master(tmp_path, *TCP, "--", *versions.command) as master:
        served = fetch(master.ready().port())
        client = Client("app")
        check_status(client.status())
        versions.spoil()
        with pytest.raises(RolloutError, match="exited with status 1") as failed:
            client.restart(timeout=PATIENCE)
        assert failed.value.rollout == LAST_ROLLOUT
        assert failed.value.rollout["outcome"] == "rolled-back"
        assert failed.value.rollout["stderr_tail"][-1].startswith("ModuleNotFoundError")
        assert fetch(master.port()) == served
        versions.repair()
        heard: list[str] = []
        rollout = client.restart(timeout=PATIENCE, on_event=lambda e: heard.append(e["event"]))
        assert rollout == LAST_ROLLOUT
        assert (rollout["generation"], rollout["outcome"]) == (3, "committed")
        assert heard[-1] == "generation-gone"
        assert "worker-ready" in heard
        client.scale(2)
        client.signal("USR1")
        assert client.reload(timeout=PATIENCE)["generation"] == 4
        client.stop(timeout=PATIENCE)
        assert master.process.poll() == 0  # already
        with pytest.raises(NoInstanceError, match="no overseer named 'app' runs here"):
            client.status()


def test_time_is_up(tmp_path: Path) -> None:
    """An error that is no RolloutError, for nothing is known yet; the rollout goes on."""
    gate = Gate(tmp_path)
    with Master(tmp_path, *TCP, *gate.options, "--", *program("service")) as master:
        master.ready()
        gate.shut()
        with pytest.raises(RequestError, match="timed out") as late:
            Client().restart(timeout=0.05)
        assert not isinstance(late.value, RolloutError)
        master.saw("rollout-started", generation=2)  # its variables are read: it waits at the gate
        gate.open()
        master.saw("rollout-committed")
        assert master.stop() == 0


def test_the_end_of_a_drain_that_nobody_sees(tmp_path: Path) -> None:
    """What was committed is committed, whatever becomes of the old generation."""
    with Master(tmp_path, *TCP, "--", *program("keeps")) as master:  # which does not hear TERM
        master.ready()

        def heard(event: Document) -> None:
            if event["event"] == "worker-draining":
                master.process.kill()

        assert Client("keeps").restart(on_event=heard)["outcome"] == "committed"


def test_events(tmp_path: Path) -> None:
    """They are yielded as they come, and end with the master."""
    with Master(tmp_path, *TCP, "--", *HELLO) as master:
        events = Client(pid=master.ready().pid).events(last=1)
        assert next(events)["event"] == "service-ready"
        assert Client(tmp_path / "overseer" / "hello.sock").restart(wait=False)
        assert "rollout-committed" in _until(events, "generation-gone")
        assert master.stop() == 0
        assert list(events)[-1]["event"] in ("worker-exited", "generation-gone")


def _until(events: Iterator[Document], end: str) -> list[str]:
    names: list[str] = []
    while end not in names:
        names.append(next(events)["event"])
    return names


# -- what it costs --------------------------------------------------------------------------------


def test_what_is_imported() -> None:
    """The package alone costs nothing; a client none of the master, nor of the command line."""
    code = "import sys, overseer_py; print(*sys.modules); overseer_py.Client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    package, client = (set(line.split()) for line in done.stdout.splitlines())
    assert {name for name in package if name.startswith("overseer")} == {"overseer_py"}
    assert "json" not in package
    ours = {name for name in client if name.startswith("overseer_py.")}
    assert ours == {f"overseer_py.{name}" for name in ("client", "errors", "whereabouts")}
    assert not client & {"click", "structlog"}


def test_status_is_quick(tmp_path: Path) -> None:
    """A process that asks takes little longer than one that loads what every command needs."""
    with Master(tmp_path, *TCP, "--", *HELLO) as master:
        master.ready()
        asks = [sys.executable, "-m", "overseer_py", "status", "hello"]
        loads = [sys.executable, "-c", "import click, json, socket"]
        both = [(_took(asks), _took(loads)) for _ in range(10)]
        took, least = (min(times) for times in zip(*both, strict=True))
        assert took < 2 * least + 0.03, f"{took:.3f} s, {least:.3f} s"
        assert master.stop() == 0


def _took(command: Sequence[str]) -> float:
    """Return the processor time of a command, which others that run do not add to."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(after[:2]) - sum(before[:2])  # user and system


def test_a_master_is_asked_in_passing(tmp_path: Path) -> None:
    """With 16 workers and 50 connections a status takes less than 5 ms of its processor time.

    On a slow machine it may take as long as two hundred looks into /proc.
    """
    with Master(tmp_path, *TCP, "--workers", "16", "--", *program("keeps")) as master:
        port = master.ready().port()
        alone = _cost(master.pid)
        with ExitStack() as clients:
            for _ in range(50):
                address = ("127.0.0.1", port)
                client = clients.enter_context(socket.create_connection(address, PATIENCE))
                client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert client.recv(4096)
            while sum(w["connections"] for w in Client("keeps").status()["workers"]) != 50:
                pass  # they are not counted anew for each who asks
            busy = _cost(master.pid)
        most = max(0.005, 200 * _look())
        assert max(alone, busy) < most, f"{1000 * alone:.2f} ms, {1000 * busy:.2f} ms"
        master.send(signal.SIGQUIT)
        assert master.wait() == 0


def _cost(master: int, rounds: int = 20, requests: int = 10) -> float:
    """Return the seconds of processor time of a status in the cheapest of some rounds."""
    client = Client("keeps")
    costs = []
    for _ in range(rounds):
        before = _spent(master)
        for _ in range(requests):
            client.status()
        costs.append((_spent(master) - before) / requests)
    return min(costs)


def _look(rounds: int = 20, looks: int = 50) -> float:
    """Return the seconds of processor time of a look into /proc in the cheapest of some rounds."""
    costs = []
    for _ in range(rounds):
        before = time.thread_time()
        for _ in range(looks):
            Path("/proc/self/stat").read_bytes().split()
        costs.append((time.thread_time() - before) / looks)
    return min(costs)


def _spent(pid: int) -> float:
    """Return the seconds of processor time of a process, to the nanosecond (proc(5))."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
