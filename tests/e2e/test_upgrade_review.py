"""What a review of upgrades and of adopted orphans has found."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

import psutil

from overseer_py.system import custody
from tests.e2e.commands import document
from tests.e2e.test_death import bound, ended
from tests.e2e.test_orphans import murder, options, port_of
from tests.master import HELLO, PATIENCE, ROOT, Master

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


def test_somebody_else_has_the_address(tmp_path: Path, options: list[str]) -> None:
    """No heir can come then; what is left ends after a while all the same."""
    where = shutil.copytree(ROOT / "overseer_py", tmp_path / "here" / "overseer_py").parent
    house = where / "overseer_py" / "house.py"
    house.write_text(house.read_text().replace("HEIR = 60.0", "HEIR = 0.5"))
    env = {"PYTHONPATH": str(where)}
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other,
        Master(tmp_path, *options, "--", *HELLO, env=env, cwd=where) as master,
    ):
        other.bind(custody.address_of(str(tmp_path / "overseer" / f"{options[1]}.sock")))
        master.ready()
        assert ended(murder(master), PATIENCE)
        assert bound(port_of(options))
