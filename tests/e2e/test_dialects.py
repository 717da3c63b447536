"""Programs that are written for other masters run as they are: --inherit."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.commands import TCP, Gate
from tests.e2e.containers import rest_of
from tests.e2e.conventions import written_for
from tests.e2e.handovers import CLIENTS, check_answers, check_order, check_unseen, hand_over
from tests.load import Load, fetch, free_port, half_a_request
from tests.master import PATIENCE, PROGRAMS, Master
from tests.needs import need

STARTER = ["perl", str(PROGRAMS / "dialect_starter.pl")]


def answer_of(port: int) -> str:
    """Return the first answer at a port where somebody is about to listen."""
    give_up_at = time.monotonic() + PATIENCE
    while True:
        try:
            return fetch(port)
        except ConnectionRefusedError:
            assert time.monotonic() < give_up_at


def check_restarts(master: Master, port: int) -> None:
    """Three restarts under load: nothing is lost, and the master hears of no other signal."""
    with Load(port, CLIENTS) as load:
        handovers = hand_over(master, load, 3)
    assert load.failures == []
    check_answers(master, load, handovers)
    check_unseen(master, load, handovers)
    check_order(master, handovers)
    for event in ("stopping", "drain-timed-out", "master-error"):
        assert master.all(event) == []
    assert [fact for fact in master.all("worker-exited") if not fact["expected"]] == []
    heard = [fact["signal"] for fact in master.all("signal")]
    assert heard == ["USR2"] * 3


@pytest.mark.parametrize("convention", ["overseer", "grace", "gracehttp"])
def test_a_program_of_another_convention(tmp_path: Path, convention: str) -> None:
    """It finds its socket, says what it says, drains as it does, and no request is lost."""
    options = [*TCP, "--workers", "2", "--inherit", convention]
    with Master(tmp_path, *options, *written_for(convention)) as master:
        check_restarts(master.ready(), master.port())
        assert master.stop() == 0


def test_a_program_for_server_starter(tmp_path: Path) -> None:
    """By Server::Starter's own library, and under start_server it is the very same program."""
    need("start_server")
    port = free_port()
    alone = subprocess.Popen(["start_server", f"--port=127.0.0.1:{port}", "--", *STARTER])
    try:
        assert answer_of(port).startswith("1 ")
    finally:
        alone.terminate()
        alone.wait(PATIENCE)
    with Master(tmp_path, *TCP, "--inherit", "server-starter", "--", *STARTER) as master:
        check_restarts(master.ready(), master.port())
        assert master.stop() == 0


def test_two_servers_of_endless(tmp_path: Path) -> None:
    """Each finds its socket by the address as the program has it, and each says that it is up."""
    first, second = f"localhost:{free_port()}", f"127.0.0.1:{free_port()}"
    options = ["--listen", first, "--listen", f"admin={second}?backlog=64", "--inherit", "endless"]
    with Master(tmp_path, *options, *written_for("endless", second, first)) as master:
        check_restarts(master.ready(), int(first.partition(":")[2]))
        assert master.stop() == 0


@pytest.mark.parametrize("way", ["path", "fd", "yaml"])
def test_einhorn(tmp_path: Path, way: str) -> None:
    """Its worker:ack counts for --ready fd, whichever of the three ways it comes."""
    options = [*TCP, *TCP, "--inherit", "systemd,einhorn", "--ready", "fd", "--env", f"ACK={way}"]
    with Master(tmp_path, *options, *written_for("einhorn")) as master:
        check_restarts(master.ready(), master.port())
        assert master.stop() == 0


