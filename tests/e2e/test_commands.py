"""``restart``, ``reload``, ``stop``, ``scale``, ``signal``: they return when it is done."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.e2e.commands import TCP, Command, Gate, Versions, document, overseer
from tests.e2e.documents import LAST_ROLLOUT
from tests.load import fetch, half_a_request
from tests.master import HELLO, PATIENCE, Master, program

STAYS = [*TCP, "--drain-timeout", "1h", "--", *program("keeps")]  # which does not hear TERM


# -- restart ------------------------------------------------------------------------------------


def test_restart_returns_when_the_old_generation_is_gone(tmp_path: Path) -> None:
    """Status 0, one line, and from then on the new one alone is there and serves."""
    with Master(tmp_path, *TCP, "--", *HELLO) as master:
        (old,) = master.ready().workers()
        done = overseer(tmp_path, "restart", "hello")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("generation 2 committed after ")
        assert not psutil.pid_exists(old)
        master.saw("generation-gone", generation=1)
        assert fetch(master.port()) == f"hello from {master.workers()[0]}\n"
        assert master.stop() == 0


def test_restart_as_a_document(tmp_path: Path) -> None:
    """With --json the rollout is on stdout as status has it."""
    with Master(tmp_path, *TCP, "--", *HELLO) as master:
        master.ready()
        done = overseer(tmp_path, "restart", "--json")
        rollout = json.loads(done.stdout)
        assert (done.returncode, done.stderr) == (0, "")
        assert rollout == LAST_ROLLOUT
        assert (rollout["generation"], rollout["outcome"]) == (2, "committed")
        assert (rollout["reason"], rollout["error"]) == ("restart", None)
        assert (rollout["exit"], rollout["stderr_tail"]) == (None, [])
        assert 0 < rollout["duration_s"] < PATIENCE
        assert rollout == document(tmp_path, "hello")["last_rollout"]
        assert master.stop() == 0


def test_restart_does_not_wait_longer_than_it_is_told(tmp_path: Path) -> None:
    """With --no-wait not at all, with --timeout so long: the rollout goes on."""
    gate = Gate(tmp_path)
    with Master(tmp_path, *TCP, *gate.options, "--", *program("service")) as master:
        master.ready()
        gate.shut()
        done = overseer(tmp_path, "restart", "--no-wait")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        master.saw("rollout-started", generation=2)
        gate.open()
        master.saw("generation-gone", generation=1)
        gate.shut()
        done = overseer(tmp_path, "restart", "--timeout", "0.2")
        assert (done.returncode, done.stdout) == (1, "")
        assert "timed out" in done.stderr
        assert document(tmp_path, "service")["rollout"]["generation"] == 3
        gate.open()
        master.saw("rollout-committed", generation=3)
        assert master.stop() == 0


def test_restart_of_a_broken_version(tmp_path: Path) -> None:
    """Status 1, the reason and the program's own traceback; who served goes on to serve."""
    versions = Versions(tmp_path)
    with Master(tmp_path, *TCP, "--", *versions.command) as master:
        served = fetch(master.ready().port())
        versions.spoil()
        done = overseer(tmp_path, "restart", "app")
        assert (done.returncode, done.stdout) == (1, "")
        why, *tail = done.stderr.splitlines()
        assert why.startswith("overseer: generation 2 rolled-back: ")
        assert "exited with status 1" in why
        assert tail[0] == "  │ Traceback (most recent call last):"
        assert tail[-1].startswith("  │ ModuleNotFoundError: No module named ")
        assert fetch(master.port()) == served
        found = document(tmp_path, "app")
        assert [f"hello from {worker['pid']}\n" for worker in found["workers"]] == [served]
        last = found["last_rollout"]
        assert (last["outcome"], last["exit"]) == ("rolled-back", 1)
        assert last["error"] in why
        assert [f"  │ {line}" for line in last["stderr_tail"]] == tail
        done = overseer(tmp_path, "restart", "app", "--json")
        assert (done.returncode, json.loads(done.stdout)["outcome"]) == (1, "rolled-back")
        versions.repair()
        assert overseer(tmp_path, "restart", "app").returncode == 0
        assert fetch(master.port()) != served
        assert master.stop() == 0


