"""The main job: a new version takes over, and nobody notices."""

from __future__ import annotations

from pathlib import Path

from tests.load import Load
from tests.master import HELLO, Master


def test_fifty_restarts_lose_nothing(tmp_path: Path) -> None:
    """50 restarts within at least 10,000 requests: none fails, none is asked for twice or waits."""
    with Master(tmp_path, "--listen", "127.0.0.1:0", "--", *HELLO) as master:
        master.ready()
        with Load(master.port()) as load:
            for restart in range(50):
                load.reached(restart * 200)
                master.restart()
            load.reached(10_000)
        assert load.failures == []
        assert load.retries == 0
        assert len(load.slow()) < 50  # not one in each restart
        assert len({*load.bodies}) >= 50
        assert master.stop() == 0
