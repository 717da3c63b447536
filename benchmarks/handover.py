"""What is lost in restarts under load: each generation with a socket of its own, and all with one.

    python benchmarks/handover.py [--restarts N] [--clients N] [SERVER ...]

Runs real servers under ``overseer run``, with clients that open a connection for each request.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from master import machine, table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.e2e.handovers import hand_over  # noqa: E402 - the checkout need not be installed
from tests.e2e.servers import (  # noqa: E402
    QUICK,
    SLOW,
    UPLOADS,
    Demand,
    Server,
    asked_for,
    asking,
    running,
)

HEAD = ["server", "requests steered", "lost steered", "requests shared", "lost shared"]


def counts(server: Server, demand: Demand, handover: str, options: argparse.Namespace) -> list[str]:
    """Restart the server under load; return how many requests there were, how many were lost."""
    with (
        tempfile.TemporaryDirectory() as directory,
        running(server, Path(directory), "--handover", handover) as master,
    ):
        with asking(master, demand, options.clients) as load:
            hand_over(master, load, options.restarts, demand.between)
        if master.stop() != 0:
            raise SystemExit(f"the master failed:\n{master.transcript()}")
    return [str(len(load.answers)), str(len(load.failures))]


def line(server: Server, demand: Demand, options: argparse.Namespace) -> list[str]:
    """Return a line of a table."""
    print(f"{server.name}, {demand.name}", file=sys.stderr)
    both = [counts(server, demand, way, options) for way in ("steered", "shared")]
    return [server.name, *both[0], *both[1]]


def main() -> None:
    """Measure all that is installed, and print a table for each demand."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("server", nargs="*", help="measure these only, by their names in the table")
    options = parser.parse_args()
    print(f"{machine()}; {options.restarts} restarts each, {options.clients} clients")
    for demand in (QUICK, SLOW, UPLOADS):
        chosen = [s for s in asked_for(demand) if not options.server or s.name in options.server]
        if not chosen:
            continue
        lines = [line(server, demand, options) for server in chosen if not server.missing]
        skipped = [f"skipped: {s.name}: {s.missing}" for s in chosen if s.missing]
        print("\n".join(["", f"{demand.name}:", "", table([HEAD, *lines]), *skipped]), flush=True)


if __name__ == "__main__":
    main()