def test_restart_on_a_terminal_tells_what_it_waits_for(tmp_path: Path) -> None:
    """A line for each step, and how many connections an old worker still has."""
    options = [*TCP, "--quiet-timeout", "10ms"]
    with Master(tmp_path, *options, "--", *HELLO) as master:
        port = master.ready().port()
        with (
            half_a_request(port) as client,
            Command(tmp_path, "restart", terminal=True) as restart,
        ):
            steps = ["generation 2 rolls out (restart)", "2/0 spawned, pid ", "2/0 ready"]
            steps += ["generation 2 committed after ", "1/0 draining"]
            steps += ["draining 1/0: 1 connection, oldest "]
            at = 0
            for step in steps:
                at = restart.saw(step, after=at)
            client.sendall(b"\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.0 200 ")
            at = restart.saw("1/0 exited", after=at)
            assert restart.wait() == 0
            assert restart.lines[-1].startswith("generation 2 committed after ")
        assert master.stop() == 0


def test_restarts_that_are_not_alone(tmp_path: Path) -> None:
    """One that is asked for during another gets the next one; to end a command ends no rollout."""
    gate = Gate(tmp_path)
    with Master(tmp_path, *TCP, *gate.options, "--", *program("service")) as master:
        master.ready()
        gate.shut()
        with (
            Command(tmp_path, "restart", "--json") as first,
            Command(tmp_path, "restart") as nobody,
        ):
            master.saw("rollout-started", generation=2)
            master.saw("rollout-queued")
            with Command(tmp_path, "restart", "--json") as second:
                master.saw("command", method="restart", pid=second.process.pid)
                assert nobody.interrupt() == -signal.SIGINT
                assert nobody.lines == []
                gate.open()
                assert (first.wait(), second.wait()) == (0, 0)
                answers = [json.loads("".join(command.lines)) for command in (first, second)]
        assert {answer["outcome"] for answer in answers} == {"committed"}
        assert answers[1]["generation"] == 3
        assert len(master.all("rollout-started")) == 2
        assert master.stop() == 0


def test_restart_that_is_overtaken(tmp_path: Path) -> None:
    """By a stop: status 1, cancelled; by the death of the master: status 1, and no traceback."""
    gate = Gate(tmp_path)
    for end, why in ((signal.SIGTERM, "cancelled"), (signal.SIGKILL, "the master has ended")):
        with Master(tmp_path, *TCP, *gate.options, "--", *program("service")) as master:
            master.ready()
            gate.shut()
            with Command(tmp_path, "restart") as restart:
                master.saw("worker-started", worker="2/0#1")
                master.send(end)
                assert restart.wait() == 1
                (line,) = restart.lines
                assert line.startswith("overseer: ")
                assert why in line
            master.wait()
            gate.clear()


# -- reload -------------------------------------------------------------------------------------


def test_reload_takes_what_has_changed(tmp_path: Path) -> None:
    """The configuration is read anew; a bad one is refused by its key and changes nothing."""
    file = tmp_path / "overseer.toml"
    good = f'listen = ["127.0.0.1:0"]\ncommand = {json.dumps(HELLO)}\n'
    file.write_text(good)
    with Master(tmp_path, cwd=tmp_path) as master:
        master.ready()
        file.write_text(f"{good}workers = 2\n")
        done = overseer(tmp_path, "reload", "hello")
        assert (done.returncode, done.stderr) == (0, "")
        before = document(tmp_path, "hello")
        assert (before["generation"], len(before["workers"])) == (2, 2)
        file.write_text(f"{good}workerz = 3\n")
        done = overseer(tmp_path, "reload", "hello")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("overseer: reload: ")
        assert "overseer.toml: workerz: unknown key; did you mean workers?" in done.stderr
        assert done.stderr.count("\n") == 1
        after = document(tmp_path, "hello")
        assert [w["pid"] for w in after["workers"]] == [w["pid"] for w in before["workers"]]
        assert after["last_rollout"] == before["last_rollout"]
        assert master.stop() == 0


# -- stop ---------------------------------------------------------------------------------------


def test_stop_returns_when_the_master_has_ended(tmp_path: Path) -> None:
    """Status 0 only then: it waits for the drain as long as that takes."""
    with Master(tmp_path, *STAYS) as master:
        (worker,) = master.ready().workers()
        with Command(tmp_path, "stop", "keeps", terminal=True) as stop:
            stop.saw("1/0 draining")
            assert stop.process.poll() is None
            os.kill(worker, signal.SIGKILL)
            assert stop.wait() == 0
            assert master.process.poll() == 0


