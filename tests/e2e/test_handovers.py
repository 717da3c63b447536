"""The stdlib example over every kind of listener and in every order of replacement."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.e2e.commands import Gate
from tests.e2e.handovers import (
    CLIENTS,
    check_answers,
    check_exclusion,
    check_order,
    check_stop,
    hand_over,
    most_alive,
)
from tests.load import Load, fetch
from tests.master import HELLO, Master, program

TCP = "127.0.0.1:0"


def test_tcp(tmp_path: Path) -> None:
    """Over IPv4 no request is lost."""
    with Master(tmp_path, "--listen", TCP, "--", *HELLO) as master:
        master.ready()
        with Load(master.port(), CLIENTS) as load:
            handovers = hand_over(master, load, 10)
        assert load.failures == []
        check_answers(master, load, handovers)
        check_order(master, handovers)
        check_stop(master)


def test_unix_socket(tmp_path: Path) -> None:
    """Over a unix socket no request is lost, and its path goes with the master."""
    path = tmp_path / "web.sock"
    with Master(tmp_path, "--listen", f"unix:{path}", "--", *HELLO) as master:
        master.ready()
        with Load(str(path), CLIENTS) as load:
            handovers = hand_over(master, load)
        assert load.failures == []
        check_answers(master, load, handovers)
        check_order(master, handovers)
        check_stop(master)
        assert not path.exists()


def test_ipv6(tmp_path: Path) -> None:
    """Over IPv6 no request is lost."""
    with Master(tmp_path, "--listen", "[::1]:0", "--", *HELLO) as master:
        master.ready()
        with Load(("::1", master.port()), CLIENTS) as load:
            handovers = hand_over(master, load)
        assert load.failures == []
        check_answers(master, load, handovers)
        check_order(master, handovers)
        check_stop(master)


@pytest.mark.parametrize(("surge", "at_once"), [("all", 4), ("1", 3)])
def test_two_workers(tmp_path: Path, surge: str, at_once: int) -> None:
    """Two workers are replaced together or one by one, and no request is lost."""
    options = ["--listen", TCP, "--workers", "2", "--surge", surge]
    with Master(tmp_path, *options, "--", *HELLO) as master:
        master.ready()
        with Load(master.port(), CLIENTS) as load:
            handovers = hand_over(master, load)
        assert load.failures == []
        check_answers(master, load, handovers)
        if surge == "all":
            check_order(master, handovers)
        assert most_alive(master) == at_once
        assert len(master.workers()) == 2
        check_stop(master)


@pytest.mark.parametrize("workers", [1, 2])
def test_exclusive(tmp_path: Path, workers: int) -> None:
    """No two generations run at once; connections wait meanwhile, and none is refused."""
    options = ["--listen", TCP, "--workers", str(workers), "--surge", "exclusive"]
    with Master(tmp_path, *options, "--", *HELLO) as master:
        master.ready()
        with Load(master.port(), CLIENTS) as load:
            handovers = hand_over(master, load)
        assert load.failures == []
        check_answers(master, load, handovers)
        check_exclusion(master, handovers)
        assert most_alive(master) == workers
        check_stop(master)


def test_slow_start_costs_nothing(tmp_path: Path) -> None:
    """Nobody waits while a new generation starts: the old one answers, however long it takes."""
    gate = Gate(tmp_path)
    with Master(tmp_path, "--listen", TCP, *gate.options, "--", *program("service")) as master:
        master.ready()
        with Load(master.port(), CLIENTS) as load:
            for generation in (2, 3, 4):
                gate.shut()
                after = master.now()
                master.send(signal.SIGUSR2)
                master.saw_line(f"generation {generation} begins")
                begun = time.monotonic()
                load.more(1000)
                by = {a.body.split()[0] for a in list(load.answers) if a.begun > begun}
                assert by == {str(generation - 1)}
                gate.open()
                master.saw("generation-gone", after=after)
            load.more()
        assert load.failures == []
        assert load.bodies[-1].startswith("4 ")
        check_stop(master)


def test_idle_workers_end(tmp_path: Path) -> None:
    """No worker is stuck in accept, because another took the connection that woke both."""
    options = ["--listen", TCP, "--workers", "8"]
    with Master(tmp_path, *options, "--", *HELLO) as master:
        master.ready()
        for _ in range(5):
            fetch(master.port())
            master.restart()
        check_stop(master)
