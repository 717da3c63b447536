"""What steering costs: on each connection, at the cut-over, and while an old worker becomes quiet.

    python benchmarks/steering.py [--requests N] [--connections N]

The server is tests/programs/server.c: so little of its own that the kernel's part can be seen.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from master import machine, table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from overseer_py.system import bpf, connections, procfs, steering  # noqa: E402 - need no install
from overseer_py.system.steering import Steered  # noqa: E402
from tests.load import fetch  # noqa: E402
from tests.master import Master  # noqa: E402

ROUNDS = 7  # of each kind in turn, so that what disturbs one disturbs the others
HOLD = """import socket, sys
listener = socket.socket(fileno=int(sys.argv[1]))
held = [listener.accept()[0] for _ in range(int(sys.argv[2]))]
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def bare(binary: Path) -> Iterator[int]:
    """Run the server with a socket of its own; yield its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        environ = {**os.environ, "LISTEN_FDS": "1", "OVERSEER_GENERATION": "0"}
        script = f'exec 3<&{listener.fileno()}; LISTEN_PID=$$ exec "{binary}"'
        os.set_inheritable(listener.fileno(), True)
        process = subprocess.Popen(["sh", "-c", script], env=environ, pass_fds=[listener.fileno()])
        try:
            yield listener.getsockname()[1]
        finally:
            process.terminate()
            process.wait()


@contextmanager
def under(binary: Path, directory: Path, handover: str) -> Iterator[int]:
    """Run it under a master that has replaced it once; yield its port."""
    options = ["--listen", "127.0.0.1:0", "--handover", handover, "--", str(binary)]
    with Master(directory, *options) as master:
        master.ready().restart()
        yield master.port()
        master.stop()


def times(port: int, requests: int) -> list[float]:
    """Return how long each of so many requests took, one after another."""
    taken = []
    for _ in range(requests):
        begun = time.perf_counter()
        fetch(port)
        taken.append(time.perf_counter() - begun)
    return taken


def compare(requests: int) -> list[list[str]]:
    """Ask each kind in turn; return a line for each, with its ratio to the bare server."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        binary = Path(name) / "server"
        source = ROOT / "tests" / "programs" / "server.c"
        subprocess.run(["cc", "-O2", "-o", str(binary), str(source)], check=True)
        ports = {"bare": stack.enter_context(bare(binary))}
        for handover in ("shared", "steered"):
            directory = Path(name) / handover
            directory.mkdir()
            ports[handover] = stack.enter_context(under(binary, directory, handover))
        taken: dict[str, list[float]] = {kind: [] for kind in ports}
        for _ in range(ROUNDS):
            for kind, port in ports.items():
                taken[kind] += times(port, requests)
    rate = {kind: len(some) / sum(some) for kind, some in taken.items()}
    return [
        [kind, *percentiles(some), f"{rate[kind]:.0f}", f"{rate[kind] / rate['bare']:.2f}"]
        for kind, some in taken.items()
    ]


def percentiles(taken: list[float]) -> list[str]:
    """Return the median and the slowest but one per cent, in µs."""
    ordered = sorted(taken)
    return [f"{median(ordered) * 1e6:.0f}", f"{ordered[len(ordered) * 99 // 100] * 1e6:.0f}"]


def took(call: Callable[[], object], repeat: int = 200) -> str:
    """Return the median time of a call in µs."""
    taken = []
    for _ in range(repeat):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return f"{median(taken) * 1e6:.0f}"


def listening() -> Steered:
    """Return a group of one, listening."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    if obstacle := steering.gather(sock):
        raise SystemExit(obstacle)
    sock.listen(4096)
    return Steered(sock)


def moments() -> list[list[str]]:
    """Return how long the master's own calls take, at a group of two."""
    group = listening()
    first, second = group.live, group.join("2", 4096)

    def there_and_back() -> None:
        group.cut_over(second)
        group.cut_over(first)

    def one_more() -> None:
        group.leave(group.join("3", 4096))

    lines = [
        ["the program alone (one setsockopt)", took(lambda: bpf.steer(first, bpf.choose(0)))],
        ["two cut-overs, each with a look at the kernel's list", took(there_and_back)],
        ["a newcomer joins, is proved by a packet, and leaves", took(one_more)],
    ]
    group.close()
    return lines


def scan(count: int) -> list[list[str]]:
    """Return what a look costs at a worker that holds so many connections."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    group = listening()
    listener = group.live
    command = [sys.executable, "-c", HOLD, str(listener.fileno()), str(count)]
    worker = subprocess.Popen(
        command, pass_fds=[listener.fileno()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdin
    assert worker.stdout
    clients = [socket.create_connection(listener.getsockname()) for _ in range(count)]
    worker.stdout.readline()

    def look() -> None:
        held = procfs.sockets(worker.pid).keys()
        mine = [c for c in connections.at_ports([listener]) if c.inode in held]
        assert len([c for c in mine if connections.is_busy(c)]) <= count == len(mine)

    line = [f"one look at a worker with {count} connections", took(look, 10)]
    queue = ["one look at its queue alone", took(lambda: connections.waiting(listener))]
    for client in clients:
        client.close()
    worker.communicate()
    group.close()
    return [queue, line]


def main() -> None:
    """Measure, and print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=5000)
    options = parser.parse_args()
    print(f"{machine()}; one client, a connection for each request\n")
    head = ["", "median µs", "99 % µs", "per s", "ratio to bare"]
    print(table([head, *compare(options.requests)]), end="\n\n")
    print(table([["", "median µs"], *moments(), *scan(options.connections)]))


if __name__ == "__main__":
    main()
