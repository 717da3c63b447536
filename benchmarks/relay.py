"""What the lines that a worker writes cost the master, and the worker.

    python benchmarks/relay.py [--lines N]

One worker writes lines of 100 bytes to stderr, each with a write(2) of its own: as fast as it can,
and five thousand a second.  wc(1) reads the log.  Prints a table, a row for each way that lines can
take: what one costs the master, what the worker waits for one to be written, how many arrive.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

PATIENCE = 120.0  # seconds
WAYS = {
    "untouched (--no-relay)": ["--no-relay"],
    "relayed": [],
    "captured, as logfmt": ["--capture", "--log-format", "logfmt"],
    "captured, as JSON": ["--capture", "--log-format", "json"],
}
WORKER = """
import os, signal, sys, time
count, pace, done = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
line = b"x" * 99 + b"\\n"
took = 0.0
for start in range(0, count, 100):
    begun = time.monotonic()
    for _ in range(min(100, count - start)):
        os.write(2, line)
    took += time.monotonic() - begun
    time.sleep(100 * pace)
with open(done + ".part", "w") as file:
    file.write(str(took))
os.rename(done + ".part", done)
signal.pause()
"""


@dataclass
class Cost:
    """Of one line, in microseconds; and the share of lines that arrived."""

    master: float
    worker: float
    arrived: float


def measure(options: list[str], lines: int, pace: float) -> Cost:
    """Run a service that writes so many lines, ``pace`` seconds apart."""
    nothing, _, _ = run(options, 1, pace)  # what a start costs is taken off
    spent, took, arrived = run(options, lines, pace)
    return Cost(1e6 * (spent - nothing) / lines, 1e6 * took / lines, min(arrived / lines, 1))


def run(options: list[str], lines: int, pace: float) -> tuple[float, float, int]:
    """Return the master's processor time and the worker's in write(2), and the lines in the log."""
    with tempfile.TemporaryDirectory() as place:
        done = Path(place) / "done"
        command = [sys.executable, "-m", "overseer_py", "run", "--control", "none", *options]
        command += ["--ready", "delay:0s", "--", sys.executable, "-c", WORKER]
        command += [str(lines), str(pace), str(done)]
        reader = subprocess.Popen(["wc", "-l"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        master = subprocess.Popen(command, stderr=reader.stdin)
        assert reader.stdin
        reader.stdin.close()
        while not done.exists():
            time.sleep(0.05)
        process = psutil.Process(master.pid)
        _idle(process)
        times = process.cpu_times()
        took = float(done.read_text())
        master.terminate()
        master.wait(PATIENCE)
        assert reader.stdout
        count = int(reader.stdout.read())
        reader.wait(PATIENCE)
    return times.user + times.system, took, count


def _idle(process: psutil.Process) -> None:
    """Wait until the master has nothing to do any more."""
    before = -1.0
    while (now := sum(process.cpu_times()[:2])) != before:
        before = now
        time.sleep(0.3)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=200_000)
    lines = parser.parse_args().lines
    print(
        "|                        | at full speed: |        |         | 5,000 a second: |        |"
    )
    print(
        "|                        |         master | worker | arrived |          master | worker |"
    )
    print(
        "| ---------------------- | -------------: | -----: | ------: | --------------: | -----: |"
    )
    for title, options in WAYS.items():
        fast, paced = measure(options, lines, 0.0), measure(options, lines // 8, 1 / 5000)
        numbers = f"{fast.master:11.2f} µs | {fast.worker:3.1f} µs | {fast.arrived:7.0%} |"
        print(
            f"| {title:22} | {numbers} {paced.master:12.2f} µs | {paced.worker:3.1f} µs |",
            flush=True,
        )


if __name__ == "__main__":
    main()
