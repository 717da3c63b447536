"""Sixteen workers under load: scaled, replaced in batches, exclusively, and when that fails."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from overseer_py import Client
from tests.e2e.commands import TCP, Command, overseer
from tests.load import Load
from tests.master import PATIENCE, PROGRAMS, Fact, Master
from tests.needs import need

SIZE = 16
CLIENTS = 2  # each connection wakes sixteen
LONG = pytest.mark.soak
NO_LONGER_READY = {"worker-quieting", "worker-draining", "worker-exited"}


class Moment(NamedTuple):
    """The workers that there are after a fact, by what the log says."""

    alive: frozenset[str]
    ready: frozenset[str]

    @property
    def generations(self) -> set[str]:
        """Those that have a process."""
        return {worker.partition("/")[0] for worker in self.alive}


def moments(facts: Sequence[Fact]) -> Iterator[Moment]:
    """Yield one for each fact about a worker."""
    alive: set[str] = set()
    ready: set[str] = set()
    for fact in facts:
        worker = fact.get("worker", "")
        match fact.get("event"):
            case "worker-started":
                alive.add(worker)
            case "worker-ready":
                ready.add(worker)
            case "worker-exited":
                alive.discard(worker)
        if fact.get("event") in NO_LONGER_READY:
            ready.discard(worker)
        yield Moment(frozenset(alive), frozenset(ready))


class Sixteen(Master):
    """A master with so many workers of a server that finishes what it has, and nothing more."""

    def __init__(self, tmp_path: Path, *options: str, command: str = "./server") -> None:
        self._directory = tmp_path
        settings = [*TCP, "--name", "app", "--workers", str(SIZE), "--chdir", str(tmp_path)]
        super().__init__(tmp_path, *settings, *options, "--", command)

    def has(self, generation: int, size: int) -> None:
        """Wait until so many workers of this generation are ready, and there are no others."""
        wanted = {f"{generation}/{slot}" for slot in range(size)}

        def have() -> bool:
            *_, last = Moment(frozenset(), frozenset()), *moments(self.facts)
            return last.alive == last.ready and wanted == {w.partition("#")[0] for w in last.alive}

        with self._news:
            came = self._news.wait_for(lambda: have() or self._ended, PATIENCE)
        assert came, f"not {size} of generation {generation}; log:\n{self.transcript()}"
        found = Client(self._directory / "overseer" / "app.sock").status()["workers"]
        assert {f"{w['generation']}/{w['slot']}" for w in found} == wanted
        assert {w["state"] for w in found} == {"ready"}
        children = psutil.Process(self.pid).children()
        assert {child.pid for child in children} == {*self.workers(), self.guard()}
        assert all(child.status() != psutil.STATUS_ZOMBIE for child in children)

    def moments(self, after: int) -> list[Moment]:
        """Return those from this position in the log on."""
        with self._news:
            facts = list(self.facts)
        return list(moments(facts))[max(after - 1, 0) :]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the server: in C, so that sixteen of it start within a moment."""
    server = tmp_path_factory.mktemp("compiled") / "server"
    words = [need("cc"), "-Wall", "-Werror", "-O1", "-o", str(server)]
    subprocess.run([*words, str(PROGRAMS / "server.c")], check=True)
    return server


@pytest.fixture(autouse=True)
def _deployed(tmp_path: Path, compiled: Path) -> None:
    os.link(compiled, tmp_path / "server")


def test_scale(tmp_path: Path) -> None:
    """Up and down, by command: never fewer than asked for, before or after."""
    with Sixteen(tmp_path, "--workers", "1") as master:
        master.has(1, 1)
        with Load(master.port(), CLIENTS) as load:
            size = 1
            for wanted in (SIZE, 5, SIZE, 1):
                after = master.now()
                assert overseer(tmp_path, "scale", "app", str(wanted)).returncode == 0
                master.has(1, wanted)
                load.more()
                seen = master.moments(after)
                assert min(len(moment.ready) for moment in seen) == min(size, wanted)
                assert max(len(moment.alive) for moment in seen) == max(size, wanted)
                size = wanted
        assert load.failures == []
        assert master.stop() == 0


def test_scale_by_signals(tmp_path: Path) -> None:
    """One at a time, until there is one; what comes at once is not taken for one."""
    with Sixteen(tmp_path) as master:
        master.has(1, SIZE)
        with Load(master.port(), CLIENTS) as load:
            for number, step in ((signal.SIGTTIN, 1), (signal.SIGTTOU, -1)):
                for size in (SIZE, SIZE + step, SIZE + 2 * step)[1:]:
                    after = master.now()
                    master.send(number)
                    assert master.saw("scaled", after=after)["workers"] == size
                    master.has(1, size)
                load.more()
                assert overseer(tmp_path, "scale", "app", str(SIZE)).returncode == 0
                master.has(1, SIZE)
        assert load.failures == []
        assert master.stop() == 0


