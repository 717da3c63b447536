"""``overseer status``: the whole document for scripts, and a table for people."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from overseer_py.client import Client
from tests.load import fetch
from tests.master import HELLO, ROOT, Master, program

TOP = {"name", "pid", "version", "state", "started_at", "generation", "workers_wanted"}
TOP |= {"listeners", "workers", "rollout", "last_rollout", "release", "previous_release", "held"}
TOP |= {"fetcher", "command", "chdir"}
WORKER = {"pid", "slot", "generation", "state", "started_at", "ready_at", "rss_bytes"}
WORKER |= {"cpu_percent", "connections", "crashes", "status"}
LAST = {"generation", "outcome", "reason", "error", "exit", "stderr_tail", "started_at"}
LAST |= {"duration_s"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00")


def overseer(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as the user of that runtime directory."""
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(place)}
    command = [sys.executable, "-m", "overseer_py", *arguments]
    return subprocess.run(
        command, check=False, env=environ, capture_output=True, text=True, cwd=ROOT
    )


def document(place: Path, name: str) -> dict[str, Any]:
    """Return what ``status --json`` prints."""
    done = overseer(place, "status", name, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_document(tmp_path: Path) -> None:
    """Every field is there, and is true."""
    listen = ["--listen", "web=127.0.0.1:0", "--listen", f"admin=unix:{tmp_path}/admin.sock"]
    options = ["--workers", "2", "--ready", "accept:web", "--handover", "shared"]
    with Master(tmp_path, *listen, *options, "--", *HELLO) as master:
        master.ready()
        found = document(tmp_path, "hello")
        assert found.keys() == TOP
        assert (found["name"], found["pid"], found["state"]) == ("hello", master.pid, "running")
        assert (found["generation"], found["workers_wanted"]) == (1, 2)
        assert TIME.fullmatch(found["started_at"])
        assert found["command"] == HELLO
        assert found["chdir"] == str(ROOT)
        web, admin = found["listeners"]
        assert (web["name"], web["fd"], web["type"]) == ("web", 3, "tcp")
        assert web["address"] == f"127.0.0.1:{master.port('web')}"
        assert (admin["address"], admin["fd"]) == (f"{tmp_path}/admin.sock", 4)
        assert (web["handover"], web["handover_reason"]) == ("shared", "asked for")
        assert [worker["pid"] for worker in found["workers"]] == master.workers()
        for slot, worker in enumerate(found["workers"]):
            assert worker.keys() == WORKER
            assert (worker["slot"], worker["state"], worker["crashes"]) == (slot, "ready", 0)
            assert worker["rss_bytes"] > 1 << 20
            assert TIME.fullmatch(worker["ready_at"])
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
        assert last.keys() == LAST
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
