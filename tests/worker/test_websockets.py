"""WebSockets are closed with 1012, one after the other, before the server ends."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.needs import cannot
from tests.worker.servers import running

SPREAD = 1.0
COUNT = 6

try:
    from tests.worker.talkers import Talker
except ImportError:  # it comes with hypercorn
    Talker = None  # type: ignore[assignment,misc]

_APP = ["--log-level", "warning", "worker_websockets:app"]
SERVERS = {
    "uvicorn": ["uvicorn", "--fd", "{fd}", "--ws", "wsproto", *_APP],
    "hypercorn": ["hypercorn", "-b", "fd://{fd}", "-w", "0", *_APP],
}


def ends(talkers: Sequence[Talker]) -> list[tuple[int, float]]:
    """Wait until all are closed; return code and time of each, in the order of time."""
    with ThreadPoolExecutor(len(talkers)) as pool:
        return sorted(pool.map(Talker.closed, talkers), key=lambda end: end[1])


@pytest.mark.parametrize("server", SERVERS)
def test_spread_evenly(tmp_path: Path, server: str) -> None:
    """All are told 1012, none before its turn, and the server ends when the last one is gone."""
    if Talker is None:
        cannot("no module wsproto; pip install -e '.[test]'")
    command = [sys.executable, "-m", *SERVERS[server]]
    with running(command, tmp_path, "--env", f"SPREAD={SPREAD}") as master:
        talkers = [Talker(master.port()) for _ in range(COUNT)]
        assert [talker.echo("hello") for talker in talkers] == ["hello"] * COUNT
        asked = time.monotonic()
        after = master.now()
        master.send(signal.SIGUSR2)
        found = ends(talkers)
        assert [code for code, _ in found] == [1012] * COUNT
        for turn, (_, when) in enumerate(found):
            assert when - asked >= SPREAD * turn / (COUNT - 1) - 0.01
        master.saw("generation-gone", after=after, generation=1)
        assert master.stop() == 0
        assert len([line for line in master.stderr if "ended with" in line]) == COUNT
        assert not [line for line in master.stderr if "Traceback" in line]
