"""The control socket under abuse: who floods, stalls or is not served takes nothing of others."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from overseer_py import RequestError, client
from overseer_py.client import Client
from overseer_py.control import MOST_CLIENTS
from overseer_py.whereabouts import connected
from tests.e2e.callers import Caller
from tests.master import PATIENCE, Master, program
from tests.needs import cannot

CROWDS = 4
CROWD = 2500  # connections of each
MIB = 1 << 20
NOBODY = 65534

TRIES = """
import os, socket, sys
os.setresuid(65534, 65534, 65534)
for _ in range(int(sys.argv[1])):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("app.sock")
        answer = client.makefile().read()
print(answer)
"""


@contextmanager
def running(tmp_path: Path) -> Iterator[tuple[Master, Path]]:
    """Run a service that is restarted quickly; give its control socket, too."""
    with Master(tmp_path, "--name", "app", "--ready", "exec:true", "--", "sleep", "1000") as master:
        yield master.ready(), tmp_path / "overseer" / "app.sock"
        assert not master.all("master-error")
        assert master.stop() == 0


def memory(master: Master) -> int:
    """Return the bytes that would be free without the master."""
    return int(psutil.Process(master.pid).memory_full_info().uss)


def descriptors(master: Master) -> int:
    """Return how many the master has open."""
    return len(os.listdir(f"/proc/{master.pid}/fd"))


def eventually(what: Callable[[], bool]) -> bool:
    """Wait until it is so."""
    give_up_at = time.monotonic() + PATIENCE
    while not (so := what()) and time.monotonic() < give_up_at:
        time.sleep(0.01)
    return so


def restarted(asking: Client) -> float:
    """Return how long a restart has taken."""
    begun = time.monotonic()
    assert asking.restart(timeout=PATIENCE)["outcome"] == "committed"
    return time.monotonic() - begun


def restarted_in_a_crowd(path: Path) -> list[float]:
    """Return how long each restart took that was asked for while 10,000 others connected."""
    took = []
    with ExitStack() as stack:
        crowds = [stack.enter_context(crowd(path)) for _ in range(CROWDS)]
        while any(crowd.poll() is None for crowd in crowds):
            took.append(restarted(Client(path)))
        assert [crowd.returncode for crowd in crowds] == [0] * CROWDS
    return took


@contextmanager
def crowd(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a crowd, and do not leave it behind."""
    with subprocess.Popen(program("crowds", str(path), str(CROWD))) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_restart_in_a_crowd(tmp_path: Path) -> None:
    """Each is done within a second, and nothing is left of the 10,000 in the master."""
    with running(tmp_path) as (master, path):
        calm = min(restarted(Client(path)) for _ in range(3))
        before = descriptors(master)
        restarted_in_a_crowd(path)
        assert eventually(lambda: descriptors(master) <= before)
        warm = memory(master)
        took = restarted_in_a_crowd(path)
        assert len(took) > 1
        # A second, or half the time that the crowd was there: on a busy machine that is longer.
        assert max(took) - calm < max(1, sum(took) / 2), (calm, took)
        assert eventually(lambda: descriptors(master) <= before)
        assert memory(master) - warm < 4 * MIB


def test_a_line_without_an_end(tmp_path: Path) -> None:
    """Of a gibibyte next to nothing is taken, and the client hears why."""
    with running(tmp_path) as (master, path), Caller(path) as caller:
        before, sent = memory(master), 0
        with suppress(BrokenPipeError, ConnectionResetError):
            while sent < 1 << 30:
                sent += caller.socket.send(b"x" * MIB)
        assert sent < 4 * MIB
        assert caller.code() == "too-long"
        assert memory(master) - before < 4 * MIB
        assert Client(path).status()["pid"] == master.pid


def test_those_who_do_not_go_on(tmp_path: Path) -> None:
    """Half a line, answers or events that nobody reads: they are let go, and all others served."""
    with running(tmp_path) as (master, path), ExitStack() as stack:
        before = memory(master)
        half, asks, deaf, late, scales = (stack.enter_context(Caller(path)) for _ in range(5))
        half.socket.sendall(b'{"method": "sta')
        asks.socket.setblocking(False)
        asked = b'{"method": "status"}\n' * 5000
        with suppress(BlockingIOError):  # one answer unread, and no more is taken in
            while asked:
                asked = asked[asks.socket.send(asked) :]
        for follower in (deaf, late):
            follower.say("events", last=1, follow=True)
        assert late.hear()["event"]
        # Two events each, that it was asked for, and that it was done; soon, or all are too late.
        for _ in range(15):
            for _ in range(100):
                scales.say("scale", workers=1)
            for _ in range(100):
                assert scales.answer() == {"result": {"workers": 1}}
        assert not asks.dismissed(patience=0)  # one that reads after all misses nothing
        told = [late.hear()["event"] for _ in range(1000)]
        Client(path).signal("WINCH")  # there is room for it now, and yet it is behind the gap
        while "event" in (heard := late.hear()):
            told.append(heard["event"])
        assert not [event for event in told if event.get("method") == "signal"]
        assert len(told) + heard["dropped"] == 3001
        assert heard["dropped"] > 500
        assert Client(path).restart(timeout=PATIENCE)["outcome"] == "committed"
        assert late.hear()["event"]["method"] == "restart"
        assert half.code() == "late"
        assert asks.dismissed()
        assert deaf.dismissed()
        answers = 0
        while asks.hear():
            answers += 1
        assert 0 < answers < 5000
        assert memory(master) - before < 8 * MIB
        Client(path).scale(1)
        while late.hear()["event"]["event"] != "scaled":  # it is behind, and not let go
            pass


