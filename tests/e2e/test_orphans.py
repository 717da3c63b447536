"""--orphans adopt: after the sudden death of a master the next one has its workers."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.commands import TCP, Gate, document, overseer
from tests.e2e.test_death import bound, ended
from tests.e2e.test_upgrade import upgrade
from tests.load import Load, fetch, free_port
from tests.master import HELLO, PATIENCE, Master, program

ADOPT = ["--orphans", "adopt"]


@pytest.fixture
def options() -> Iterator[list[str]]:
    """Give the options of a service at a port of its own; end what a failed test has left."""
    port = free_port()
    yield ["--name", f"app-{port}", "--listen", f"127.0.0.1:{port}", *ADOPT]
    for process in psutil.process_iter():
        try:
            if process.environ().get("OVERSEER_INSTANCE") == f"app-{port}":
                process.kill()
        except psutil.Error:
            continue


def port_of(options: list[str]) -> int:
    """Return the port of the service."""
    return int(options[3].rpartition(":")[2])


def murder(master: Master) -> list[int]:
    """Kill the master alone; return its workers."""
    workers = sorted(master.workers())
    os.kill(master.pid, signal.SIGKILL)
    master.process.wait(PATIENCE)
    return workers


def test_the_next_master_goes_on(tmp_path: Path, options: list[str]) -> None:
    """Nobody fails, no worker is replaced; and the next master can do all that the first could."""
    with (
        Load(port_of(options))
        if False
        else Master(tmp_path, *options, "--workers", "2", "--", *HELLO) as first
    ):
        first.ready()
        with Load(port_of(options)) as load:
            load.more()
            workers = murder(first)
            load.more(100)
            with Master(tmp_path, *options, "--workers", "2", "--", *HELLO) as second:
                adopted = second.saw("workers-adopted")
                assert adopted["workers"] == ["1/0#1", "1/1#1"]
                state = document(tmp_path, options[1])
                assert sorted(w["pid"] for w in state["workers"]) == workers
                assert state["state"] == "running"
                load.more()
                second.send(signal.SIGUSR2)
                second.saw("generation-gone", generation=1)
                assert ended(workers, PATIENCE)
                upgrade(second, tmp_path)
                load.more()
                after = second.now()
                second.send(signal.SIGUSR2)
                second.saw("generation-gone", after=after, generation=2)
                load.more()
                failures = load.failures
                assert second.stop() == 0
        assert failures == []
        assert bound(port_of(options))


def test_twice(tmp_path: Path, options: list[str]) -> None:
    """What was adopted can be adopted again, and a worker that dies is replaced."""
    with Master(tmp_path, *options, "--", *HELLO) as first:
        (worker,) = first.ready().workers()
        murder(first)
        with Master(tmp_path, *options, "--", *HELLO) as second:
            second.saw("workers-adopted")
            upgrade(second, tmp_path)
            os.kill(second.pid, signal.SIGKILL)
            second.process.wait(PATIENCE)
            with Master(tmp_path, *options, "--", *HELLO) as third:
                third.saw("workers-adopted")
                assert fetch(port_of(options)).split()[-1] == str(worker)
                os.kill(worker, signal.SIGKILL)
                died = third.saw("worker-exited", worker="1/0#1")
                assert "another master's" in died["how"]
                third.saw("worker-ready", worker="1/0#2")
                assert fetch(port_of(options))
                assert third.stop() == 0


def test_one_that_dies_meanwhile(tmp_path: Path, options: list[str]) -> None:
    """The next master hears of it, and starts another."""
    with Master(tmp_path, *options, "--workers", "2", "--", *HELLO) as first:
        first.ready()
        workers = murder(first)
        os.kill(workers[0], signal.SIGKILL)
        with Master(tmp_path, *options, "--workers", "2", "--", *HELLO) as second:
            second.saw("worker-exited")
            launched = second.saw("worker-started")
            second.saw("worker-ready", worker=launched["worker"])
            assert second.stop() == 0


def test_in_a_rollout(tmp_path: Path, options: list[str]) -> None:
    """A candidate that was starting goes on to, and is committed by the next master."""
    gate = Gate(tmp_path)
    command = [*options, *gate.options, "--", *program("service")]
    with Master(tmp_path, *command) as first:
        first.ready()
        gate.shut()
        first.send(signal.SIGUSR2)
        first.saw_line("generation 2 begins")
        with Load(port_of(options)) as load:
            murder(first)
            with Master(tmp_path, *command) as second:
                second.saw("workers-adopted")
                gate.open()
                second.saw("rollout-committed", generation=2)
                second.saw("generation-gone", generation=1)
                load.more()
                failures = load.failures
                assert second.stop() == 0
        assert failures == []


def test_a_guard_that_has_not_run_for_a_while(tmp_path: Path, options: list[str]) -> None:
    """What the master left with it last counts, also if it had heard of none of that."""
    command = [*options, "--workers", "1", "--", *HELLO]
    with Master(tmp_path, *command) as first:
        guard = first.ready().guard()
        os.kill(guard, signal.SIGSTOP)
        for slot in (1, 2, 3):
            first.send(signal.SIGTTIN)
            first.saw("worker-ready", worker=f"1/{slot}#1")
        document(tmp_path, options[1])  # all of that is left with the guard by now
        workers = murder(first)
        os.kill(guard, signal.SIGCONT)
        with Master(tmp_path, *command) as second:
            assert len(second.saw("workers-adopted")["workers"]) == 4
            state = document(tmp_path, options[1])
            assert sorted(w["pid"] for w in state["workers"]) == workers
            assert second.stop() == 0


def test_another_configuration(tmp_path: Path, options: list[str]) -> None:
    """A master that is to run something else adopts, and then rolls out."""
    with Master(tmp_path, *options, "--", *HELLO) as first:
        first.ready()
        with Load(port_of(options)) as load:
            murder(first)
            command = [*options, "--env", "GREETING=hi", "--", *HELLO]
            with Master(tmp_path, *command) as second:
                second.saw("workers-adopted")
                second.saw("rollout-committed", generation=2)
                second.saw("generation-gone", generation=1)
                load.more()
                failures = load.failures
                assert second.stop() == 0
        assert failures == []


def test_what_a_worker_writes_is_kept(tmp_path: Path, options: list[str]) -> None:
    """Its stderr waits in the pipe, so that it does not die of SIGPIPE."""
    os.mkfifo(tmp_path / "word")
    code = f'while read line <{tmp_path}/word; do echo "said $line" >&2; done; sleep 1000'
    command = [*options[:2], *ADOPT, "--ready", "delay:0s", "--", "sh", "-c", code]
    with Master(tmp_path, *command) as first:
        first.ready()
        murder(first)
        (tmp_path / "word").write_text("between\n")
        with Master(tmp_path, *command) as second:
            second.saw("workers-adopted")
            second.saw_line("said between")


def test_one_that_it_had_no_time_to_tell_of(tmp_path: Path, options: list[str]) -> None:
    """What bears the dead master's mark and is nobody's is ended."""
    with Master(tmp_path, *options, "--", *HELLO) as first:
        first.ready()
        marks = {"OVERSEER_PID": str(first.pid), "OVERSEER_GENERATION": "2", "OVERSEER_SLOT": "0"}
        with subprocess.Popen(["sleep", "1000"], env={**os.environ, **marks}) as unknown:
            murder(first)
            with Master(tmp_path, *options, "--", *HELLO) as second:
                second.saw("workers-adopted")
                assert unknown.wait(PATIENCE) == -signal.SIGKILL
                assert second.stop() == 0


def test_nobody_wants_them(tmp_path: Path, options: list[str]) -> None:
    """A next master without the option has them end, and starts its own."""
    with Master(tmp_path, *options, "--", *HELLO) as first:
        first.ready()
        workers = murder(first)
        with Master(tmp_path, *options[:4], "--", *HELLO) as second:
            second.ready()
            assert ended(workers, PATIENCE)
            assert not second.all("workers-adopted")
            assert second.stop() == 0


def test_without_a_name(tmp_path: Path) -> None:
    """Nobody could find them: refused, with the remedy."""
    done = overseer(tmp_path, "run", *TCP, *ADOPT, "--control", "none", "--", *HELLO)
    assert done.returncode == 2
    assert "orphans: adopt needs a name" in done.stderr


def test_two_next_masters(tmp_path: Path, options: list[str]) -> None:
    """One has the name, and with it the workers; the other one ends, and has changed nothing."""
    with Master(tmp_path, *options, "--", *HELLO) as first:
        (worker,) = first.ready().workers()
        murder(first)
        with (
            Master(tmp_path, *options, "--", *HELLO) as one,
            Master(tmp_path, *options, "--", *HELLO) as other,
        ):
            while one.process.poll() is None and other.process.poll() is None:
                pass
            loser, second = (one, other) if one.process.poll() is not None else (other, one)
            assert loser.wait() == 4
            second.saw("workers-adopted")
            assert fetch(port_of(options)).split()[-1] == str(worker)
            assert second.stop() == 0


def test_a_path_that_is_gone(tmp_path: Path, options: list[str]) -> None:
    """A next generation brings it back."""
    path = tmp_path / "run" / "web.sock"
    path.parent.mkdir()
    command = [*options[:2], "--listen", f"unix:{path}", *ADOPT, "--", *HELLO]
    with Master(tmp_path, *command) as first:
        first.ready()
        murder(first)
        path.unlink()
        with Master(tmp_path, *command) as second:
            second.saw("workers-adopted")
            second.saw("generation-gone", generation=1)
            assert fetch(str(path))
            assert second.stop() == 0
