"""Real servers as workers, restarted under load: every one of them, as it is, loses nothing.

Here each restarts a few times; ``pytest -m soak`` does it 20 times.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.handovers import (
    CLIENTS,
    check_answers,
    check_losses,
    check_order,
    check_stop,
    check_unseen,
    hand_over,
)
from tests.e2e.servers import (
    QUICK,
    SLOW,
    UPLOADS,
    Demand,
    Server,
    asked_for,
    asking,
    named,
    running,
)
from tests.needs import cannot

# How soon a worker is quiet is the machine's business; that it is, is ours.
PATIENT = ["--quiet-timeout", "30s"]
LONG = [pytest.mark.soak, pytest.mark.timeout(600)]


def restarts(few: int) -> pytest.MarkDecorator:
    """Run a test with a few restarts, and with 20 if it may take long."""
    return pytest.mark.parametrize("restarts", [few, pytest.param(20, marks=LONG)])


def loses_nothing(tmp_path: Path, server: Server, demand: Demand, restarts: int) -> None:
    """Restart the server so many times, steered, and see that every request was answered."""
    if server.missing:
        cannot(server.missing)
    with running(server, tmp_path, *PATIENT) as master:
        assert master.saw("listening")["handover"] == "steered"
        with asking(master, demand, CLIENTS) as load:
            handovers = hand_over(master, load, restarts, demand.between)
        assert load.failures == []
        check_answers(master, load, handovers)
        check_unseen(master, load, handovers)
        check_order(master, handovers)
        assert master.all("quiet-timed-out") == []
        assert not demand.size or {body.split()[1] for body in load.bodies} == {str(demand.size)}
        check_stop(master)


@restarts(4)
@pytest.mark.parametrize("server", asked_for(QUICK), ids=lambda server: server.name)
def test_quick_answers(tmp_path: Path, server: Server, restarts: int) -> None:
    """A server that knows nothing of overseer loses no request, whatever it does at TERM."""
    loses_nothing(tmp_path, server, QUICK, restarts)


@restarts(2)
@pytest.mark.parametrize("server", asked_for(SLOW), ids=lambda server: server.name)
def test_slow_answers(tmp_path: Path, server: Server, restarts: int) -> None:
    """An answer that takes long is given by whoever has read the request."""
    loses_nothing(tmp_path, server, SLOW, restarts)


@restarts(2)
@pytest.mark.parametrize("server", asked_for(UPLOADS), ids=lambda server: server.name)
def test_uploads(tmp_path: Path, server: Server, restarts: int) -> None:
    """An upload is read to its end by whoever has begun to."""
    loses_nothing(tmp_path, server, UPLOADS, restarts)


@restarts(4)
@pytest.mark.parametrize("name", ["hello.py", "gunicorn sync", "uvicorn"])
def test_shared(tmp_path: Path, name: str, restarts: int) -> None:
    """From a shared socket only that is lost which a server at TERM has accepted and not read."""
    server = named(name)
    if server.missing:
        cannot(server.missing)
    with running(server, tmp_path, "--handover", "shared") as master:
        assert master.saw("listening")["handover"] == "shared"
        with asking(master, QUICK, CLIENTS) as load:
            handovers = hand_over(master, load, restarts)
        check_losses(load, handovers, server.losers)
        check_answers(master, load, handovers)
        check_order(master, handovers)
        check_stop(master)