@pytest.mark.parametrize(
    ("convention", "options"),
    [
        ("grace", []),
        ("endless", []),
        ("einhorn", ["--ready", "fd", "--env", "ACK=path"]),
    ],
)
def test_its_own_word_is_waited_for(tmp_path: Path, convention: str, options: list[str]) -> None:
    """A program that serves and has not said that it is ready is not committed before it has."""
    places = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    listen = [word for place in places for word in ("--listen", place)]
    gate = Gate(tmp_path)
    command = [*gate.options, *options, *written_for(convention, *places)]
    with Master(tmp_path, *listen, "--inherit", convention, *command) as master:
        master.ready()
        gate.shut()
        with Load(int(places[0].rpartition(":")[2])) as load:
            master.send(signal.SIGUSR2)
            master.saw_line("generation 2 serves")
            load.more(400)  # more than would be answered until the kernel's word was taken
            assert master.all("worker-ready", worker="2/0#1") == []
            gate.open()
            master.saw("rollout-committed", generation=2)
            load.more()
        assert load.failures == []
        assert master.stop() == 0


def test_a_program_that_never_says_so_is_not_ready(tmp_path: Path) -> None:
    """What is missing is in the log."""
    options = [*TCP, "--inherit", "grace", "--env", "IS_GRACEFUL=1", "--ready-timeout", "1s"]
    with Master(tmp_path, *options, *written_for("gracehttp")) as master:
        late = master.saw("worker-late")
        assert "SIGTERM to its parent" in str(late), late


@pytest.mark.parametrize("accept", [["--ready", "accept"], []])
def test_who_is_not_asked_for_a_word_needs_none(tmp_path: Path, accept: list[str]) -> None:
    """--ready accept wins over the convention's word; einhorn's is optional by default."""
    convention = "grace" if accept else "einhorn"
    os.mkfifo(tmp_path / "gate")
    options = [*TCP, *TCP, "--inherit", convention, *accept, "--env", f"GATE={tmp_path}/gate"]
    with Master(tmp_path, *options, *written_for(convention)) as master:
        master.ready()
        master.send(signal.SIGQUIT)
        assert master.wait() == 0


# -- signals to the parent ------------------------------------------------------------------


def test_a_stop_is_not_lost_among_words(tmp_path: Path) -> None:
    """However often a worker signals its parent, the master's TERM stops both."""
    with Master(tmp_path, *TCP, "--inherit", "grace", *written_for("insists")) as master:
        master.ready()
        fetch(master.port())
        master.restart()
        assert master.all("stopping") == []
        assert master.stop() == 0
        assert master.all("drain-timed-out") == []
        assert [fact["signal"] for fact in master.all("signal")] == ["USR2", "TERM"]


def test_without_the_convention_it_is_a_stop(tmp_path: Path) -> None:
    """TERM is TERM, whoever sends it, and the log says who that was."""
    with Master(tmp_path, *TCP, *written_for("grace")) as master:
        assert master.wait() == 0
        started = master.saw("worker-started")
        assert master.saw("signal", signal="TERM")["pid"] == started["pid"]


def test_a_program_asks_for_its_restart(tmp_path: Path) -> None:
    """Restart() of jpillora/overseer is the restart signal to its parent: the master hears it."""
    with Master(tmp_path, *TCP, "--inherit", "overseer", *written_for("overseer")) as master:
        master.ready()
        fetch(master.port(), "/restart")
        assert master.saw("rollout-committed", generation=2)
        assert master.stop() == 0


@pytest.mark.parametrize("convention", ["overseer", "einhorn"])
def test_usr2_asks_for_the_drain(tmp_path: Path, convention: str) -> None:
    """A request in progress is finished, though TERM would end such a program."""
    options = [*TCP, *TCP, "--inherit", convention, "--quiet-timeout", "0"]
    options += ["--env", "SLOW=1", "--env", "ACK=fd"]
    with Master(tmp_path, *options, *written_for(convention)) as master:
        with half_a_request(master.ready().port(), "/slow") as client:
            master.send(signal.SIGUSR2)
            master.saw("worker-draining", worker="1/0#1")
            assert rest_of(client).startswith("HTTP/1.0 200 ")
            master.saw("generation-gone", generation=1)
        assert {fact["how"] for fact in master.all("worker-exited")} == {"exited with status 0"}
        assert master.stop() == 0
