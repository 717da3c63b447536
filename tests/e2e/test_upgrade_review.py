"""What a review of upgrades and of adopted orphans has found."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

import psutil

from overseer_py.system import custody
from tests.e2e.commands import document
from tests.e2e.test_broken_versions import EXAMPLES
from tests.e2e.test_death import comes_free, ended
from tests.e2e.test_errands import ASKS, Worker
from tests.e2e.test_orphans import murder, options, port_of
from tests.e2e.test_upgrade import upgrade
from tests.load import fetch, half_a_request
from tests.master import HELLO, PATIENCE, ROOT, Master, program

__all__ = ["options"]  # a fixture


def test_a_guard_that_was_killed(tmp_path: Path, options: list[str]) -> None:
    """The next guard knows at once what there is to leave, although nothing has changed."""
    with Master(tmp_path, *options, "--", *HELLO) as first:
        first.ready()
        guard = first.guard()
        os.kill(guard, signal.SIGKILL)
        while first.guards() in ([], [guard]):
            pass
        document(tmp_path, options[1])  # a turn of the loop
        workers = murder(first)
        with Master(tmp_path, *options, "--", *HELLO) as second:
            second.saw("workers-adopted")
            assert second.workers() == []
            assert psutil.pid_exists(workers[0])
            assert second.stop() == 0
    assert ended(workers, PATIENCE)


def test_somebody_else_has_the_address(tmp_path: Path, options: list[str]) -> None:
    """No heir can come then; what is left ends after a while all the same."""
    where = shutil.copytree(ROOT / "overseer_py", tmp_path / "here" / "overseer_py").parent
    house = where / "overseer_py" / "house.py"
    house.write_text(house.read_text().replace("HEIR = 60.0", "HEIR = 0.5"))
    env = {"PYTHONPATH": str(where)}
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other,
        Master(tmp_path, *options, "--", *HELLO, env=env, cwd=where) as master,
    ):
        other.bind(custody.address_of(str(tmp_path / "overseer" / f"{options[1]}.sock")))
        master.ready()
        assert ended(murder(master), PATIENCE)
        assert comes_free(port_of(options))  # the guard has the listener, and ends last


def test_what_workers_left_outlives_their_master(tmp_path: Path, options: list[str]) -> None:
    """What one left, another takes, once; and a lease has one holder."""
    more = ["--workers", "2", "--env", f"PLACE={tmp_path}", "--ready", "notify"]
    command = [*options, *more, "--", *ASKS]
    with Master(tmp_path, *command) as first:
        worker = Worker(first.ready(), tmp_path)
        worker.told("leases.append(lease('job')), leases[0].acquire(0)")
        worker.told("[store('cache', each) for each in (b'cold', b'warm')]")
        worker.told("take('cache')")
        document(tmp_path, options[1])  # a turn of the loop
        murder(first)
        with Master(tmp_path, *command) as second:
            second.saw("workers-adopted")
            worker = Worker(second, tmp_path)
            ask = "leases.append(lease('job')), leases[0].acquire(0)"
            assert worker.told(ask, 1, 1) == "(None, False)"
            assert worker.told("take('cache'), take('cache')", 1, 1) == "(b'warm', None)"
            assert second.stop() == 0


def test_a_state_that_the_next_master_cannot_read(tmp_path: Path, options: list[str]) -> None:
    """What is left ends, and the service begins anew: nobody is left without a master."""
    other = shutil.copytree(ROOT / "overseer_py", tmp_path / "other" / "overseer_py").parent
    file = other / "overseer_py" / "snapshot.py"
    file.write_text(file.read_text().replace("FORMAT = 1\n", "FORMAT = 2\n"))
    env = {"PYTHONPATH": str(other)}
    with Master(tmp_path, *options, "--", *HELLO) as first:
        workers = murder(first.ready())
        with Master(tmp_path, *options, "--", *HELLO, env=env, cwd=other) as second:
            second.ready()
            assert "format (1) that overseer" in second.saw_line("is ended")
            assert ended(workers, PATIENCE)
            assert second.stop() == 0


def test_a_master_that_was_stopping(tmp_path: Path, options: list[str]) -> None:
    """Its next one does not stop: it was started to serve."""
    with Master(tmp_path, *options, "--", *program("slow_to_stop", "1000"), env=EXAMPLES) as first:
        first.ready().send(signal.SIGTERM)
        first.saw("stopping")
        document(tmp_path, options[1])  # a turn of the loop
        workers = murder(first)
        with Master(tmp_path, *options, "--", *HELLO) as second:
            second.ready()
            assert ended(workers, PATIENCE)
            assert fetch(port_of(options))
            assert second.stop() == 0


LIMITED = ["prlimit", "--nofile=128:1024"]


def test_the_next_master_has_as_many_descriptors(tmp_path: Path, options: list[str]) -> None:
    """More come than it may have at first; workers get the limit that it was started with."""
    command = [*options, "--workers", "48", "--ready", "delay:0s", "--", "sleep", "1000"]
    with Master(tmp_path, *command, wrapper=LIMITED) as first:
        workers = murder(first.ready())
        with Master(tmp_path, *command, wrapper=LIMITED) as second:
            second.saw("workers-adopted")
            assert psutil.Process(second.pid).rlimit(psutil.RLIMIT_NOFILE) == (1024, 1024)
            os.kill(workers[0], signal.SIGKILL)
            another = second.saw("worker-started")["pid"]
            started = psutil.Process(another)
            while started.name() != "sleep":  # not executed yet
                pass
            assert started.rlimit(psutil.RLIMIT_NOFILE) == (128, 1024)
            assert second.stop() == 0


def test_more_than_a_guard_can_hold(tmp_path: Path, options: list[str]) -> None:
    """It has the last state that came whole, and lives on."""
    command = [*options, "--workers", "60", "--ready", "delay:0s", "--", "sleep", "1000"]
    with Master(tmp_path, *command, wrapper=["prlimit", "--nofile=256:256"]) as first:
        first.saw("overseer-started")
        guard = first.guard()
        first.ready()
        document(tmp_path, options[1])
        assert first.guards() == [guard]
        assert first.stop() == 0


def test_what_an_adopted_worker_leaves(tmp_path: Path, options: list[str]) -> None:
    """A server that a shell has started is asked to end, and waited for, whoever its parent is."""
    command = [*options, "--", "sh", "-c", f"{' '.join(HELLO)}; true"]
    with Master(tmp_path, *command) as first:
        (shell,) = first.ready().workers()
        servers = [child.pid for child in psutil.Process(shell).children()]
        murder(first)
        with Master(tmp_path, *command) as second:
            second.saw("workers-adopted")
            with half_a_request(port_of(options)) as connection:
                second.send(signal.SIGUSR2)
                second.saw("worker-quieting", worker="1/0#1")
                upgrade(second, tmp_path)
                connection.sendall(b"\r\n")
                assert b" 200 " in connection.recv(4096)
            second.saw("generation-gone", generation=1)
            assert ended(servers, 0)
            assert second.stop() == 0
