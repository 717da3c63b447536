"""Sudden death: of a worker, of the master, of the guard."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psutil

from tests.e2e.containers import until
from tests.e2e.handovers import runs
from tests.e2e.test_broken_versions import EXAMPLES
from tests.load import Load, free_port
from tests.master import HELLO, PATIENCE, Master, program

# Seconds for the guard, which needs one, on a machine that has more to do; a drain would take 30.
SOON = 10.0


def bound(port: int) -> bool:
    """Whether the port can be bound now."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
            sock.listen()
        except OSError:
            return False
    return True


def comes_free(port: int) -> bool:
    """Wait until the port can be bound."""
    give_up_at = time.monotonic() + PATIENCE
    while not bound(port):
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.01)
    return True


def ended(pids: list[int], within: float) -> bool:
    """Wait until all these processes have ended, at most so long; who reaps them is not ours."""
    processes = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(pid))
    give_up_at = time.monotonic() + within
    while any(map(runs, processes)):
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.01)
    return True


def test_kill_of_the_only_worker_refuses_nobody(tmp_path: Path) -> None:
    """Connections wait in the queue until the new worker is there, which is at once."""
    with Master(tmp_path, "--listen", "127.0.0.1:0", "--", *HELLO) as master:
        master.ready()
        with Load(master.port()) as load:
            for launch in range(2, 8):
                load.more(50)
                (victim,) = master.workers()
                os.kill(victim, signal.SIGKILL)
                died = master.saw("worker-exited", worker=f"1/0#{launch - 1}")
                assert died["how"] == "was killed by SIGKILL"
                master.saw("worker-ready", worker=f"1/0#{launch}")
                # Forgiven only after a while: from the second crash on there is a delay.
                if launch == 2:
                    assert "worker-backoff" not in {f["event"] for f in master.facts}
        assert not [a for a in load.failures if "refused" in a.failure.lower()]
        assert len(load.failures) <= 6 * 4  # what the killed worker had in hand
        assert master.stop() == 0


def test_a_crash_is_answered_within_50_ms(tmp_path: Path) -> None:
    """By the log of the master, whom a busy machine may hold up: in the best of some slots."""
    with Master(tmp_path, "--listen", "127.0.0.1:0", "--workers", "6", "--", *HELLO) as master:
        delays = []
        for slot, victim in enumerate(master.ready().workers()):
            os.kill(victim, signal.SIGKILL)
            died = master.saw("worker-exited", worker=f"1/{slot}#1")
            started = master.saw("worker-started", worker=f"1/{slot}#2")
            delays.append(_when(started) - _when(died))
        assert min(delays) < 0.05
        assert master.all("worker-backoff") == []
        assert master.stop() == 0


def _when(fact: dict[str, str]) -> float:
    return datetime.fromisoformat(fact["timestamp"]).timestamp()


def test_kill_of_the_master_leaves_no_process_and_frees_the_port(tmp_path: Path) -> None:
    """Also one that called setsid twice and ignores TERM is gone soon."""
    options = ["--listen", "127.0.0.1:0", "--workers", "2"]
    worker = program("daemonizes", "stubborn")
    with Master(tmp_path, *options, "--", *worker, env=EXAMPLES) as master:
        master.ready()
        said = until(lambda: strays if len(strays := _strays(master)) == 2 else [])
        family = {*master.descendants(), *said, *master.workers()}
        port = master.port()
        assert len(family) == 5  # two workers, two strays, the guard
        os.kill(master.pid, signal.SIGKILL)
        assert ended(list(family), within=SOON)
        assert bound(port)


def _strays(master: Master) -> list[int]:
    """Return the processes that have said that they are on their own now."""
    return [int(line.split()[1]) for line in master.stderr if line.startswith("stray ")]


def test_a_new_master_waits_for_what_the_killed_one_left(tmp_path: Path) -> None:
    """The name is free, and so is the port, once the guard has cleaned up; not an error before."""
    place = f"127.0.0.1:{free_port()}"
    with Master(
        tmp_path, "--listen", place, "--", *program("daemonizes", "stubborn"), env=EXAMPLES
    ) as first:
        first.ready()
        os.kill(first.pid, signal.SIGKILL)
        second = Master(tmp_path, "--name", "daemonizes", "--listen", place, "--", *HELLO)
        with second:
            second.ready()
            assert second.stop() == 0


def test_a_killed_guard_is_replaced(tmp_path: Path) -> None:
    """The next guard knows the workers of the first."""
    with Master(
        tmp_path, "--listen", "127.0.0.1:0", "--", *program("daemonizes", "stubborn"), env=EXAMPLES
    ) as master:
        master.ready()
        (guard,) = master.guards()
        os.kill(guard, signal.SIGKILL)
        give_up_at = time.monotonic() + PATIENCE
        while not (new := [g for g in master.guards() if g != guard]):
            assert time.monotonic() < give_up_at
        family = master.descendants()
        assert len(new) == 1
        os.kill(master.pid, signal.SIGKILL)
        assert ended(family, within=SOON)


def test_a_stop_leaves_no_stray(tmp_path: Path) -> None:
    """What a worker has left behind ends with it, and the master ends last."""
    with Master(
        tmp_path, "--listen", "127.0.0.1:0", "--drain-timeout", "1s", "--",
        *program("daemonizes"), env=EXAMPLES,
    ) as master:  # fmt: skip
        master.ready()
        family = master.descendants()
        assert master.stop() == 0
        assert ended(family, within=0.5)
