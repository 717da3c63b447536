"""The control socket of a live master: who gets it, what is answered when, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from overseer_py.client import Client
from overseer_py.control import MOST_CLIENTS
from overseer_py.errors import RequestError, RolloutError
from tests.e2e.callers import Caller
from tests.e2e.commands import overseer
from tests.master import PATIENCE, ROOT, Master, program

SLEEP = ["sleep", "1000"]
READY = ["--name", "app", "--ready", "exec:true"]


class Service:
    """A master whose workers become ready once a file is there, which is so at first."""

    def __init__(self, master: Master, place: Path) -> None:
        self.master = master
        self.socket = place / "overseer" / "app.sock"
        self.client = Client(self.socket)
        self._gate = place / "gate"

    def close_gate(self) -> None:
        """Let no worker become ready from now on."""
        self._gate.unlink()

    def open_gate(self) -> None:
        """Let all become ready."""
        self._gate.touch()


@contextmanager
def gated(tmp_path: Path, *command: str, options: tuple[str, ...] = ()) -> Iterator[Service]:
    """Run such a service; the gate is closed once it runs."""
    ready = ["--name", "app", "--ready", f"exec:test -e {tmp_path}/gate", *options]
    (tmp_path / "gate").touch()
    with Master(tmp_path, *ready, "--", *(command or SLEEP)) as master:
        service = Service(master.ready(), tmp_path)
        service.close_gate()
        yield service
        assert not master.all("master-error")


@contextmanager
def hanging(tmp_path: Path) -> Iterator[Service]:
    """Run such a service of a program that does not end when it is asked to."""
    with gated(tmp_path, *program("hangs")) as service:
        assert service.master.process.stdout
        assert service.master.process.stdout.readline()  # before, it would end
        yield service


def outcome(heard: dict[str, Any]) -> tuple[int, str]:
    """Return the generation of a result, and what became of it."""
    return heard["result"]["generation"], heard["result"]["outcome"]


# -- who gets it -------------------------------------------------------------------------


def test_the_second_of_a_name_is_refused(tmp_path: Path) -> None:
    """It ends with 4 and names the first, which keeps its socket and does not notice."""
    with Master(tmp_path, *READY, "--", *SLEEP) as first:
        first.ready()
        with Master(tmp_path, *READY, "--", *SLEEP) as second:
            assert second.wait() == 4
            assert second.saw_line(f"overseer 'app' runs already with pid {first.pid}")
        assert Client(tmp_path / "overseer" / "app.sock").status()["pid"] == first.pid
        assert first.stop() == 0


def test_a_dead_masters_socket_is_replaced(tmp_path: Path) -> None:
    """What a killed master leaves behind is no obstacle for the next of its name."""
    path = tmp_path / "overseer" / "app.sock"
    with Master(tmp_path, *READY, "--", *SLEEP) as first:
        first.ready()
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert path.is_socket()
        assert overseer(tmp_path, "status", "app").returncode == 3
        with Master(tmp_path, *READY, "--", *SLEEP) as second:
            second.ready()
            assert Client(path).status()["pid"] == second.pid
            assert second.stop() == 0
    assert not path.exists()


def test_without_a_socket(tmp_path: Path) -> None:
    """``--control none`` serves, is not found, and is in nobody's way."""
    with Master(tmp_path, *READY, "--control", "none", "--", *SLEEP) as nameless:
        nameless.ready()
        assert overseer(tmp_path, "status", "app").returncode == 3
        sockets = psutil.Process(nameless.pid).net_connections("unix")
        assert all(str(socket.laddr)[:1] in ("", "@") for socket in sockets)  # no path
        with Master(tmp_path, *READY, "--", *SLEEP) as named:
            named.ready()
            assert Client("app", pid=named.pid).status()["pid"] == named.pid
            assert named.stop() == 0
        assert nameless.stop() == 0


def test_a_socket_elsewhere(tmp_path: Path) -> None:
    """``--control PATH`` answers there, by its path and by the master's pid."""
    path = tmp_path / "here" / "it.is"
    path.parent.mkdir()
    with Master(tmp_path, *READY, "--control", str(path), "--", *SLEEP) as master:
        master.ready()
        found = overseer(tmp_path, "status", str(path), "--json")
        assert json.loads(found.stdout)["pid"] == master.pid
        assert Client(pid=master.pid).status()["name"] == "app"
        assert overseer(tmp_path, "status", "app").returncode == 3
        assert master.stop() == 0
    assert not path.exists()


