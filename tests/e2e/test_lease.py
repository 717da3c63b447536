"""Exactly one worker has a lease, over all slots and generations, whatever happens to it."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from overseer_py.worker import draining
from overseer_py.worker.leases import lease
from tests.e2e.test_errands import ASKS, Worker
from tests.master import PATIENCE, ROOT, Master, program
from tests.system.apart import apart


class Job(NamedTuple):
    """One run of the job, as its worker has noted it, in seconds of the machine's clock."""

    pid: int
    begun: float
    ended: float | None  # None if its worker was killed in it


def jobs(notes: Path) -> list[Job]:
    """Return what was done, in the order of its beginnings; each worker notes for itself."""
    found: list[Job] = []
    for line in notes.read_text().splitlines():
        what, pid, at = line.split()
        if what == "begin":
            found.append(Job(int(pid), float(at), None))
        else:
            mine = max(index for index, job in enumerate(found) if job.pid == int(pid))
            found[mine] = found[mine]._replace(ended=float(at))
    return sorted(found, key=lambda job: job.begun)


def saw_job(notes: Path, after: float) -> Job:
    """Wait for a job that began later."""
    give_up_at = time.monotonic() + PATIENCE
    while time.monotonic() < give_up_at:
        if (last := jobs(notes)[-1:]) and last[0].begun > after:
            return last[0]
    raise AssertionError("nobody does the job")


def trouble(restarts: int, kills: int) -> list[str]:
    """Return what is done to the service, in an order that is another one each time."""
    whole = ["restart"] * restarts + ["kill"] * kills
    random.shuffle(whole)
    return whole


@pytest.mark.parametrize(
    ("restarts", "kills"), [(10, 5), pytest.param(50, 20, marks=pytest.mark.soak)]
)
@pytest.mark.timeout(600)
def test_a_job_is_done_by_one_at_a_time(tmp_path: Path, restarts: int, kills: int) -> None:
    """It never overlaps, and never pauses longer than what was done to the service, and a second.

    ``kill`` is for whoever does the job at the time.
    """
    notes = tmp_path / "notes"
    notes.touch()  # a worker is ready before it has got so far
    longest, begun = 0.0, time.monotonic()
    options = ["--workers", "2", "--backoff", "10ms", "--ready", "delay:100ms"]
    with Master(tmp_path, *options, "--", *program("leases", str(notes))) as master:
        master.ready()
        saw_job(notes, begun)
        for what in trouble(restarts, kills):
            longest = max(longest, time.monotonic() - begun)
            begun = time.monotonic()
            holder = saw_job(notes, begun).pid
            if what == "restart":
                master.restart()
            else:
                os.kill(holder, signal.SIGKILL)
            assert saw_job(notes, time.monotonic()).pid != holder
        done = jobs(notes)  # in its stop nobody is there to go on
        longest = max(longest, time.monotonic() - begun)
        assert master.stop() == 0
    unbroken, done = done, jobs(notes)
    assert len({job.pid for job in done}) > (restarts + kills) / 2
    unfinished = [job for job in done if job.ended is None]
    assert len(unfinished) <= kills
    for before, after in pairwise(done):
        # One that was killed held the lease until it was dead, which was after its beginning.
        assert after.begun > (before.ended or before.begun), (before, after)
    assert max(b.begun - a.begun for a, b in pairwise(unbroken)) < longest + 1


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    """Give a master with two workers that can be told what to do."""
    options = ["--workers", "2", "--env", f"PLACE={tmp_path}", "--ready", "notify"]
    with Master(tmp_path, "--listen", "127.0.0.1:0", *options, "--", *ASKS) as master:
        yield master.ready()
        assert master.stop() == 0


def test_who_has_it_can_be_asked_for(master: Master, tmp_path: Path) -> None:
    """By everybody; with a time-out, who waits gives up; a name of another lease is free."""
    worker = Worker(master, tmp_path)
    first, second = (fact["pid"] for fact in master.all("worker-started"))
    assert worker.told("lease('a').holder()") == "None"
    worker.told("leases.append(lease('a'))")
    assert worker.told("leases[0].acquire(), leases[0].held") == "(True, True)"
    assert worker.told("lease('a').holder()") == str(first)
    assert worker.told("lease('a').holder()", 1, 1) == str(first)
    assert worker.told("lease('a').acquire(0.01)", 1, 1) == "False"
    assert worker.told("lease('a').acquire(0)") == "False"  # nor in the same process
    assert worker.told("lease('b').acquire(), lease('b').holder()", 1, 1) == f"(True, {second})"
    worker.told("begin(lambda: lease('a').acquire())", 1, 1)
    worker.told("leases[0].release()")
    assert worker.told("ended()", 1, 1) == "True"
    assert worker.told("leases[0].held, lease('a').holder()") == f"(False, {second})"