def test_stop_now_does_not_wait_for_the_workers(tmp_path: Path) -> None:
    """Those that would drain for an hour are killed."""
    with Master(tmp_path, *STAYS) as master:
        master.ready()
        done = overseer(tmp_path, "stop", "--now")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert master.wait() == 0
        assert master.all("worker-draining") == []


def test_stop_goes_on_when_nobody_waits_for_it(tmp_path: Path) -> None:
    """With --no-wait and after --timeout; to ask once more kills nobody, but --now does."""
    with Master(tmp_path, *STAYS) as master:
        (worker,) = master.ready().workers()
        done = overseer(tmp_path, "stop", "--no-wait")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        master.saw("worker-draining")
        with Command(tmp_path, "stop") as waiting:
            master.saw("command", after=master.now() - 1, method="stop")
            done = overseer(tmp_path, "stop", "--timeout", "0.2")
            assert (done.returncode, done.stdout) == (1, "")
            assert "timed out" in done.stderr
            found = document(tmp_path, "keeps")
            assert found["state"] == "stopping"
            assert [(w["pid"], w["state"]) for w in found["workers"]] == [(worker, "draining")]
            assert waiting.process.poll() is None
            assert overseer(tmp_path, "stop", "--now").returncode == 0
            assert waiting.wait() == 0
        assert master.wait() == 0


def test_a_service_that_stops_is_asked_for_nothing_else(tmp_path: Path) -> None:
    """Status 1, and why."""
    with Master(tmp_path, *STAYS) as master:
        master.ready()
        assert overseer(tmp_path, "stop", "--no-wait").returncode == 0
        for words in (["restart"], ["reload"], ["scale", "2"]):
            done = overseer(tmp_path, *words)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == f"overseer: {words[0]}: the service is stopping\n"
        assert overseer(tmp_path, "stop", "--now").returncode == 0


# -- scale, signal --------------------------------------------------------------------------------


def test_scale_up_and_down(tmp_path: Path) -> None:
    """By name or for the only one; what was asked for is what status wants."""
    with Master(tmp_path, *TCP, "--", *HELLO) as master:
        master.ready()
        for words, workers in ((["3"], 3), (["hello", "1"], 1), (["hello", "2"], 2)):
            after = master.now()
            done = overseer(tmp_path, "scale", *words)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            master.saw("scaled", after=after, workers=workers)
            assert document(tmp_path, "hello")["workers_wanted"] == workers
        master.saw("worker-exited", worker="1/2#1")
        master.saw("worker-ready", worker="1/1#2")
        assert [w["slot"] for w in document(tmp_path, "hello")["workers"]] == [0, 1]
        assert master.stop() == 0


def test_signal(tmp_path: Path) -> None:
    """USR1 reaches the worker, USR2 is a rollout, and TERM is a stop."""
    notes = tmp_path / "notes"
    os.mkfifo(notes)
    command = program("tells", str(notes))
    with (
        Master(tmp_path, "--ready", "delay:1ms", "--", *command) as master,
        notes.open() as told,
    ):
        assert told.readline() == f"{master.ready().workers()[0]} up\n"
        assert overseer(tmp_path, "signal", "tells", "USR1").returncode == 0
        assert told.readline() == f"{master.workers()[0]} SIGUSR1\n"
        done = overseer(tmp_path, "signal", "sigusr2")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        master.saw("rollout-started", reason="signal USR2")
        master.saw("generation-gone", generation=1)
        assert overseer(tmp_path, "signal", "TERM").returncode == 0
        assert master.wait() == 0


# -- usage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("restart --tomorrow", "--tomorrow"),
        ("restart --timeout soon", "'soon'"),
        ("restart --pid nobody", "'nobody'"),
        ("scale", "write: [NAME] N"),
        ("scale 0", "N: "),
        ("scale many", "N: 'many'"),
        ("signal", "write: [NAME] SIG"),
        ("signal KILL", "SIGKILL cannot be caught"),
        ("signal app NONSENSE", "SIG: 'NONSENSE' is not a signal"),
        ("events --since -1", "-1"),
        ("dance", "'dance'"),
    ],
)
def test_usage(tmp_path: Path, words: str, hint: str) -> None:
    """Status 2, and what is wrong; nothing is asked of anybody."""
    done = overseer(tmp_path, *words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
