"""Real servers under load over restarts: clients that keep their connection, and never repeat.

Without the library every one of them loses requests, as benchmarks/draining.py shows.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.load import Load
from tests.needs import cannot
from tests.worker.keepalive import KeepAlive
from tests.worker.servers import PAIRS, Pair, named, running

RESTARTS = 5
THINK = {"2 ms": 0.002, "300 ms": 0.3}

SHARED = ["uvicorn", "hypercorn -w 0", "gunicorn gthread", "asyncio streams", "http.server"]
thoughts = pytest.mark.parametrize("think", THINK.values(), ids=THINK)


def restart_under_load(
    command: list[str], tmp_path: Path, think: float, *options: str, path: str = ""
) -> KeepAlive:
    """Restart some times while clients ask; return how they fared."""
    with running(command, tmp_path, *options) as master:
        place = path or master.port()
        with KeepAlive(place, think) as load:
            for _ in range(RESTARTS):
                load.more(2 * load.clients)
                master.restart()
            load.more(2 * load.clients)
        generations = {int(answer.split()[0]) for answer in load.answers}
        assert generations == set(range(1, RESTARTS + 2))
        assert master.stop() == 0
        assert master.all("drain-timed-out") == []
        assert not [line for line in master.stderr if "Traceback" in line]
    return load


@thoughts
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_nothing_is_lost(tmp_path: Path, pair: Pair, think: float) -> None:
    """Each client is told that its connection ends, and goes; none finds it closed."""
    if pair.missing:
        cannot(pair.missing)
    load = restart_under_load(pair.polite, tmp_path, think)
    assert load.lost == []
    if pair.keeps:
        assert load.kept > load.told
        assert load.told >= RESTARTS * load.clients or load.late


@pytest.mark.parametrize("name", ["uvicorn", "waitress", "http.server"])
def test_what_is_lost_without(tmp_path: Path, name: str) -> None:
    """The same clients, and the same server without the library: so they can lose something."""
    pair = named(name)
    if pair.missing:
        cannot(pair.missing)
    assert len(restart_under_load(pair.plain, tmp_path, 0.002).lost) >= RESTARTS


@pytest.mark.parametrize("name", ["uvicorn", "gunicorn gthread", "asyncio streams", "http.server"])
def test_a_unix_socket(tmp_path: Path, name: str) -> None:
    """As a proxy in front of the service has it: kept-alive connections, all of them."""
    pair, path = named(name), str(tmp_path / "app.sock")
    if pair.missing:
        cannot(pair.missing)
    load = restart_under_load(pair.polite, tmp_path, 0.002, "--listen", f"unix:{path}", path=path)
    assert load.lost == []


@pytest.mark.parametrize("name", SHARED)
def test_one_socket_for_all(tmp_path: Path, name: str) -> None:
    """The signal comes while requests do; what is kept alive is not lost then either."""
    pair = named(name)
    if pair.missing:
        cannot(pair.missing)
    load = restart_under_load(pair.polite, tmp_path, 0.002, "--handover", "shared")
    assert load.lost == []


def test_gunicorn_preloads(tmp_path: Path) -> None:
    """The middleware is made before gunicorn's workers are forked and have their own handler."""
    pair = named("gunicorn UvicornWorker")
    if pair.missing:
        cannot(pair.missing)
    load = restart_under_load([*pair.polite, "--preload"], tmp_path, 0.002)
    assert load.lost == []
    assert load.told >= RESTARTS * load.clients or load.late


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn -w 0"])
def test_new_connections_to_one_socket_for_all(tmp_path: Path, name: str) -> None:
    """A server that closes what it has accepted and not read has nothing of the kind by then."""
    pair = named(name)
    if pair.missing:
        cannot(pair.missing)
    with running(pair.polite, tmp_path, "--handover", "shared") as master:
        with Load(master.port(), clients=8) as load:
            for _ in range(RESTARTS):
                load.more(40)
                master.restart()
        assert load.failures == []
        assert master.stop() == 0
