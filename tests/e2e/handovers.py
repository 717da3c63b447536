"""Restarts under load, and what must be true of them: who answered when, and what was lost."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

from tests.load import Answer, Load
from tests.master import Fact, Master

CLIENTS = 4
BETWEEN = 40  # requests between two restarts: more than are under way at once

# How a connection ends that was accepted and closed without an answer.  Refused, timed out, half
# an answer or an error's status are something else.
UNANSWERED = ("ConnectionResetError", "BrokenPipeError", "ConnectionError: answered with b''")


@dataclass(frozen=True)
class Handover:
    """One restart as the test saw it, in monotonic time."""

    new: int  # generation
    asked: float  # not later than the request for it
    committed: float  # not later than its commit
    gone: float  # not earlier than the end of the old generation's last process


def hand_over(master: Master, load: Load, times: int = 5, between: int = BETWEEN) -> list[Handover]:
    """Restart so many times, with requests answered before and after each."""
    handovers = []
    for _ in range(times):
        load.more(between)
        asked = time.monotonic()
        fact = master.restart()
        committed = asked + fact["took"] - 0.001  # it is rounded, and counts from later than asked
        handovers.append(Handover(fact["generation"], asked, committed, time.monotonic()))
    load.more(between)
    return handovers


def check_answers(master: Master, load: Load, handovers: list[Handover]) -> None:
    """Nobody answered before it was asked for or after it was gone, and everybody answered.

    With one socket for all generations a new worker answers from the moment that it accepts, a
    little before the master sees it ready: so the test's own request for it is the bound.
    """
    answers = _with_generations(master, load)
    for handover in handovers:
        early = [a for a, by in answers if by >= handover.new and a.ended < handover.asked]
        late = [a for a, by in answers if by < handover.new and a.begun > handover.gone]
        assert early == []
        assert late == []
    assert {by for _, by in answers} >= {1, *(handover.new for handover in handovers)}


def check_unseen(master: Master, load: Load, handovers: list[Handover]) -> None:
    """Nobody met a new generation before it was committed: steered, and not exclusive."""
    answers = _with_generations(master, load)
    for handover in handovers:
        assert [a for a, by in answers if by >= handover.new and a.ended < handover.committed] == []


def check_order(master: Master, handovers: list[Handover]) -> None:
    """No old worker was told to drain before every new one was ready."""
    for handover in handovers:
        ready = _positions(master, "worker-ready", handover.new)
        draining = _positions(master, "worker-draining", handover.new - 1)
        assert max(ready) < min(draining), master.transcript()


def check_exclusion(master: Master, handovers: list[Handover]) -> None:
    """No new worker was started before every old one had exited."""
    for handover in handovers:
        exited = _positions(master, "worker-exited", handover.new - 1)
        started = _positions(master, "worker-started", handover.new)
        assert max(exited) < min(started), master.transcript()


def most_alive(master: Master) -> int:
    """Return how many workers were alive at once, at most."""
    alive = most = 0
    for fact in master.facts:
        alive += (fact["event"] == "worker-started") - (fact["event"] == "worker-exited")
        most = max(most, alive)
    return most


def check_losses(load: Load, handovers: list[Handover], processes: int) -> None:
    """Nothing was lost but, in a restart, one request of each client by each old process."""
    assert [f for f in load.failures if not f.failure.startswith(UNANSWERED)] == []
    for handover in handovers:
        lost = [f for f in load.failures if _during(f, handover)]
        assert len(lost) <= CLIENTS * processes
    assert [f for f in load.failures if not any(_during(f, h) for h in handovers)] == []


def check_killed(load: Load) -> None:
    """Nothing was lost but, as one worker was killed, one request of each client."""
    assert [f for f in load.failures if not f.failure.startswith(UNANSWERED)] == []
    assert len(load.failures) <= CLIENTS


def check_stop(master: Master) -> None:
    """See that the master is the process it was, that its stop exits with 0 and leaves nothing."""
    assert master.process.poll() is None
    assert {psutil.Process(pid).ppid() for pid in master.workers()} == {master.pid}
    family = psutil.Process(master.pid).children(recursive=True)
    assert master.stop() == 0
    assert master.all("drain-timed-out") == []
    assert master.all("master-error") == []
    assert [process for process in family if runs(process)] == []


def runs(process: psutil.Process) -> bool:
    """Whether a process is there, other than as a zombie that init has not collected yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _during(answer: Answer, handover: Handover) -> bool:
    return answer.ended >= handover.asked and answer.begun <= handover.gone


def _with_generations(master: Master, load: Load) -> list[tuple[Answer, int]]:
    """Return who gave each answer: by its own word (``GENERATION PID``), else by its pid."""
    started = {fact["pid"]: _generation(fact) for fact in master.all("worker-started")}
    answers = []
    for answer in list(load.answers):
        if not answer.failure:
            first, *_, pid = answer.body.split()
            answers.append((answer, int(first) if first.isdigit() else started[int(pid)]))
    return answers


def _generation(fact: Fact) -> int:
    return int(fact["worker"].partition("/")[0])


def _positions(master: Master, event: str, generation: int) -> list[int]:
    """Return where in the log such facts of a generation's workers stand."""
    return [
        index
        for index, fact in enumerate(master.facts)
        if fact["event"] == event and _generation(fact) == generation
    ]