# -- who goes ----------------------------------------------------------------------------


def test_who_has_said_all_is_answered(tmp_path: Path) -> None:
    """A client that shuts its side down after the request, as nc -N does, still hears the end."""
    with gated(tmp_path) as service, Caller(service.socket) as one, Caller(service.socket) as two:
        one.say("status").shut()
        assert one.answer()["result"]["pid"] == service.master.pid
        assert one.hear() == {}
        two.say("restart").shut()
        service.master.saw("rollout-started", generation=2)
        service.open_gate()
        assert outcome(two.answer()) == (2, "committed")
        assert two.hear() == {}


def test_who_does_not_wait_for_the_answer_is_served(tmp_path: Path) -> None:
    """A request that has been sent is done, although its client has gone at once."""
    with gated(tmp_path) as service:
        service.open_gate()
        for generation in (2, 3, 4):
            with Caller(service.socket) as caller:
                caller.say("restart")
            service.master.saw("rollout-committed", generation=generation)
            service.master.saw("generation-gone", generation=generation - 1)
        with (
            ExitStack() as stack
        ):  # nor if there is more to do than a turn of the loop has time for
            service.master.send(signal.SIGSTOP)
            for _ in range(MOST_CLIENTS - 1):
                stack.enter_context(Caller(service.socket)).say("status")
            with Caller(service.socket) as caller:
                caller.say("restart")
            service.master.send(signal.SIGCONT)
            service.master.saw("rollout-committed", generation=5)


def test_a_command_that_dies_changes_nothing(tmp_path: Path) -> None:
    """The rollout that ``overseer restart`` asked for goes on when that is killed."""
    with gated(tmp_path) as service:
        with restarting(tmp_path) as command:
            service.master.saw("rollout-started", generation=2)
            command.kill()
        assert service.client.status()["rollout"]["generation"] == 2
        service.open_gate()
        service.master.saw("rollout-committed", generation=2)
        assert service.client.restart(timeout=PATIENCE)["generation"] == 3