@pytest.mark.parametrize(("surge", "extra"), [("1", 1), ("4", 4), ("16", 16), ("all", 16)])
def test_surge(tmp_path: Path, surge: str, extra: int) -> None:
    """Nobody is lost, never are fewer ready than before, and never more than so many extra."""
    with Sixteen(tmp_path, "--surge", surge) as master:
        master.has(1, SIZE)
        with Load(master.port(), CLIENTS) as load:
            load.more()
            for generation in (2, 3):
                after = master.now()
                assert overseer(tmp_path, "restart", "app").returncode == 0
                master.has(generation, SIZE)
                load.more()
                seen = master.moments(after)
                assert min(len(moment.ready) for moment in seen) == SIZE
                most = max(len(moment.alive) for moment in seen)
                assert most <= SIZE + extra
                assert most > SIZE
                if surge != "all":  # which opens no batch
                    batches = master.all("batch-opened", generation=generation)
                    assert len(batches) >= SIZE // extra - 1
        assert load.failures == []
        assert {body.split()[0] for body in load.bodies} == {"1", "2", "3"}
        assert master.stop() == 0


def test_exclusive(tmp_path: Path) -> None:
    """Connections wait: no two generations have a process at a time, and nobody is lost."""
    with Sixteen(tmp_path, "--surge", "exclusive") as master:
        master.has(1, SIZE)
        with Load(master.port(), CLIENTS) as load:
            for generation in (2, 3):
                after = master.now()
                assert overseer(tmp_path, "restart", "app").returncode == 0
                master.has(generation, SIZE)
                load.more()
                seen = master.moments(after)
                assert max(len(moment.generations) for moment in seen) == 1
                assert max(len(moment.alive) for moment in seen) == SIZE
                assert min(len(moment.alive) for moment in seen) == 0
        assert load.failures == []
        assert master.stop() == 0


SECOND_FAILS = """#!/bin/sh
[ $OVERSEER_GENERATION != 2 ] || [ $OVERSEER_SLOT -lt 6 ] || exit 3
exec ./server
"""


@pytest.mark.parametrize(
    "surge", ["1", "4", pytest.param("16", marks=LONG), pytest.param("exclusive", marks=LONG)]
)
def test_a_batch_that_fails(tmp_path: Path, surge: str) -> None:
    """What had been replaced is given back; only by ``exclusive`` is there nobody meanwhile."""
    (tmp_path / "start").write_text(SECOND_FAILS)
    (tmp_path / "start").chmod(0o755)
    with Sixteen(tmp_path, "--surge", surge, command="./start") as master:
        master.has(1, SIZE)
        with Load(master.port(), CLIENTS) as load:
            after = master.now()
            done = overseer(tmp_path, "restart", "app")
            assert done.returncode == 1
            assert "exited with status 3 before it was ready" in done.stderr
            master.has(1, SIZE)
            load.more()
            seen = master.moments(after)
            if surge == "exclusive":
                assert max(len(moment.generations) for moment in seen) == 1
                assert max(len(moment.alive) for moment in seen) == SIZE
            else:
                assert min(len(moment.ready) for moment in seen) == SIZE
                assert max(len(moment.alive) for moment in seen) <= SIZE + int(surge)
            assert overseer(tmp_path, "restart", "app").returncode == 0
            master.has(3, SIZE)
            load.more()
        assert load.failures == []
        assert master.stop() == 0


@pytest.mark.parametrize(
    ("surge", "wanted"),
    [
        ("4", 24),
        ("4", 6),
        ("all", 24),
        pytest.param("all", 6, marks=LONG),
        pytest.param("1", 24, marks=LONG),
        pytest.param("1", 6, marks=LONG),
        pytest.param("exclusive", 24, marks=LONG),
        pytest.param("exclusive", 6, marks=LONG),
    ],
)
def test_scale_during_a_rollout(tmp_path: Path, surge: str, wanted: int) -> None:
    """Both generations are of the new size from then on; nobody is lost for it."""
    with Sixteen(tmp_path, "--surge", surge, "--settle", "50ms") as master:
        master.has(1, SIZE)
        with Load(master.port(), CLIENTS) as load:
            after = master.now()
            with Command(tmp_path, "restart", "app") as restart:
                master.saw("worker-ready", after=after)  # the first of the new generation
                assert overseer(tmp_path, "scale", "app", str(wanted)).returncode == 0
                assert restart.wait() == 0
            master.has(2, wanted)
            load.more()
            seen = master.moments(after)
            if surge != "exclusive":
                assert min(len(moment.ready) for moment in seen) >= min(SIZE, wanted)
            assert len(master.all("rollout-started")) == 1
        assert load.failures == []
        assert master.stop() == 0
