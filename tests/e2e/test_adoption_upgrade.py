"""The master's next image goes on to answer for those who bind for themselves."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.containers import until
from tests.e2e.handovers import CLIENTS, check_stop, hand_over
from tests.e2e.test_adoption import BINDS, adopting, version
from tests.e2e.test_death import ended
from tests.e2e.test_upgrade import kinds, upgrade
from tests.load import Load, Place, free_port
from tests.master import PATIENCE, Master


@pytest.mark.parametrize("adopt", ["auto", "unix:{path}"])
def test_under_load(tmp_path: Path, adopt: str) -> None:
    """Workers stay, and the generation after them binds as they did; nothing piles up."""
    port, path = free_port(), tmp_path / "app.sock"
    what = f"listen {path}" if "unix" in adopt else f"listen {port}"
    place: Place = str(path) if "unix" in adopt else port
    with adopting(tmp_path, what, "--adopt", adopt.format(port=port, path=path)) as master:
        master.ready()
        workers, before = master.workers(), kinds(master.pid)
        with Load(place, CLIENTS) as load:
            load.more()
            upgrade(master, tmp_path)
            load.more()
            assert master.workers() == workers
            until(lambda: kinds(master.pid) == before)  # some are open for a moment
            hand_over(master, load, 1)
            upgrade(master, tmp_path)
            load.more()
        assert load.failures == []
        until(lambda: kinds(master.pid) == before)
        check_stop(master)


def test_a_worker_that_has_not_bound_yet(tmp_path: Path) -> None:
    """One that was started by an earlier image binds under a later one, and is ready then."""
    port = free_port()
    with adopting(tmp_path, f"listen {port}", "--adopt", f"127.0.0.1:{port}") as master:
        master.ready()
        version(tmp_path, f"waits {port}")
        with Load(port, CLIENTS) as load:
            master.send(signal.SIGUSR2)
            master.saw("worker-started", worker="2/0#1")
            upgrade(master, tmp_path)
            (tmp_path / "go").touch()
            master.saw("bound", worker="2/0#1")
            master.saw("rollout-committed", generation=2)
            load.more()
        assert load.failures == []
        check_stop(master)


def test_a_joined_socket(tmp_path: Path) -> None:
    """The program's own socket is the generation's under the next image, too."""
    port = free_port()
    with adopting(tmp_path, f"copy {port}", "--adopt", f"127.0.0.1:{port}") as master:
        master.ready()
        with Load(port, CLIENTS) as load:
            upgrade(master, tmp_path)
            hand_over(master, load, 1)
        assert load.failures == []
        check_stop(master)


def test_a_crash_afterwards(tmp_path: Path) -> None:
    """Whoever follows a crashed worker finds the queue that an earlier image has kept."""
    port = free_port()
    version(tmp_path, f"listen {port}")
    options = "--adopt", f"127.0.0.1:{port}", "--chdir", str(tmp_path), "--ready", "exec:true"
    with Master(tmp_path, *options, "--", *BINDS) as master:
        master.ready()
        (worker,) = master.workers()
        upgrade(master, tmp_path)
        os.kill(worker, signal.SIGKILL)
        master.saw("worker-ready", worker="1/0#2")
        with Load(port, CLIENTS) as load:
            load.more()
        assert load.failures == []
        check_stop(master)


def test_after_the_sudden_death_of_the_master(tmp_path: Path) -> None:
    """The next master answers for the workers that the first one has left."""
    port = free_port()
    options = "--name", f"app-{port}", "--adopt", f"127.0.0.1:{port}", "--orphans", "adopt"
    with adopting(tmp_path, f"listen {port}", *options) as first:
        first.ready()
        (worker,) = first.workers()
        with Load(port, CLIENTS) as load:
            load.more()
            os.kill(first.pid, signal.SIGKILL)
            first.process.wait()
            load.more()
            with adopting(tmp_path, f"listen {port}", *options) as second:
                second.saw("workers-adopted")
                load.more()
                second.send(signal.SIGUSR2)
                second.saw("bound", worker="2/0#1")
                second.saw("generation-gone", generation=1)
                load.more()
                failures = load.failures
                assert ended([worker], PATIENCE)
                assert second.stop() == 0
    assert failures == []
