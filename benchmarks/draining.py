"""What kept-alive clients lose in restarts, without overseer_py.worker and with it.

    python benchmarks/draining.py [--restarts N] [--clients N] [SERVER ...]

Runs real servers under ``overseer run``.  The clients keep their connections, think between two
requests, and never repeat one: what ends a connection without having said so loses a request.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from master import machine, table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.worker.keepalive import KeepAlive  # noqa: E402 - the checkout need not be installed
from tests.worker.servers import BEYOND, PAIRS, Pair, running  # noqa: E402

THINK = {"2 ms": 0.002, "300 ms": 0.3}
HEAD = ["server"] + [
    f"{what}, {think}" for think in THINK for what in ("requests", "lost without", "lost with")
]


def fare(command: list[str], think: float, options: argparse.Namespace) -> KeepAlive:
    """Restart the server under load; return how its clients fared."""
    with tempfile.TemporaryDirectory() as directory, running(command, Path(directory)) as master:
        with KeepAlive(master.port(), think, options.clients) as load:
            for _ in range(options.restarts):
                load.more(2 * options.clients)
                master.restart()
            load.more(2 * options.clients)
        if master.stop() != 0:
            raise SystemExit(f"the master failed:\n{master.transcript()}")
    return load


def line(pair: Pair, options: argparse.Namespace) -> list[str]:
    """Return a line of the table."""
    cells = [pair.name]
    for think in THINK.values():
        without, with_it = (fare(kind, think, options) for kind in (pair.plain, pair.polite))
        asked = len(without.answers) + len(without.lost) + len(with_it.answers) + len(with_it.lost)
        cells += [str(asked), str(len(without.lost)), str(len(with_it.lost))]
        print(cells[0], f"thinking for {think} s:", *cells[-3:], file=sys.stderr)
    return cells


def main() -> None:
    """Measure all that is installed, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("server", nargs="*", help="measure these only, by their names in the table")
    options = parser.parse_args()
    pairs = [p for p in (*PAIRS, *BEYOND) if not options.server or p.name in options.server]
    print(f"{machine()}; {options.restarts} restarts each, {options.clients} clients\n")
    print(table([HEAD, *(line(pair, options) for pair in pairs if not pair.missing)]))
    print("\n".join(f"skipped: {pair.name}: {pair.missing}" for pair in pairs if pair.missing))


if __name__ == "__main__":
    main()
