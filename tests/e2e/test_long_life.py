"""A master that is upgraded, reloaded and restarted again and again, while workers are killed."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.commands import overseer
from tests.e2e.test_death import bound
from tests.e2e.test_idle import footprint
from tests.e2e.test_upgrade import kinds, upgrade
from tests.load import Load, fetch, free_port
from tests.master import Master, program

WORKERS = 2


class Life:
    """One master, its configuration and its users."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._config = place / "overseer.toml"
        self._stays = free_port()
        self._others: list[str] = []
        self._number = 0
        self._write()
        command = program("serial")
        options = ["--config", str(self._config), "--backoff", "10ms", "--backoff-limit", "50ms"]
        options += ["--quiet-timeout", "60s"]  # what it has in hand at TERM is lost
        self.master = Master(place, *options, "--", *command)

    @property
    def port(self) -> int:
        """The port at which there is always somebody."""
        return self._stays

    def _write(self) -> None:
        listen = [f"web=127.0.0.1:{self._stays}", *self._others]
        lines = [f"listen = {listen}", f"workers = {WORKERS}", 'ready = "accept:web"']
        self._config.write_text("\n".join(lines))

    def upgrade(self) -> None:
        """Have the master execute itself."""
        upgrade(self.master, self._place)

    def reload(self) -> None:
        """Let go of the other addresses, and take others."""
        before, self._number = self._others, self._number + 1
        port, path = free_port(), self._place / f"{self._number}.sock"
        self._others = [f"tcp=127.0.0.1:{port}", f"unix=unix:{path}"]
        self._write()
        done = overseer(self._place, "reload", "serial")
        assert done.returncode == 0, done.stderr
        if before:
            assert not Path(before[1].removeprefix("unix=unix:")).exists()
            assert bound(int(before[0].rpartition(":")[2]))
        assert path.is_socket()
        assert not bound(port)

    def restart(self) -> None:
        """Send USR2, and wait until the old generation is gone."""
        self.master.restart()

    def kill(self) -> None:
        """Have a worker killed between two requests, and wait for the next one there."""
        after = self.master.now()
        fetch(self._stays, "/die")
        victim = self.master.saw("worker-exited", after=after, expected=False)
        slot = victim["worker"].split("#")[0]
        launches = (f"{slot}#{n}" for n in range(int(victim["worker"].split("#")[1]) + 1, 1000))
        self.master.saw("worker-ready", after=after, worker=next(launches))

    def settle(self) -> None:
        """Be as at the beginning: with one listener."""
        self._others = []
        self._write()
        assert overseer(self._place, "reload", "serial").returncode == 0


@pytest.mark.parametrize("rounds", [4, pytest.param(100, marks=pytest.mark.soak)])
@pytest.mark.timeout(7200)
def test_so_many_of_each(tmp_path: Path, rounds: int) -> None:
    """Nobody at the address that stays fails, the pid stays, and nothing piles up."""
    life = Life(tmp_path)
    deeds: list[Callable[[], None]] = [life.upgrade, life.reload, life.restart, life.kill] * rounds
    random.shuffle(deeds)
    with life.master as master:
        master.ready()
        life.upgrade()
        before, memory = kinds(master.pid), footprint(master)[2]
        with Load(life.port) as load:
            for deed in deeds:
                deed()
            life.settle()
        assert load.failures == [], [deed.__name__ for deed in deeds]
        life.upgrade()
        assert kinds(master.pid) == before
        _, zombies, now = footprint(master)
        assert zombies == 0
        assert now < memory + 4096  # KiB
        assert len(master.all("upgraded")) == rounds + 2
        assert len(master.all("reloaded")) == rounds + 1
        assert master.all("master-error") == []
        assert master.stop() == 0