@contextmanager
def restarting(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run ``overseer restart app``."""
    command = [sys.executable, "-m", "overseer_py", "restart", "app"]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    with subprocess.Popen(
        command, env=environ, cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process


# -- whose rollout it is -----------------------------------------------------------------


def test_all_who_ask_are_answered(tmp_path: Path) -> None:
    """Clients that ask at the same time hear of a rollout that began after they had asked."""
    with gated(tmp_path) as service, ThreadPoolExecutor(8) as threads:
        service.open_gate()
        asked = [threads.submit(service.client.restart, PATIENCE) for _ in range(8)]
        found = [future.result() for future in asked]
        assert {rollout["outcome"] for rollout in found} == {"committed"}
        last = max(rollout["generation"] for rollout in found)
        service.master.saw("rollout-committed", generation=last)
        done = {f["generation"] for f in service.master.all("rollout-committed")}
        assert {rollout["generation"] for rollout in found} == done


def test_who_asks_during_a_rollout_hears_of_the_next(tmp_path: Path) -> None:
    """The present one may be older than what is to be deployed: it answers the first alone."""
    with gated(tmp_path) as service, Caller(service.socket) as one, Caller(service.socket) as two:
        assert one.say("restart").hear() == {"rollout": {"generation": 2, "outcome": None}}
        two.say("restart")
        service.master.saw("rollout-queued")
        service.open_gate()
        assert outcome(one.answer()) == (2, "committed")
        assert two.hear() == {"rollout": {"generation": 3, "outcome": None}}
        assert outcome(two.answer()) == (3, "committed")


def test_no_restart_while_the_service_stops(tmp_path: Path) -> None:
    """It is refused, with the reason."""
    with hanging(tmp_path) as service, Caller(service.socket) as stopping:
        stopping.say("stop")
        service.master.saw("worker-draining")
        for wait in (True, False):
            with pytest.raises(RequestError, match="the service is stopping"):
                service.client.restart(timeout=PATIENCE, wait=wait)
        os.kill(service.master.workers()[0], signal.SIGKILL)
        assert stopping.answer() == {"result": {"status": 0}}
        assert service.master.wait() == 0


def test_a_stop_overtakes_a_restart(tmp_path: Path) -> None:
    """At once the command ends with 1: it was cancelled; who waits for the next one is refused."""
    with hanging(tmp_path) as service, restarting(tmp_path) as command:
        service.master.saw("rollout-started", generation=2)
        with Caller(service.socket) as caller, Caller(service.socket) as stopping:
            caller.say("restart")
            service.master.saw("rollout-queued")
            stopping.say("stop")
            assert caller.answer()["error"]["message"] == "the service is stopping"
            _, said = command.communicate(timeout=PATIENCE)
            assert command.returncode == 1
            assert "generation 2 cancelled: the service is stopping" in said
            assert not stopping.told
            service.client.stop(drain=False)
            assert stopping.answer() == {"result": {"status": 0}}
        assert service.master.wait() == 0


def test_a_failure_is_told(tmp_path: Path) -> None:
    """Who has asked for a version that fails hears why, and the old one serves on."""
    with gated(tmp_path, options=("--ready-timeout", "300ms")) as service:
        with pytest.raises(RolloutError, match=r"was not ready within 0\.3 s") as failed:
            service.client.restart(timeout=PATIENCE)
        assert failed.value.rollout["outcome"] == "rolled-back"
        assert service.client.status()["generation"] == 1


# -- when it has ended -------------------------------------------------------------------


def test_the_answer_waits_until_the_old_generation_has_gone(tmp_path: Path) -> None:
    """The commit is told as news; the result only when no process of the old one is left."""
    with hanging(tmp_path) as service, Caller(service.socket) as caller:
        (old,) = service.master.workers()
        service.open_gate()
        assert caller.say("restart").hear()["rollout"]["outcome"] is None
        assert caller.hear()["rollout"]["outcome"] == "committed"
        assert old in [worker["pid"] for worker in service.client.status()["workers"]]
        assert not caller.told
        os.kill(old, signal.SIGKILL)
        assert outcome(caller.answer()) == (2, "committed")
        assert old not in [worker["pid"] for worker in service.client.status()["workers"]]


def test_a_timeout_behind_the_commit_is_no_failure(tmp_path: Path) -> None:
    """The new generation serves: the old one only takes its time."""
    with hanging(tmp_path) as service:
        service.open_gate()
        assert service.client.restart(timeout=5)["outcome"] == "committed"
        assert {w["generation"] for w in service.client.status()["workers"]} == {1, 2}


def test_a_timeout_before_the_commit(tmp_path: Path) -> None:
    """It is an error, and the rollout goes on."""
    with gated(tmp_path) as service:
        with pytest.raises(RequestError, match="timed out; what has begun goes on"):
            service.client.restart(timeout=0.3)
        service.open_gate()
        service.master.saw("rollout-committed", generation=2)


# -- what cannot be meant ----------------------------------------------------------------

WRONG = {
    "workers": ["x", -1, 0, 10**9, 10**4000, 1.5, True, None, [], {}, "\0", "\ud800"],
    "signal": ["KILL", "STOP", "NOPE", "SIGCHLD", "SEGV", 0, 9999, -15, "²", None, [], "\ud800"],
    "last": [-1, -(10**400), "a", 1.5, None, [], {}],
}
METHOD = {"workers": "scale", "signal": "signal", "last": "events"}
NO_REQUESTS = [
    *[b'{"method": %s}' % what for what in (b"5", b"null", b"[]", b"{}", b"true")],
    *[b"", b" ", b"5", b"null", b'"status"', b"[]", b"{}", b"{", b"NaN", b"\0", b"\xff\xfe\xfd"],
    b"[" * 60_000,
    b'{"a":' * 12_000,
    b'{"method": "status", "n": ' + b"1" * 60_000 + b"}",
    b'{"method": "sta\0tus"}',
    b'{"method": "\xff"}',
    b'{"method": "status"} {"method": "status"}',
]
NO_METHODS = ["", "\ud800", "\0", "Status", "__init__", "x" * 60_000]


def test_what_cannot_be_meant(tmp_path: Path) -> None:
    """Each is answered with an error that has a code and a text, and the next one is served."""
    with gated(tmp_path) as service, Caller(service.socket) as caller:
        for key, values in WRONG.items():
            for value in values:
                assert caller.say(METHOD[key], **{key: value}).code() == "bad-request", value
        for line in NO_REQUESTS:
            caller.socket.sendall(line + b"\n")
            assert caller.code() == "bad-request", line[:50]
        for method in NO_METHODS:
            assert caller.say(method).code() == "unknown-method", method[:50]
        assert caller.say("logs").code() == "not-captured"
        assert caller.say("status").answer()["result"]["workers_wanted"] == 1
        assert service.master.all("command") == []
        assert service.master.stop() == 0