def test_a_child_of_the_holder_has_it_not(master: Master, tmp_path: Path) -> None:
    """It is the process's own, not what it forks: as a pre-forking server does."""
    worker = Worker(master, tmp_path)
    assert worker.told("leases.append(lease('a')), leases[0].acquire()") == "(None, True)"
    assert (
        worker.told("forked(lambda: (leases[0].held, lease('a').acquire(0)))") == "(False, False)"
    )
    assert worker.told("leases[0].held") == "True"


def test_two_that_want_what_the_other_has(master: Master, tmp_path: Path) -> None:
    """The kernel would call it a deadlock, since it knows no threads: it is none."""
    worker = Worker(master, tmp_path)
    for slot, has in enumerate("ab"):
        worker.told(f"leases.append(lease({has!r})), leases[0].acquire()", 1, slot)
    for slot, wants in enumerate("ba"):
        worker.told(f"begin(lambda: lease({wants!r}).acquire(60))", 1, slot)
    assert worker.told("lease('b').holder()") == str(master.all("worker-started")[1]["pid"])
    worker.told("leases[0].release()")
    assert worker.told("ended()", 1, 1) == "True"
    worker.told("leases[0].release()", 1, 1)
    assert worker.told("ended()") == "True"


def test_a_program_that_closes_everything(master: Master, tmp_path: Path) -> None:
    """It has lost the lease with its descriptors, knows it, and can have another one."""
    worker = Worker(master, tmp_path)
    worker.told("leases.append(lease('a')), leases[0].acquire()")
    worker.told("os.close(__import__('overseer_py.worker.leases').worker.leases._mine.file)")
    assert worker.told("leases[0].held") == "False"
    worker.told("leases[0].release()")
    assert worker.told("lease('b').acquire(0)") == "True"


def test_in_asyncio(master: Master, tmp_path: Path) -> None:
    """Waiting for it does not hold up the loop."""
    worker = Worker(master, tmp_path)
    worker.told("leases.append(lease('a')), leases[0].acquire()")
    worker.told("begin(lambda: asyncio.run(within(lease('a'))))", 1, 1)
    worker.told("leases[0].release()")
    assert worker.told("ended()", 1, 1) == "True"
    assert worker.told("lease('a').holder()") == "None"


def test_without_a_master(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process alone has every lease, and only once."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("OVERSEER_PID", raising=False)
    with lease("alone") as mine:
        assert (mine.held, mine.holder()) == (True, os.getpid())
        assert not lease("alone").acquire(0)
    assert mine.holder() is None
    assert next(lease("alone").every(60)) is None


def test_none_in_a_drain() -> None:
    """Who drains takes none up, though nobody else wants it."""

    def run() -> bool:
        draining.begin()
        return lease("free").acquire(0)

    assert apart(run) is False


def test_the_example(tmp_path: Path) -> None:
    """APScheduler's jobs run in one of four workers, and go on in the next generation."""
    pytest.importorskip("apscheduler")
    example = [sys.executable, str(ROOT / "examples" / "scheduler.py")]
    options = ["--capture", "--workers", "4", "--env", "EVERY=0.1", "--ready", "delay:1s"]
    with Master(tmp_path, *options, "--", *example) as master:
        master.ready()
        _reported_by_one(master, generation=1)
        master.restart()
        after = master.now()
        _reported_by_one(master, generation=2)
        assert not [f for f in master.facts[after:] if f.get("generation") == 1]
        assert master.stop() == 0


def _reported_by_one(master: Master, generation: int) -> None:
    """Wait for some reports; in the end of a generation another one may have had a turn."""
    after, slots = 0, set()
    for _ in range(5):
        fact = master.saw("worker-output", after=after, stream="stdout", generation=generation)
        assert fact["line"].partition(" ")[2][:9] == "reporting"
        slots.add(fact["slot"])
        after = 1 + next(index for index, f in enumerate(master.facts) if f is fact)
    assert len(slots) == 1
