"""Under systemd: an upgraded master, and one that dies a sudden death: the unit stays active."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable

import pytest

from tests.e2e.systemd import Box
from tests.e2e.test_systemd import GENERATIONS, LASTING
from tests.e2e.units import SERVICE, Unit
from tests.load import Load

NUMBERS = itertools.count(1)


@pytest.fixture
def unit(box: Box) -> Unit:
    """Give a service of the template that nobody else has."""
    return Unit(box, f"master{next(NUMBERS)}")


def upgrade(unit: Unit) -> None:
    """Ask for it."""
    unit.box.run("/usr/local/bin/overseer", "upgrade-master", unit.name)


@LASTING
@GENERATIONS
def test_an_upgraded_master(unit: Unit, keep: Callable[[Unit], None], rollouts: int) -> None:
    """One pid, no restart; what systemd keeps of it is kept on, and comes back to the next one."""
    unit.drop_in("[Service]\nWatchdogSec=20s\n")
    keep(unit)
    pid = unit.start()
    with Load(unit.port, clients=4) as load:
        upgrade(unit)
        for _ in range(rollouts):
            assert unit.systemctl("reload") == 0
            upgrade(unit)
        load.more()
        shown = unit.show()
        assert (shown["MainPID"], shown["NRestarts"], shown["ActiveState"]) == (pid, "0", "active")
        assert unit.systemctl("restart") == 0
        load.more()
    assert load.failures == []
    assert unit.show()["MainPID"] != pid
    assert unit.systemctl("stop") == 0
    assert unit.show()["Result"] == "success"


def test_adopted_orphans(unit: Unit) -> None:
    """With KillMode=process a killed master costs nobody anything."""
    unit.drop_in("[Service]\nKillMode=process\n")
    unit.describe(*SERVICE, orphans="adopt", workers=2)
    pid = unit.start()
    before = sorted(worker["pid"] for worker in unit.status()["workers"])
    with Load(unit.port, clients=4) as load:
        load.more()
        unit.kill(signal.SIGKILL)
        shown = unit.saw(NRestarts="1", ActiveState="active")
        load.more()
        assert shown["MainPID"] != pid
        assert sorted(worker["pid"] for worker in unit.status()["workers"]) == before
        assert unit.systemctl("reload") == 0
        load.more()
    assert load.failures == []
    assert unit.systemctl("stop") == 0
    assert unit.show()["Result"] == "success"
