"""Updaters and masters that die, disks that are full, readers that are not trusted, and memory."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.e2e.containers import until
from tests.e2e.shops import Service, Shop, digest, hurry, plug_in, release, uss
from tests.master import PATIENCE
from tests.needs import cannot
from tests.release.servers import Exchange
from tests.space import fill, tmpfs

ONE, TWO, THREE = release("one"), release("two"), release("three")
GROWTH = 2 << 20  # bytes


pytestmark = pytest.mark.usefixtures("here")


def test_an_updater_that_is_killed_at_any_time(tmp_path: Path, shop: Shop) -> None:
    """Twenty times, while releases come: users are served, and the path is always one of them."""
    chance = random.Random(5)
    with Service(tmp_path, shop.url, env=hurry(tmp_path)) as service:
        service.crowd()
        service.committed(ONE)
        published = {digest(ONE)}
        for number in range(20):
            after = service.master.now()
            published.add(digest(shop.offer(release(f"number-{number}"))))
            pid = service.updater()
            threading.Event().wait(chance.uniform(0.0, 0.6))  # any time is right
            psutil.Process(pid).kill()
            service.master.saw("updater-exited", after=after)
            assert digest(service.path.read_bytes()) in published
            assert service.says_still().partition("-")[0] in ("one", "number")
            service.master.saw("updater-started", after=after)
        last = shop.offer(release("last"))
        service.committed(last)
        assert (service.says(), service.path.read_bytes()) == ("last", last)
        assert service.status()["held"] == []
        beside = f"{service.path}.releases"
        until(lambda: not [name for name in os.listdir(beside) if name.startswith(".")])
        service.served_all()


def test_a_master_that_is_killed_during_a_rollout(tmp_path: Path, shop: Shop) -> None:
    """The next one starts the previous release, and then gets the new one again."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with Service(tmp_path, shop.url) as service:
        service.master.ready()
        service.committed(ONE)
        new = shop.offer(release("two", before=f"open({str(gate)!r}).read()"))
        service.master.saw("rollout-started")
        service.master.saw("worker-started", worker="2/0#1")
        assert service.path.read_bytes() == new
        service.master.process.kill()
        service.master.wait()

        master = service.start()
        master.saw("release-restored", release=digest(ONE))
        master.ready()
        assert service.says_still() == "one"
        service.crowd()
        master.saw("rollout-started", generation=2)
        os.close(os.open(gate, os.O_WRONLY))  # once it has opened it, fifo(7)
        service.committed(new)
        assert service.says() == "two"
        service.served_all()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 600 KiB."""
    with tmpfs(tmp_path / "small", "size=600k") as place:
        yield place


def test_a_disk_that_is_full(tmp_path: Path, small: Path, shop: Shop) -> None:
    """Nothing changes and it says why; once there is room the release is installed."""
    with Service(tmp_path, shop.url, to="small/srv/app.py", interval="10m") as service:
        service.crowd()
        service.committed(ONE)
        filler = small / "filler"
        for room in (0, 4096, 16384, 65536, 131072):
            fill(filler)
            os.truncate(filler, filler.stat().st_size - room)
            shop.offer(TWO + b"#" * 150_000)
            service.refused("No space left on device", "fetch-failed")
        filler.unlink()
        assert service.client.fetch()["outcome"] == "committed"
        assert service.master.saw("fetch-recovered")
        assert service.says() == "two"
        service.served_all()


# -- who reads the source -------------------------------------------------------------------------


@pytest.fixture
def nobody() -> str:
    """Return the user whom readers are to be."""
    if os.geteuid() != 0:
        cannot("only root can be another user")
    return "nobody"


def readers(service: Service) -> list[psutil.Process]:
    """Return the processes that read the source now."""
    found = []
    for process in psutil.Process(service.updater()).children():
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if "overseer_py.release.reader" in process.cmdline():
                found.append(process)
    return found


def test_a_reader_that_is_nobody(tmp_path: Path, nobody: str, shop: Shop) -> None:
    """Another user, without a way to become more, who has one file open to write to."""
    options = ("--fetch-user", nobody, "--max-size", "1MiB")
    there, go_on = threading.Event(), threading.Event()

    def slowly(to: Exchange) -> None:
        to.head(200, {"Content-Length": str(len(TWO))})
        to.wfile.write(TWO[:100])
        there.set()
        go_on.wait(PATIENCE)
        to.wfile.write(TWO[100:])

    with Service(tmp_path, shop.url, *options) as service:
        service.crowd()
        service.committed(ONE)
        assert service.path.stat().st_uid == 0
        looks = shop.looks
        shop.answer(slowly)
        there.wait(PATIENCE)
        while shop.looks < looks + 2:  # the download, after the look
            os.sched_yield()
        (process,) = until(lambda: readers(service))
        (wanted,) = until(lambda: _written(process.pid))  # it may not have got it yet
        assert "artifact" in wanted
        status = Path(f"/proc/{process.pid}/status").read_text()
        lines = dict(line.split(":", 1) for line in status.splitlines())
        assert {*lines["Uid"].split()} == {"65534"}
        assert lines["NoNewPrivs"].strip() == "1"
        assert int(lines["CapPrm"], 16) == 0
        assert "0" not in lines["Groups"].split()
        limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
        (limit,) = (line.split() for line in limits if line.startswith("Max file size"))
        assert limit[3:5] == [str((1 << 20) + 1)] * 2
        go_on.set()
        service.committed(TWO)
        assert service.says() == "two"
        service.served_all()


def _written(pid: int) -> list[str]:
    """Return the regular files that a process can write to."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            path = os.readlink(f"/proc/{pid}/fd/{fd}")
            flags = Path(f"/proc/{pid}/fdinfo/{fd}").read_text().split("flags:\t")[1].split()[0]
        except FileNotFoundError:  # it has closed it meanwhile
            continue
        if path.startswith("/") and not path.startswith("/dev/") and int(flags, 8) & 3:
            found.append(path)
    return found


