"""What a master costs: memory, wake-ups while idle, time to start.

    python benchmarks/master.py [--runs N] [--idle SECONDS]

Prints a table, one row a process; README.md says what the columns are.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil
from peers import PEERS, Peer, free_port

PATIENCE = 30.0  # seconds for a start, which takes less than one
SETTLED = 1.0  # seconds after the first answer: what belongs to the start is over
GUARD = "overseer-guard"


@dataclass
class Row:
    """What was measured of one process, each run a sample: kB, seconds, a count."""

    title: str
    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, **values: float) -> None:
        """Take the values of one run."""
        for name, value in values.items():
            self.samples.setdefault(name, []).append(value)

    def shown(self, name: str, scale: float = 1.0, digits: int = 0) -> str:
        """Return the median of what was measured, or a dash."""
        values = self.samples.get(name)
        return f"{median(values) * scale:.{digits}f}" if values else "-"

    def fastest(self, name: str) -> str:
        """Return the shortest of these times in ms: the run that was disturbed least."""
        values = self.samples.get(name)
        return f" ({min(values) * 1000:.0f})" if values else ""


def smaps(pid: int) -> dict[str, float]:
    """Return RSS, PSS and USS of a process in kB, as the kernel counts them (smaps_rollup)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    private = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return {"rss": sizes["Rss"], "pss": sizes["Pss"], "uss": private}


def wake_ups(pid: int) -> int:
    """Return how often the threads of a process have waited and been woken."""
    count = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        lines = status.read_text().splitlines()
        count += next(int(line.split()[1]) for line in lines if line.startswith("voluntary"))
    return count


def first_answer(port: int) -> float:
    """Ask until somebody answers; return when."""
    give_up_at = time.monotonic() + PATIENCE
    while time.monotonic() < give_up_at:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE) as asked:
            asked.sendall(b"GET / HTTP/1.0\r\n\r\n")
            if asked.recv(4096):
                return time.monotonic()
        time.sleep(0.001)
    raise SystemExit(f"no answer on port {port} within {PATIENCE:.0f} s")


class LogWatch(threading.Thread):
    """Reads a log to its end, and notes when a text was first in it."""

    def __init__(self, process: subprocess.Popen[str], text: str) -> None:
        super().__init__(daemon=True)
        self._process, self._text = process, text
        self.seen_at: float | None = None
        self.start()

    def run(self) -> None:
        """Read."""
        assert self._process.stderr
        for line in self._process.stderr:
            if self.seen_at is None and self._text in line:
                self.seen_at = time.monotonic()


@contextmanager
def running(peer: Peer, row: Row) -> Iterator[int]:
    """Start a supervisor, note how long that takes, give its pid, end it."""
    with tempfile.TemporaryDirectory() as directory:
        port = free_port()
        begun = time.monotonic()
        process = peer.start(port, directory)
        log = LogWatch(process, peer.says_ready)
        try:
            row.add(answer=first_answer(port) - begun)
            time.sleep(SETTLED)
            if log.seen_at:
                row.add(ready=log.seen_at - begun)
            yield process.pid
        finally:
            process.terminate()
            process.wait(PATIENCE)
            log.join(PATIENCE)


def measure(peer: Peer, runs: int, idle: float) -> list[Row]:
    """Measure one supervisor; the last run is watched while nothing happens."""
    rows = {"": Row(peer.title)}
    for run in range(runs):
        with running(peer, rows[""]) as master:
            parts = {"": master}
            for child in psutil.Process(master).children():
                if child.name() == GUARD:
                    parts[GUARD] = child.pid
            for part, pid in parts.items():
                rows.setdefault(part, Row(f"  its guard ({part})")).add(**smaps(pid))
            if run == runs - 1:
                before = {part: wake_ups(pid) for part, pid in parts.items()}
                time.sleep(idle)
                for part, pid in parts.items():
                    rows[part].add(wakes=wake_ups(pid) - before[part])
    return list(rows.values())


def cells(row: Row) -> list[str]:
    """Return the row of the table."""
    sizes = [row.shown(name, 1 / 1024, 1) for name in ("rss", "pss", "uss")]
    times = [f"{row.shown(name, 1000)}{row.fastest(name)}" for name in ("ready", "answer")]
    return [row.title, *sizes, row.shown("wakes"), *times]


def machine() -> str:
    """Return on what this runs."""
    cores = len(os.sched_getaffinity(0))
    python = platform.python_version()
    return f"{cores} cores, Linux {platform.release()}, {platform.machine()}, Python {python}"


def table(lines: list[list[str]]) -> str:
    """Return the lines as a table in Markdown, the first of them its head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(words: list[str]) -> str:
        first, *rest = zip(words, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(word.rjust(width) for word, width in rest)]
        return "| " + " | ".join(padded) + " |"

    return "\n".join([line(lines[0]), line(rule), *map(line, lines[1:])])


def main() -> None:
    """Measure all that is installed and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="starts of each; the median counts")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds to count wake-ups in")
    options = parser.parse_args()
    head = ["process", "RSS MiB", "PSS MiB", "USS MiB", f"wake-ups in {options.idle:.0f} s"]
    lines = [[*head, "ready ms", "first answer ms"]]
    skipped = []
    for peer in PEERS:
        if peer.missing:
            skipped.append(f"skipped: {peer.name}: {peer.missing}")
            continue
        lines += map(cells, measure(peer, options.runs, options.idle))
    print(f"{machine()}; median of {options.runs} runs\n")
    print("\n".join([table(lines), *skipped]))


if __name__ == "__main__":
    main()
