"""What --adopt costs a program, beside the same program run bare.

    python benchmarks/adopting.py [--runs N] [--requests N]

First the calls: bind(2), which waits for the master, another call, which does not, and a fork with
an exec, which passes the filter on.  Then requests, to servers that bind for themselves, in turns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from master import machine, table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.load import Load, fetch, free_port  # noqa: E402 - the checkout need not be installed
from tests.master import PROGRAMS, Master  # noqa: E402

ROUNDS = 7  # of each kind in turn, so that what disturbs one disturbs the others
CLIENTS = 4
COSTS = ("bind at the address, µs", "listen, µs", "another bind, µs", "another call, ns")
COSTS += ("fork and exec, µs",)


def compiled(name: str, directory: Path) -> str:
    """Return the path of a program in C."""
    path = directory / name
    command = ["cc", "-O2", "-static", "-o", str(path), str(PROGRAMS / f"{name}.c")]
    subprocess.run(command, check=True)
    return str(path)


def costs_bare(program: str) -> list[float]:
    """Return what the calls cost."""
    words = [program, str(free_port()), "end"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def costs_adopted(program: str, directory: Path) -> list[float]:
    """Return the same of a program whose binds wait."""
    port = free_port()
    script = f'"{program}" {port} >"{directory}/said"; exec sleep 600'
    words = ["--adopt", f"127.0.0.1:{port}", "--ready", "delay:0s", "--", "sh", "-c", script]
    with Master(directory, *words) as master:
        master.saw("bound")
        while len(found := (directory / "said").read_text().split()) < len(COSTS):
            time.sleep(0.01)
        master.stop()
    (directory / "said").unlink()
    return [float(word) for word in found]


def calls(runs: int) -> list[list[str]]:
    """Return a line for each kind of call."""
    with tempfile.TemporaryDirectory() as name:
        program = compiled("costs", Path(name))
        bare, adopted = [], []
        for _ in range(runs):
            bare.append(costs_bare(program))
            adopted.append(costs_adopted(program, Path(name)))
    columns = zip(COSTS, zip(*bare, strict=True), zip(*adopted, strict=True), strict=True)
    return [[what, f"{median(b):.0f}", f"{median(a):.0f}"] for what, b, a in columns]


@contextmanager
def bare(command: list[str], port: int) -> Iterator[None]:
    """Run a server by itself until it answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                fetch(port)
                break
            except OSError:
                time.sleep(0.01)
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def adopted(command: list[str], port: int, directory: Path) -> Iterator[None]:
    """Run it under a master that has replaced it once."""
    words = ["--adopt", f"127.0.0.1:{port}", "--", *command]
    with Master(directory, *words) as master:
        master.ready().restart()
        yield
        master.stop()


def rate(port: int, requests: int) -> float:
    """Return how many requests a second are answered."""
    begun = time.perf_counter()
    with Load(port, CLIENTS) as load:
        load.reached(requests)
        taken = time.perf_counter() - begun
    if load.failures:
        raise SystemExit(f"{len(load.failures)} requests failed")
    return len(load.answers) / taken


def throughput(requests: int) -> list[list[str]]:
    """Return a line for each server."""
    lines = []
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        server = compiled("binds", Path(name))
        kinds = {
            "static C": [server],
            "node": ["node", str(PROGRAMS / "binds.js")],
            "http.server": [sys.executable, str(ROOT / "benchmarks" / "tiny.py")],
        }
        for kind, command in kinds.items():
            ports = free_port(), free_port()
            stack.enter_context(bare([*command, str(ports[0])], ports[0]))
            directory = Path(name) / kind
            directory.mkdir()
            stack.enter_context(adopted([*command, str(ports[1])], ports[1], directory))
            rates = [[rate(port, requests) for port in ports] for _ in range(ROUNDS)]
            before, after = (median(each) for each in zip(*rates, strict=True))
            lines.append([kind, f"{before:.0f}", f"{after:.0f}", f"{after / before:.2f}"])
    return lines


def main() -> None:
    """Measure, and print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--requests", type=int, default=1500)
    options = parser.parse_args()
    print(f"{machine()}; {options.runs} runs; {CLIENTS} clients, a connection for each request\n")
    print(table([["", "bare", "adopted"], *calls(options.runs)]), end="\n\n")
    head = ["requests per s", "bare", "adopted", "ratio"]
    print(table([head, *throughput(options.requests)]))


if __name__ == "__main__":
    main()
