"""Clients that are far away: to connect takes them longer than a restart needs."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from tests.e2e.distance import SERVER, Distance
from tests.e2e.handovers import Handover, check_answers, check_order, check_stop, hand_over
from tests.load import Answer
from tests.master import Master, program

ROUND_TRIP = 0.12
CLIENTS = 20


@pytest.mark.parametrize(("longest", "restarts"), [("0", 15), ("0.5", 5)])
def test_half_open_handshakes(tmp_path: Path, longest: str, restarts: int) -> None:
    """A handshake that the cut-over meets half open ends at the old worker, which waits for it.

    The worker dies at TERM with whatever it has.  When it answers at once, it has nothing to do
    most of the time; when it takes up to ``longest`` seconds, it is never without a request.
    """
    worker = program("abrupt", longest)
    with (
        Distance(ROUND_TRIP) as distance,
        Master(tmp_path, "-l", f"{SERVER}:0", "--", *worker, wrapper=distance.server) as master,
    ):
        master.ready()
        with distance.load(master.port(), CLIENTS) as load:
            handovers = hand_over(master, load, restarts)
        assert load.failures == []
        assert master.all("quiet-timed-out") == []
        check_answers(master, load, handovers)
        check_order(master, handovers)
        # They were as far away as they should be: a round trip to connect, and one to be answered.
        assert median(answer.took for answer in load.answers) >= 2 * ROUND_TRIP
        assert sum(len(half_open(load.answers, h)) for h in handovers) >= restarts
        check_stop(master)


def half_open(answers: list[Answer], handover: Handover) -> list[Answer]:
    """Return the requests whose handshake was half done, as the server saw it, at the cut-over."""
    earliest, latest = (handover.committed - way * ROUND_TRIP for way in (1.5, 0.5))
    return [answer for answer in answers if earliest < answer.begun < latest]
