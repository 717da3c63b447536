"""``overseer status``: the whole document for scripts, and a table for people."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

from overseer_py.client import Client
from tests.e2e.commands import TCP, Gate, document, overseer
from tests.load import fetch
from tests.master import HELLO, ROOT, Master, program


def test_the_document(tmp_path: Path) -> None:
    """Every field is there, and is true."""
    listen = ["--listen", "web=127.0.0.1:0", "--listen", f"admin=unix:{tmp_path}/admin.sock"]
    options = ["--workers", "2", "--ready", "accept:web", "--handover", "shared"]
    with Master(tmp_path, *listen, *options, "--", *HELLO) as master:
        master.ready()
        found = document(tmp_path, "hello")
        assert (found["name"], found["pid"], found["state"]) == ("hello", master.pid, "running")
        assert (found["generation"], found["workers_wanted"]) == (1, 2)
        assert found["command"] == HELLO
        assert found["chdir"] == str(ROOT)
        web, admin = found["listeners"]
        assert (web["name"], web["fd"], web["type"]) == ("web", 3, "tcp")
        assert web["address"] == f"127.0.0.1:{master.port('web')}"
        assert (admin["address"], admin["fd"]) == (f"{tmp_path}/admin.sock", 4)
        assert (web["handover"], web["handover_reason"]) == ("shared", "asked for")
        assert [worker["pid"] for worker in found["workers"]] == master.workers()
        for slot, worker in enumerate(found["workers"]):
            assert (worker["slot"], worker["state"], worker["crashes"]) == (slot, "ready", 0)
            assert worker["rss_bytes"] > 1 << 20
            assert worker["started_at"] <= worker["ready_at"]
        assert found["rollout"] is found["last_rollout"] is None
        assert master.stop() == 0


def test_connections_of_each_worker(tmp_path: Path) -> None:
    """Those that a worker has accepted are counted, over TCP and by a path."""
    path = tmp_path / "web.sock"
    for listen in ("127.0.0.1:0", f"unix:{path}"):
        with Master(tmp_path, "--listen", listen, "--", *program("keeps")) as master:
            master.ready()
            family = socket.AF_UNIX if listen.startswith("unix") else socket.AF_INET
            place = str(path) if family == socket.AF_UNIX else ("127.0.0.1", master.port())
            clients = [socket.socket(family) for _ in range(3)]
            for client in clients:
                client.connect(place)
                client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert client.recv(4096)
            (worker,) = Client(tmp_path / "overseer" / "keeps.sock").status()["workers"]
            assert worker["connections"] == 3
            for client in clients:
                client.close()
            master.send(signal.SIGQUIT)
            assert master.wait() == 0


def test_while_it_starts_and_rolls_out(tmp_path: Path) -> None:
    """A service that has not been ready starts; one with a candidate is rolling."""
    gate = Gate(tmp_path).shut()
    with Master(tmp_path, *TCP, *gate.options, "--", *program("service")) as master:
        master.saw("worker-started")
        found = document(tmp_path, "service")
        assert (found["state"], found["rollout"]) == ("starting", None)
        (worker,) = found["workers"]
        assert (worker["pid"], worker["state"]) == (master.workers()[0], "starting")
        assert worker["ready_at"] is None
        gate.open()
        master.ready()
        gate.shut()
        master.send(signal.SIGUSR2)
        master.saw("worker-started", worker="2/0#1")
        found = document(tmp_path, "service")
        assert (found["state"], found["generation"]) == ("rolling", 1)
        rollout = found["rollout"]
        assert (rollout["generation"], rollout["state"]) == (2, "starting")
        assert rollout["canary_percent"] is None
        states = [(w["generation"], w["slot"], w["state"]) for w in found["workers"]]
        assert states == [(1, 0, "ready"), (2, 0, "starting")]
        gate.open()
        master.saw("generation-gone", generation=1)
        found = document(tmp_path, "service")
        assert (found["state"], found["rollout"]) == ("running", None)
        assert found["last_rollout"]["outcome"] == "committed"
        assert master.stop() == 0


def test_a_crashed_worker(tmp_path: Path) -> None:
    """While its slot waits it has no process, and the service is degraded."""
    options = [*TCP, "--workers", "2", "--backoff", "1h", "--backoff-limit", "1h"]
    with Master(tmp_path, *options, "--", *HELLO) as master:
        master.ready()
        os.kill(master.saw("worker-started", worker="1/1#1")["pid"], signal.SIGKILL)
        master.saw("worker-ready", worker="1/1#2")  # the first time at once
        os.kill(master.saw("worker-started", worker="1/1#2")["pid"], signal.SIGKILL)
        master.saw("worker-backoff")
        found = document(tmp_path, "hello")
        assert (found["state"], found["workers_wanted"]) == ("degraded", 2)
        whole, crashed = found["workers"]
        assert (whole["state"], whole["crashes"]) == ("ready", 0)
        assert (crashed["slot"], crashed["state"], crashed["crashes"]) == (1, "backoff", 2)
        assert crashed["pid"] is crashed["started_at"] is crashed["ready_at"] is None
        assert (crashed["rss_bytes"], crashed["cpu_percent"]) == (0, 0.0)
        shown = overseer(tmp_path, "status").stdout
        assert "hello  degraded  pid " in shown
        assert "  1/1     backoff  -  " in shown
        assert master.stop() == 0


def test_while_it_stops(tmp_path: Path) -> None:
    """The workers that are left are shown as they drain."""
    with Master(tmp_path, *TCP, "--", *program("keeps")) as master:
        (worker,) = master.ready().workers()
        master.send(signal.SIGTERM)
        master.saw("worker-draining")
        found = document(tmp_path, "keeps")
        assert (found["state"], found["rollout"]) == ("stopping", None)
        assert [(w["pid"], w["state"]) for w in found["workers"]] == [(worker, "draining")]
        master.send(signal.SIGQUIT)
        assert master.wait() == 0


def test_a_canary_and_how_it_ended(tmp_path: Path) -> None:
    """The share is shown while it is tried; afterwards why it was rolled back."""
    options = ["--listen", "127.0.0.1:0", "--canary", "25%:60s"]
    with Master(tmp_path, *options, "--", *program("abrupt", "0.01")) as master:
        master.ready()
        master.send(signal.SIGUSR2)
        master.saw("canary-started")
        found = document(tmp_path, "abrupt")
        assert found["state"] == "rolling"
        rollout = found["rollout"]
        assert (rollout["generation"], rollout["state"]) == (2, "canary")
        assert (rollout["reason"], rollout["canary_percent"]) == ("signal USR2", 25)
        assert {worker["generation"] for worker in found["workers"]} == {1, 2}
        shown = overseer(tmp_path, "status").stdout
        assert "rolling out generation 2: canary, 25 % of new connections" in shown
        os.kill(master.workers()[-1], signal.SIGKILL)
        master.saw("generation-gone", generation=2)
        found = document(tmp_path, "abrupt")
        assert (found["rollout"], found["state"]) == (None, "running")
        last = found["last_rollout"]
        assert (last["generation"], last["outcome"], last["exit"]) == (2, "rolled-back", 137)
        assert "was killed by SIGKILL before it was committed" in last["error"]
        assert "rolled-back" in overseer(tmp_path, "status", "abrupt").stdout
        assert fetch(master.port()).startswith("1 ")
        assert master.stop() == 0


def test_nobody_there(tmp_path: Path) -> None:
    """Without an instance, or one of that name, status 3, and the error names others."""
    done = overseer(tmp_path, "status", "nobody")
    assert done.returncode == 3
    assert "no overseer named 'nobody' runs here" in done.stderr
    assert overseer(tmp_path, "status", str(tmp_path / "none.sock")).returncode == 3


def test_garbage_is_answered(tmp_path: Path) -> None:
    """What is no request gets an error, and the next line is served."""
    with Master(tmp_path, "--", "sleep", "1000") as master:
        master.ready()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "overseer" / "sleep.sock"))
            client.sendall(b'nonsense\n[]\n{"method": "dance"}\n{"method": "status"}\n')
            answers = [json.loads(line) for line in _lines(client, 4)]
            codes = [answer.get("error", {}).get("code") for answer in answers]
            assert codes == ["bad-request", "bad-request", "unknown-method", None]
            with suppress(BrokenPipeError):  # half of it is enough
                client.sendall(b"x" * (1 << 17))
            (answer,) = _lines(client, 1)
            assert json.loads(answer)["error"]["code"] == "too-long"
        assert master.stop() == 0
        assert not (tmp_path / "overseer" / "sleep.sock").exists()


def _lines(client: socket.socket, count: int) -> list[bytes]:
    client.settimeout(60)
    received = b""
    while received.count(b"\n") < count and (data := client.recv(4096)):
        received += data
    return received.splitlines()
