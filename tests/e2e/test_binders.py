"""Real servers that bind for themselves, restarted under load: every one loses nothing.

Here each restarts a few times; ``pytest -m soak`` does it 20 times.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.binders import BINDERS, Binder, binding
from tests.e2e.handovers import (
    CLIENTS,
    check_answers,
    check_order,
    check_stop,
    check_unseen,
    hand_over,
)
from tests.load import Load
from tests.needs import cannot

LONG = [pytest.mark.soak, pytest.mark.timeout(600)]


SHORT = [(server, 2) for server in BINDERS if not server.soak]
SOAK = [pytest.param(server, 20, marks=LONG) for server in BINDERS]


@pytest.mark.parametrize(("server", "restarts"), [*SHORT, *SOAK], ids=str)
def test_nothing_is_lost(tmp_path: Path, server: Binder, restarts: int) -> None:
    """A program that has never heard of socket passing is restarted, and every request answered."""
    if server.missing:
        cannot(server.missing)
    with binding(server, tmp_path) as (master, port):
        assert {f["handover"] for f in master.all("listening", adopted="yes")} == {"steered"}
        how = {"joined"} if server.name == "C, epoll first" else {"replaced"}
        assert {fact["how"] for fact in master.all("bound")} == how
        with Load(port, CLIENTS) as load:
            handovers = hand_over(master, load, restarts)
        assert load.failures == []
        check_answers(master, load, handovers)
        check_unseen(master, load, handovers)
        check_order(master, handovers)
        assert master.all("quiet-timed-out") == []
        check_stop(master)
