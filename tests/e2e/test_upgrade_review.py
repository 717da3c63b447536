"""What a review of upgrades and of adopted orphans has found."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil

from tests.e2e.commands import document
from tests.e2e.test_death import ended
from tests.e2e.test_orphans import murder, options
from tests.master import HELLO, PATIENCE, Master

__all__ = ["options"]  # a fixture


def test_a_guard_that_was_killed(tmp_path: Path, options: list[str]) -> None:
    """The next guard knows at once what there is to leave, although nothing has changed."""
    with Master(tmp_path, *options, "--", *HELLO) as first:
        first.ready()
        (guard,) = first.guards()
        os.kill(guard, signal.SIGKILL)
        while first.guards() in ([], [guard]):
            pass
        document(tmp_path, options[1])  # a turn of the loop
        workers = murder(first)
        with Master(tmp_path, *options, "--", *HELLO) as second:
            second.saw("workers-adopted")
            assert second.workers() == []
            assert psutil.pid_exists(workers[0])
            assert second.stop() == 0
    assert ended(workers, PATIENCE)
