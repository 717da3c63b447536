"""What a restart costs those who are served: requests, failures, the slowest, the longest gap.

    python benchmarks/restart.py [--restarts N] [--clients N] [--crashes N]

Runs examples/hello.py under ``overseer run`` with clients that open a connection for each request.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from statistics import median

from master import machine, table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.load import Load, fetch  # noqa: E402 - the checkout need not be installed
from tests.master import HELLO, Fact, Master  # noqa: E402

LISTEN = ("--listen", "127.0.0.1:0", "--", *HELLO)


def happened(fact: Fact) -> float:
    """Return when the master logged this, in seconds since the epoch."""
    return datetime.fromisoformat(fact["timestamp"]).timestamp()


def roll_out(master: Master) -> float:
    """Restart; return the seconds from the signal until the new generation is the current one."""
    begun = time.time()
    return happened(master.restart()) - begun


def under_load(clients: int, restarts: int, seconds: float) -> tuple[Load, list[float], float]:
    """Serve clients through so many restarts, or so long if there are none.

    Return what became of the requests, how long each rollout took, and how long it all took.
    """
    rollouts: list[float] = []
    with tempfile.TemporaryDirectory() as directory, Master(Path(directory), *LISTEN) as master:
        master.ready()
        begun = time.monotonic()
        with Load(master.port(), clients) as load:
            for _ in range(restarts):
                rollouts.append(roll_out(master))
                load.more()
            while not restarts and time.monotonic() - begun < seconds:
                load.more()
            took = time.monotonic() - begun
        if master.stop() != 0:
            raise SystemExit(f"the master failed:\n{master.transcript()}")
    return load, rollouts, took


def crash() -> tuple[float, float]:
    """Kill the only worker; return the seconds to the next one's exec, and to its first answer.

    Each in a master of its own: a second crash would be met with a delay on purpose.
    """
    with tempfile.TemporaryDirectory() as directory, Master(Path(directory), *LISTEN) as master:
        master.ready()
        (worker,) = master.workers()
        port, after, killed = master.port(), master.now(), time.time()
        os.kill(worker, signal.SIGKILL)
        fetch(port)  # waits in the listener's queue for the new worker
        answered = time.time()
        started = happened(master.saw("worker-started", after=after))
        master.stop()
    return started - killed, answered - killed


def load_line(title: str, load: Load, took: float) -> list[str]:
    """Return a line of the table about the requests."""
    times = sorted(answer.took for answer in load.answers)
    in_ms = (median(times), times[len(times) * 99 // 100], times[-1], load.longest_gap())
    counts = [str(len(times)), f"{len(times) / took:.0f}", str(len(load.failures))]
    return [title, *counts, *(f"{value * 1000:.1f}" for value in in_ms)]


def time_line(title: str, times: list[float]) -> list[str]:
    """Return a line of the table about durations."""
    values = (min(times), median(times), max(times))
    return [title, str(len(times)), *(f"{value * 1000:.1f}" for value in values)]


def main() -> None:
    """Measure, and print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--restarts", type=int, default=50)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--crashes", type=int, default=10)
    options = parser.parse_args()
    load, rollouts, took = under_load(options.clients, options.restarts, 0)
    calm, _, calm_took = under_load(options.clients, 0, took)
    respawns, answers = zip(*(crash() for _ in range(options.crashes)), strict=True)
    print(f"{machine()}; {options.clients} clients\n")
    requests = ["", "requests", "per s", "failed", "median ms", "99 % ms", "slowest ms", "gap ms"]
    calm_line = load_line("no restart", calm, calm_took)
    busy_line = load_line(f"{options.restarts} restarts", load, took)
    print(table([requests, calm_line, busy_line]), end="\n\n")
    lines = [
        ["", "times", "fastest ms", "median ms", "slowest ms"],
        time_line("rollout under load: signal to committed", rollouts),
        time_line("kill -9 of the only worker: to the next one's exec", list(respawns)),
        time_line("kill -9 of the only worker: to the next answer", list(answers)),
    ]
    print(table(lines))


if __name__ == "__main__":
    main()
