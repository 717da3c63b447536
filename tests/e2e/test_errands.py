"""What workers ask of their master: a rollout, and a place for what another worker is to have."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import TCP
from tests.e2e.containers import until
from tests.master import PROGRAMS, Master, program

ASKS = program("asks")


class Worker:
    """One that does what it is told, by a FIFO, and says what came of it on stderr."""

    def __init__(self, master: Master, place: Path) -> None:
        self._master = master
        self._place = place
        self._told = 0

    def told(self, line: str, generation: int = 1, slot: int = 0) -> str:
        """Tell a worker a line of Python; return what it evaluates to."""
        self._told += 1
        number = self._told
        with open(self._place / f"{generation}-{slot}", "w") as fifo:
            fifo.write(f"{number} {line}\n")
        return self._master.saw_line(f"answer {number}: ").partition(": ")[2]


def open_in(master: Master) -> int:
    """Return how many descriptors the master keeps: some are open for a moment only."""
    return min(len(os.listdir(f"/proc/{master.pid}/fd")) for _ in range(20))


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    """Give a master with two workers that can be told what to do."""
    options = ["--workers", "2", "--env", f"PLACE={tmp_path}", "--ready", "notify"]
    with Master(tmp_path, *TCP, *options, "--", *ASKS) as master:
        yield master.ready()
        assert master.stop() == 0


@pytest.fixture
def worker(master: Master, tmp_path: Path) -> Worker:
    """Give its workers."""
    return Worker(master, tmp_path)


def test_data_goes_from_one_worker_to_the_next_generation(master: Master, worker: Worker) -> None:
    """Under a name, once, the oldest first; none is an answer, too."""
    assert worker.told("take('cache')") == "None"
    assert worker.told("store('cache', b'warm'), store('cache', b'warmer')") == "(True, True)"
    master.restart()
    assert worker.told("take('cache')", 2) == "b'warm'"
    assert worker.told("take('cache')", 2, 1) == "b'warmer'"
    assert worker.told("take('cache')", 2) == "None"
    assert worker.told("store('empty', b''), take('empty')", 2) == "(True, b'')"


def test_a_connection_lives_on_in_the_next_generation(master: Master, worker: Worker) -> None:
    """The client sees one connection, and two workers one after the other."""
    with socket.create_connection(("127.0.0.1", master.port())) as client:
        client.settimeout(60)
        worker.told("accept()")
        worker.told("store('websocket', connections.pop())")
        master.restart()
        worker.told("connections.append(socket.socket(fileno=take('websocket')))", 2)
        worker.told("connections[0].sendall(b'generation 2')", 2)
        assert client.recv(100) == b"generation 2"
        worker.told("connections.pop().close()", 2)
        assert client.recv(100) == b""


def test_one_can_wait_for_the_other(worker: Worker) -> None:
    """What is left goes to whoever waits for it; who has given up gets nothing, nor loses it."""
    assert worker.told("take('late', 0.01)") == "None"
    worker.told("begin(lambda: take('late', None))", 1, 1)
    worker.told("store('late', b'now')")
    assert worker.told("ended()", 1, 1) == "b'now'"
    assert worker.told("store('late', b'again'), take('late', 60)") == "(True, b'again')"


def test_those_who_wait_are_not_pushed_out(master: Master, worker: Worker) -> None:
    """Who finds 64 waiting is sent away; what is at hand is given out all the same."""
    before = open_in(master)
    worker.told("[begin(lambda: take('late', 60)) for _ in range(64)]")
    until(lambda: open_in(master) >= before + 64)
    assert worker.told("take('late', 60)", 1, 1) == "None"
    assert worker.told("store('other', b'x'), take('other')", 1, 1) == "(True, b'x')"
    worker.told("[store('late', b'now') for _ in range(64)]", 1, 1)
    assert worker.told("{ended() for _ in range(64)}") == "{b'now'}"


def test_what_nobody_takes_is_let_go(master: Master, worker: Worker) -> None:
    """Once the generation after the one that it was meant for has begun."""
    before = open_in(master)
    worker.told("store('left', listener), store('beside', b'')")
    master.restart()
    worker.told("store('mine', b'')", 2)
    master.restart()
    assert worker.told("take('left'), take('beside'), take('mine')", 3) == "(None, None, b'')"
    until(lambda: open_in(master) <= before)


def test_there_is_room_for_so_many(master: Master, worker: Worker) -> None:
    """More are refused, in the log; the master's descriptors are back when they are taken."""
    before = open_in(master)
    worker.told("[store('many', b'x') for _ in range(70)]")
    refused = master.saw("errand-refused", what="store")
    assert refused["reason"] == "64 are kept already, and nobody takes them"
    assert refused["name"] == "many"
    assert worker.told("len(list(iter(lambda: take('many'), None)))") == "64"
    until(lambda: open_in(master) <= before)
    assert worker.told("tell('FDSTORE=1\\nFDNAME=' + 'n' * 65, [2])") == "True"
    assert master.saw("errand-refused", reason="a name has 1 to 64 letters")
    worker.told("big.write(b'x'), big.truncate(65 << 20)")
    worker.told("store('big', big)")
    assert master.saw("errand-refused", reason="larger than 64 MiB")
    assert "ValueError" in worker.told("store('', b'')")


def test_garbage_is_no_errand(master: Master, worker: Worker) -> None:
    """Descriptors that are no sockets, or none at all, where an answer is to be sent."""
    before = open_in(master)
    for line in ("X_OVERSEER_TAKE=x", "X_OVERSEER_LEASES=1", "FDSTORE=1", "FDSTOREREMOVE=1"):
        worker.told(f"tell({line!r})")
        worker.told(f"tell({line + chr(10) + 'X_OVERSEER_WAIT=1'!r}, [big.fileno()])")
    worker.told("take('stored')")
    worker.told("tell('FDSTOREREMOVE=1\\nFDNAME=stored')")
    assert worker.told("take('x')") == "None"  # by then it has heard all of that
    until(lambda: open_in(master) <= before + 1)  # the file of the leases
    assert not master.all("master-error")


def test_a_worker_asks_for_a_rollout(master: Master, worker: Worker) -> None:
    """As ``overseer restart`` does; of a worker that is on its way out nobody takes it."""
    assert worker.told("tell('X_OVERSEER_RESTART=1')", 1, 1) == "True"
    started = master.saw("rollout-started", generation=2)
    assert started["reason"] == "worker 1/1#1"
    master.saw("generation-gone", generation=1)


def test_a_stranger_is_not_heard(master: Master, worker: Worker) -> None:
    """What is kept is for workers of this service alone."""
    worker.told("store('secret', b'of ours')")
    address = worker.told("os.environ['NOTIFY_SOCKET']").strip("'")
    script = "from overseer_py.worker.deposits import take; print(take('secret', 0.5))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "NOTIFY_SOCKET": address},
        capture_output=True,
        text=True,
        check=True,
        cwd=PROGRAMS.parent.parent,
    )
    assert done.stdout == "None\n"
    master.saw("notify-ignored")
    assert worker.told("take('secret')") == "b'of ours'"