def test_those_who_wait_are_not_disturbed(tmp_path: Path) -> None:
    """So many may wait for something; one more is told so, until one of them has gone."""
    with running(tmp_path) as (_, path), ExitStack() as stack:
        waiting = [stack.enter_context(Caller(path)) for _ in range(MOST_CLIENTS)]
        for caller in waiting:
            caller.say("events", last=1, follow=True)
            assert caller.hear()["event"]
        with Caller(path) as more:
            assert more.code() == "busy"
            assert more.hear() == {}
        waiting[0].close()

        def served() -> bool:
            with Caller(path) as one, suppress(BrokenPipeError):
                return "result" in one.say("scale", workers=1).answer()
            return False

        assert eventually(served)
        assert all(caller.hear()["event"]["event"] == "command" for caller in waiting[1:])


def test_those_who_ask_nothing_make_room(tmp_path: Path) -> None:
    """The one that came first goes when one more comes, and that one is served."""
    with running(tmp_path) as (_, path), ExitStack() as stack:
        idle = [stack.enter_context(Caller(path)) for _ in range(MOST_CLIENTS)]
        with Caller(path) as more:
            assert more.say("status").answer()["result"]["name"] == "app"
        assert idle[0].code() == "busy"
        assert "result" in idle[1].say("status").answer()
        assert not any(caller.told for caller in idle[1:])


def test_a_client_that_had_to_make_room_asks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crowd may come between a client's connection and its first word."""
    with running(tmp_path) as (_, path), ExitStack() as stack:
        connections: list[socket.socket] = []

        def crowded(path: Path, patience: int) -> socket.socket:
            connection = connected(path, patience)
            if not connections:
                for _ in range(MOST_CLIENTS):
                    stack.enter_context(Caller(path))
                assert select.select([connection], [], [], PATIENCE)[0], "the busy line"
            connections.append(connection)
            return connection

        monkeypatch.setattr(client, "connected", crowded)
        assert Client(path).restart(timeout=PATIENCE)["outcome"] == "committed"
        assert len(connections) == 2


def test_a_client_waits_for_room_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hears why in the end; and is served as soon as one of those that wait has gone."""
    with running(tmp_path) as (_, path), ExitStack() as stack:
        waiting = [stack.enter_context(Caller(path)) for _ in range(MOST_CLIENTS)]
        for caller in waiting:
            caller.say("events", last=1, follow=True)
            assert caller.hear()["event"]
        monkeypatch.setattr(client, "PATIENCE", 1)
        for ask in (Client(path).status, Client(path).stop, lambda: next(Client(path).events())):
            with pytest.raises(RequestError, match="64 clients wait"):
                ask()
        monkeypatch.setattr(client, "PATIENCE", int(PATIENCE))
        with pytest.raises(RequestError, match="64 clients wait"):
            Client(path).restart(timeout=0.1)
        monkeypatch.setattr(time, "sleep", lambda _: waiting[0].close())
        assert Client(path).status()["name"] == "app"


def test_who_has_asked_already_is_served(tmp_path: Path) -> None:
    """What came with a connection counts at once, however many come in the same moment."""
    with running(tmp_path) as (master, path), ExitStack() as stack:
        process = psutil.Process(master.pid)
        process.suspend()
        asking = stack.enter_context(Caller(path)).say("status")
        for _ in range(3 * MOST_CLIENTS):
            stack.enter_context(Caller(path))
        process.resume()
        assert asking.answer()["result"]["pid"] == master.pid


def test_others_are_refused(tmp_path: Path) -> None:
    """Another user cannot get at the socket; who could hears why, and the log is not flooded."""
    if os.geteuid():
        cannot("only root can become somebody else")
    with running(tmp_path) as (master, path):
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert path.stat().st_mode & 0o777 == 0o600
        path.parent.chmod(0o711)
        path.chmod(0o666)
        assert "forbidden" in tried(path, 1000)
        assert eventually(lambda: "forbidden" in tried(path, 1) and told_all(master))
        first, *later = master.all("control-refused")
        assert (first["uid"], first["times"]) == (NOBODY, 1)
        assert len(later) < 10
        assert Client(path).status()["pid"] == master.pid


def told_all(master: Master) -> bool:
    """Whether the log has named all of the thousand that were refused."""
    times: int = sum(fact["times"] for fact in master.all("control-refused"))
    return times > 1000


def tried(path: Path, times: int) -> str:
    """Connect so often as nobody; return the last answer."""
    command = [sys.executable, "-c", TRIES, str(times)]
    done = subprocess.run(command, check=False, cwd=path.parent, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout
