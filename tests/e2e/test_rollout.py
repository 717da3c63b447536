"""The main job: a new version takes over, and nobody notices."""

from __future__ import annotations

from pathlib import Path

from tests.load import Load
from tests.master import HELLO, Master


def test_fifty_restarts_lose_nothing(tmp_path: Path) -> None:
    """50 restarts within at least 10,000 requests: none fails, none is slower than 0.9 s."""
    with Master(tmp_path, "--listen", "127.0.0.1:0", "--", *HELLO) as master:
        master.ready()
        with Load(master.port()) as load:
            for restart in range(50):
                load.reached(restart * 200)
                master.restart()
            load.reached(10_000)
        assert load.failures == []
        assert max(answer.took for answer in load.answers) < 0.9  # a SYN retry is 1 s
        assert len({*load.bodies}) >= 50
        assert master.stop() == 0