_EVIL = """
import os
from overseer_py.release.candidate import Candidate

class Source:
    interval = 1.0

    def __init__(self, url, limits, environ):
        self._path = url.partition(":")[2]

    def look(self, known):
        for path in (self._path, os.path.dirname(self._path) + "/evil", "/etc/evil"):
            try:
                open(path, "w")
            except PermissionError:
                continue
            return Candidate("wrote", "x")
        try:
            os.setuid(0)
        except PermissionError:
            return Candidate("harmless-" + str(os.getuid()), "x")

    def download(self, candidate, into):
        into.write(bytes(1 << 24))
        into.flush()
"""


def test_a_reader_that_is_evil(tmp_path: Path, nobody: str) -> None:
    """What it can do as that user is nothing to the service, and it fills no disk."""
    app = tmp_path / "srv" / "app.py"
    app.parent.mkdir()
    app.write_bytes(ONE)
    env = plug_in(tmp_path, _EVIL)
    options = ("--fetch-user", nobody, "--max-size", "1MiB")
    with Service(tmp_path, f"ours:{app}", *options, env=env, interval="10m") as service:
        service.crowd()
        service.master.saw("fetch-failed")
        service.refused("File too large|more than", "fetch-failed")
        assert app.read_bytes() == ONE
        assert os.listdir(f"{app}.releases") == []


# -- memory ---------------------------------------------------------------------------------------


def _looks_cost_nothing(tmp_path: Path, url: str, looks: int) -> None:
    with Service(tmp_path, url, interval="2s") as service:
        service.committed(ONE)
        pids = (service.master.pid, service.updater())
        for _ in range(50):
            service.client.fetch(PATIENCE)
        before = [uss(pid) for pid in pids]
        for _ in range(looks):
            assert "nothing new" in service.client.fetch()["found"]
        grown = [uss(pid) - was for pid, was in zip(pids, before, strict=True)]
        assert max(grown) < GROWTH, f"master and updater have grown by {grown} bytes"
        assert service.updater() == pids[1]


@pytest.mark.parametrize("kind", ["file", "http"])
def test_looks_cost_no_memory(tmp_path: Path, shop: Shop, kind: str) -> None:
    """Neither the updater's nor the master's: a hundred."""
    source = tmp_path / "app.py"
    source.write_bytes(ONE)
    _looks_cost_nothing(tmp_path, shop.url if kind == "http" else f"file:{source}", 100)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["file", "http"])
def test_many_looks_cost_no_memory(tmp_path: Path, shop: Shop, kind: str) -> None:
    """Neither the updater's nor the master's: a thousand."""
    source = tmp_path / "app.py"
    source.write_bytes(ONE)
    _looks_cost_nothing(tmp_path, shop.url if kind == "http" else f"file:{source}", 1000)
