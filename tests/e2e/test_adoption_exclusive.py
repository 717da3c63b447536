"""Programs that must not run twice, unchanged: the old one goes first, while connections wait."""

from __future__ import annotations

import shutil
import signal
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.e2e.handovers import CLIENTS, check_exclusion, check_stop, hand_over
from tests.load import Load, fetch, free_port
from tests.master import PATIENCE, Master, program
from tests.needs import need

LONG = [pytest.mark.soak, pytest.mark.timeout(600)]
RESTARTS = pytest.mark.parametrize("restarts", [3, pytest.param(20, marks=LONG)])


class Counters:
    """Clients that increment a number in redis, and know how often they were told so."""

    def __init__(self, port: int, clients: int = CLIENTS) -> None:
        self.failures: list[str] = []
        self.acknowledged = 0
        self._port = port
        self._stop = threading.Event()
        self._news = threading.Condition()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def more(self, count: int = 40) -> None:
        """Wait until so many more increments are acknowledged."""
        with self._news:
            wanted = self.acknowledged + count
            assert self._news.wait_for(lambda: self.acknowledged >= wanted, PATIENCE)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                said = ask(self._port, "INCR hits")
            except OSError as error:
                said = repr(error)
            with self._news:
                if said.startswith(":"):
                    self.acknowledged += 1
                else:
                    self.failures.append(said)
                self._news.notify_all()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)


def ask(port: int, command: str) -> str:
    """Return the first line that redis answers."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(f"{command}\r\n".encode())
        with connection.makefile("rb") as lines:
            return lines.readline().decode().strip()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[tuple[Master, int]]:
    """Give a redis that keeps what it has in a file, and its port."""
    port = free_port()
    where = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(tmp_path)]
    command = [need("redis-server"), *where, "--save", "3600 1", "--loglevel", "warning"]
    options = ["--adopt", f"127.0.0.1:{port}", "--surge", "exclusive"]
    with Master(tmp_path, *options, "--", *command) as master:
        yield master.ready(), port


@RESTARTS
def test_redis(redis: tuple[Master, int], restarts: int) -> None:
    """Every increment that was acknowledged is there, and no client is refused."""
    master, port = redis
    with Counters(port) as counters:
        for number in range(restarts):
            counters.more()
            master.restart()
            assert len(master.all("bound")) == number + 2
        counters.more()
    assert counters.failures == []
    assert ask(port, "INCR hits") == f":{counters.acknowledged + 1}"
    check_stop(master)


@RESTARTS
def test_a_database_in_a_file(tmp_path: Path, restarts: int) -> None:
    """A server that keeps its database locked for itself alone: nobody finds it locked."""
    port = free_port()
    options = ["--adopt", f"127.0.0.1:{port}", "--surge", "exclusive", "--chdir", str(tmp_path)]
    with Master(tmp_path, *options, "--", *program("keeps_a_database", str(port))) as master:
        master.ready()
        with Load(port, CLIENTS) as load:
            handovers = hand_over(master, load, restarts)
        assert load.failures == []
        check_exclusion(master, handovers)
        acknowledged = len(load.answers)
        fetch(port)
        check_stop(master)
    with closing(sqlite3.connect(tmp_path / "hits.db")) as database:
        assert database.execute("SELECT count(*) FROM hits").fetchone() == (acknowledged + 1,)


def test_a_failed_version_gives_the_old_one_back(tmp_path: Path) -> None:
    """Those who waited for a version that fails are served by the old one, started again."""
    port = free_port()
    working, server = tmp_path / "server.py", program("keeps_a_database")[1]
    shutil.copy(server, working)
    options = ["--adopt", f"127.0.0.1:{port}", "--surge", "exclusive", "--chdir", str(tmp_path)]
    python = program("keeps_a_database")[0]
    with Master(tmp_path, *options, "--", python, str(working), str(port)) as master:
        master.ready()
        with Load(port, CLIENTS) as load:
            load.more()
            (tmp_path / "broken").touch()
            master.send(signal.SIGUSR2)
            master.saw("rollout-rolled-back")
            (tmp_path / "broken").unlink()
            load.more()
        assert load.failures == []
        check_stop(master)
