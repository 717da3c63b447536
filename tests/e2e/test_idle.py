"""An idle master sleeps: no wake-up, no growth."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from overseer_py.system import sockdiag
from tests.load import Load
from tests.master import HELLO, Master
from tests.needs import need


@pytest.mark.parametrize("worker", ["with a listener", "without one"])
def test_no_wake_up_in_ten_seconds(tmp_path: Path, worker: str) -> None:
    """Strace sees no system call of the master, nor of its guard, while nothing happens."""
    strace = need("strace")
    options = ["--listen", "127.0.0.1:0"] if worker == "with a listener" else []
    command = HELLO if options else ["sleep", "1000"]
    with Master(tmp_path, *options, "--", *command) as master:
        master.ready().at_rest()
        calls = tmp_path / "calls"
        watched = [master.pid, master.guard()]
        attach = [f"--attach={pid}" for pid in watched]
        tracer = subprocess.Popen(
            [strace, "--output", str(calls), *attach], stderr=subprocess.PIPE, text=True
        )
        assert tracer.stderr
        for _ in watched:
            assert "attached" in tracer.stderr.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            tracer.wait(10)  # the span of time is what is promised
        tracer.send_signal(signal.SIGINT)
        tracer.communicate()
        # One line each: the call that it was waiting in before and after.
        seen = calls.read_text().splitlines()
        assert len(seen) == len(watched), seen
        assert master.stop() == 0


def group_size(master: Master) -> int:
    """Return how many sockets listen at the master's port, as the kernel lists them."""
    everything = sockdiag.at_port(
        socket.AF_INET, socket.IPPROTO_TCP, master.port(), [sockdiag.State.LISTEN]
    )
    return len(list(everything))


def footprint(master: Master) -> tuple[int, int, int]:
    """Return the master's descriptors, zombies below it, and private memory in KiB."""
    process = psutil.Process(master.at_rest().pid)
    return process.num_fds(), len(master.zombies()), process.memory_full_info().uss // 1024


def restarts_leave_nothing(tmp_path: Path, restarts: int, requests: int) -> None:
    """Restart under load; see that nothing failed and that nothing is left of it."""
    with Master(tmp_path, "--listen", "127.0.0.1:0", "--log-level", "info", "--", *HELLO) as master:
        master.ready()
        for _ in range(5):  # what is allocated once
            master.restart()
        fds, _, memory = footprint(master)
        with Load(master.port()) as load:
            for restart in range(restarts):
                load.reached(restart * requests // restarts, patience=3600)
                master.restart()
            load.reached(requests, patience=3600)
        assert load.failures == []
        assert load.retries == 0
        assert len(load.slow()) < restarts  # not one in each
        after_fds, zombies, after_memory = footprint(master)
        assert (after_fds, zombies) == (fds, 0)
        assert group_size(master) == 1
        assert after_memory <= memory * 1.1 + 512
        assert master.stop() == 0


def test_restarts_leave_nothing_behind(tmp_path: Path) -> None:
    """A short form of the soak test."""
    restarts_leave_nothing(tmp_path, restarts=20, requests=2_000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_thousand_restarts(tmp_path: Path) -> None:
    """1,000 restarts, 100,000 requests: none fails; fds, zombies, memory and sockets are back."""
    restarts_leave_nothing(tmp_path, restarts=1000, requests=100_000)
