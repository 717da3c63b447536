"""Steered handover: a new generation meets nobody unproven, an old one is idle when TERM comes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest

from overseer_py.system.sockdiag import State, at_port
from tests.e2e.commands import document
from tests.e2e.handovers import (
    CLIENTS,
    check_answers,
    check_exclusion,
    check_stop,
    check_unseen,
    hand_over,
)
from tests.load import Load, Place, fetch
from tests.master import HELLO, PROGRAMS, Master, program
from tests.needs import need

# Nobody is cut off for it that a busy machine needs longer.
PATIENT = ["--quiet-timeout", "30s"]
TCP = ["--listen", "127.0.0.1:0", *PATIENT]
ABRUPT = program("abrupt", "0.01")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_program_that_cannot_drain(tmp_path: Path, workers: int) -> None:
    """A program that dies of TERM, whatever it has in hand, loses nothing: it has nothing."""
    with Master(tmp_path, *TCP, "--workers", str(workers), "--", *ABRUPT) as master:
        master.ready()
        with Load(master.port(), CLIENTS) as load:
            handovers = hand_over(master, load, 10)
        assert load.failures == []
        check_answers(master, load, handovers)
        check_unseen(master, load, handovers)
        assert master.all("quiet-timed-out") == []
        check_stop(master)


def test_on_every_address(tmp_path: Path) -> None:
    """A dual-stack wildcard, IPv6 alone and a unix socket are steered together."""
    path = tmp_path / "web.sock"
    listen = ["--listen", ":0", "--listen", "six=[::1]:0", "--listen", f"unix:{path}"]
    with Master(tmp_path, *listen, *PATIENT, "--", *program("three", "0.01")) as master:
        master.ready()
        places: list[Place] = [master.port(), ("::1", master.port("six")), str(path)]
        loads = [Load(place, 2) for place in places]
        with loads[0], loads[1], loads[2]:
            for _ in range(5):
                for load in loads:
                    load.more(20)
                master.restart()
        assert [load.failures for load in loads] == [[], [], []]
        assert {fact["handover"] for fact in master.all("listening")} == {"steered"}
        check_stop(master)
    assert list(tmp_path.glob("*web.sock*")) == []


def test_datagrams(tmp_path: Path) -> None:
    """Each datagram is answered, by the generation that is current."""
    with Master(tmp_path, "--listen", "udp:127.0.0.1:0", "--", *program("echoes")) as master:
        master.ready()
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
            client.settimeout(30)
            client.connect(("127.0.0.1", master.port()))
            for generation in range(1, 6):
                for number in range(20):
                    client.send(f"{number}".encode())
                    assert client.recv(64) == f"{generation} {number}".encode()
                master.restart()
        check_stop(master)


# -- versions that fail ----------------------------------------------------------------------


def test_dead_before_it_is_settled(tmp_path: Path) -> None:
    """A new version that is ready and dies while it settles has met nobody, and nothing is lost."""
    variables = tmp_path / "env"
    variables.write_text("")
    options = [*TCP, "--settle", "30s", "--env-file", str(variables)]
    with Master(tmp_path, *options, "--", *program("abrupt", "0.01")) as master:
        master.ready()
        with Load(master.port(), CLIENTS) as load:
            for generation in range(2, 6):
                master.send(signal.SIGUSR2)
                master.saw("worker-ready", worker=f"{generation}/0#1")
                load.more(50)
                newcomer = master.workers()[-1]
                os.kill(newcomer, signal.SIGKILL)
                master.saw("rollout-rolled-back", generation=generation)
                load.more(20)
        assert load.failures == []
        assert {body.split()[0] for body in load.bodies} == {"1"}
        assert master.stop() == 0


def test_a_check_that_fails(tmp_path: Path) -> None:
    """A new version that answers its check with 500 meets nobody but the check."""
    file = tmp_path / "overseer.toml"
    config = 'ready = "http:/health"\nready_timeout = {}\n[env]\nHEALTH = "{}"\n'
    file.write_text(config.format(60, 200))
    with Master(tmp_path, *TCP, "--config", str(file), "--", *program("service")) as master:
        master.ready()
        file.write_text(config.format(4, 500))
        with Load(master.port(), CLIENTS) as load:
            load.more(20)
            master.send(signal.SIGHUP)
            master.saw("worker-not-ready-yet", worker="2/0#1")
            master.saw("rollout-rolled-back", generation=2)
            load.more(20)
            assert master.restart()["generation"] == 3
            load.more(20)
        assert load.failures == []
        assert {body.split()[0] for body in load.bodies} == {"1", "3"}
        check_stop(master)


# -- workers that are killed, stopped or busy --------------------------------------------------


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.soak)])
def test_the_only_worker_is_killed(tmp_path: Path, kills: int) -> None:
    """What it had in hand is lost, nothing else: connections wait for the next one."""
    options = [*TCP, "--backoff", "1ms", "--backoff-limit", "2ms"]
    with Master(tmp_path, *options, "--", *ABRUPT) as master:
        master.ready()
        with Load(master.port(), CLIENTS) as load:
            for _ in range(kills):
                load.more(10)
                after = master.now()
                os.kill(master.workers()[0], signal.SIGKILL)
                master.saw("worker-ready", after=after)
        assert not [f for f in load.failures if "refused" in f.failure.lower()]
        assert len(load.failures) <= kills * CLIENTS
        check_stop(master)


def test_a_stopped_generation(tmp_path: Path) -> None:
    """The new one serves at once; the old one is continued, and finishes what it has."""
    with Master(tmp_path, *TCP, "--", *ABRUPT) as master:
        master.ready()
        (old,) = master.workers()
        with Load(master.port(), CLIENTS) as load:
            load.more(20)
            os.kill(old, signal.SIGSTOP)
            master.send(signal.SIGUSR2)
            master.saw("rollout-committed", generation=2)
            assert fetch(master.port()).startswith("2 ")
            master.saw("generation-gone", generation=1)
            load.more(20)
        assert load.failures == []
        check_stop(master)


def test_a_long_request_has_its_time(tmp_path: Path) -> None:
    """A request that takes longer than others holds its own worker, up to the quiet time-out."""
    options = [*TCP, "--quiet-timeout", "1s"]
    with Master(tmp_path, *options, "--", *program("abrupt", "1000")) as master:
        master.ready()
        with closing(_connected(master.port())) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while document(tmp_path, "abrupt")["workers"][0]["connections"] == 0:
                pass
            master.send(signal.SIGUSR2)
            timed_out = master.saw("quiet-timed-out", worker="1/0#1")
            assert timed_out["hint"] == "connections in a request: 1"
            master.saw("generation-gone", generation=1)
            assert client.recv(1) == b""
        assert master.stop() == 0


def test_idle_connections_can_be_closed(tmp_path: Path) -> None:
    """With --close-idle a program that hears nothing sees the end of a kept-alive connection."""
    options = [*TCP, "--close-idle", "--quiet-timeout", "60s", "--drain-timeout", "60s"]
    with Master(tmp_path, *options, "--", *program("keeps")) as master:
        master.ready()
        with closing(_connected(master.port())) as idle, closing(_connected(master.port())) as busy:
            for client in (idle, busy):
                client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert client.recv(4096).endswith(f"1 {master.workers()[0]}\n".encode())
            master.send(signal.SIGUSR2)
            master.saw("rollout-committed", generation=2)
            assert idle.recv(4096) == b""
            assert not master.all("drain-timed-out")
            master.send(signal.SIGQUIT)
            assert master.wait() == 0


def _connected(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.settimeout(60)
    return client


def test_a_worker_that_may_not_be_looked_at(tmp_path: Path) -> None:
    """Root without CAP_SYS_PTRACE sees nothing of another user's worker: its requests are kept."""
    if os.geteuid():
        pytest.skip("needs root to run workers as somebody else")
    wrapper = [need("setpriv"), "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    with tempfile.TemporaryDirectory() as public:  # tmp_path is not for others
        os.chmod(public, 0o755)
        server = Path(public) / "server"
        subprocess.run([need("cc"), "-o", str(server), str(PROGRAMS / "server.c")], check=True)
        options = [*TCP, "--user", "nobody", "--chdir", "/", "--ready", "delay:0.3s"]
        options += ["--env", "SLOW=2000"]  # milliseconds
        with Master(tmp_path, *options, "--", str(server), "abrupt", wrapper=wrapper) as master:
            master.ready()
            with closing(_connected(master.port())) as client:
                client.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
                master.send(signal.SIGUSR2)
                master.saw("rollout-committed", generation=2)
                assert b"200 OK" in client.recv(4096)
            check_stop(master)


def test_an_address_that_is_given_up(tmp_path: Path) -> None:
    """A reload to another address: requests at the old one still have their time."""
    file = tmp_path / "overseer.toml"
    file.write_text('listen = ["a=127.0.0.1:0"]\n')
    with Master(tmp_path, "--config", str(file), "--", *program("answers_late")) as master:
        master.ready()
        with closing(_connected(master.port("a"))) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            file.write_text(f'listen = ["unix:{tmp_path}/web.sock"]\n')
            master.send(signal.SIGHUP)
            master.saw("rollout-committed", generation=2)
            assert b"200 OK" in client.recv(4096)
            master.saw("listener-closed", name="a")
        check_stop(master)


def test_the_backlog_is_ours(tmp_path: Path) -> None:
    """A program's own listen(2) with a short backlog does not outlast the cut-over."""
    with Master(
        tmp_path, "--listen", "127.0.0.1:0?backlog=77", "--", *program("meddles")
    ) as master:
        master.ready()
        for _ in range(3):
            everything = at_port(socket.AF_INET, socket.IPPROTO_TCP, master.port(), [State.LISTEN])
            assert [entry.unsent for entry in everything] == [77]  # of a listener: its backlog
            master.restart()
        assert master.stop() == 0


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "unix:{}/web.sock"])
def test_a_candidate_that_shuts_its_listener_down(tmp_path: Path, listen: str) -> None:
    """It is repaired at the cut-over, or by one more rollout: nobody is shut out for good."""
    listen = listen.format(tmp_path)
    options = ["--listen", listen, "--settle", "300ms", "--env", "SHUT_DOWN=2"]
    with Master(tmp_path, *options, "--", *program("meddles")) as master:
        master.ready()
        place: Place = str(tmp_path / "web.sock") if "unix" in listen else master.port()
        master.send(signal.SIGUSR2)
        master.saw("generation-gone", generation=1)
        if "unix" in listen:
            master.saw("generation-gone", generation=2)
        assert fetch(place).split()[0] == ("3" if "unix" in listen else "2")
        assert master.stop() == 0


def test_a_path_that_somebody_else_has_taken(tmp_path: Path) -> None:
    """Nothing is renamed over another's file; the rollout fails, and says why."""
    path = tmp_path / "web.sock"
    with Master(tmp_path, "--listen", f"unix:{path}", "--", *ABRUPT) as master:
        master.ready()
        path.unlink()
        path.write_text("precious")
        master.send(signal.SIGUSR2)
        failed = master.saw("rollout-rolled-back", generation=2)
        assert "another's file is there; remove it" in failed["reason"]
        assert path.read_text() == "precious"
        path.unlink()
        assert master.restart()["generation"] == 3
        assert fetch(str(path)).startswith("3 ")
        assert master.stop() == 0


# -- others at the address ----------------------------------------------------------------------


def test_a_second_master(tmp_path: Path) -> None:
    """It is refused whether or not the first one has steered already, and however it asks."""
    with Master(tmp_path, *TCP, "--", *HELLO) as master:
        master.ready()
        listen = ["--listen", f"127.0.0.1:{master.port()}", "--name", "second"]
        for handover in ("steered", "shared"):
            for _ in range(2):
                with Master(tmp_path, *listen, "--handover", handover, "--", *HELLO) as second:
                    assert second.wait() == 3
                    assert "address already in use" in second.stderr[-1]
                master.restart()
        check_stop(master)


def test_a_stranger_at_the_address(tmp_path: Path) -> None:
    """A process of the same user that binds with SO_REUSEPORT gets nothing, and is named."""
    with Master(tmp_path, *TCP, "--", *ABRUPT) as master, closing(socket.socket()) as stranger:
        master.ready()
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.1", master.port()))
        stranger.listen(100)
        stranger.setblocking(False)
        with Load(master.port(), CLIENTS) as load:
            handovers = hand_over(master, load)
        assert load.failures == []
        check_answers(master, load, handovers)
        assert master.saw("stranger-bound")["pid"] == os.getpid()
        assert len(master.all("stranger-bound")) == 1
        with pytest.raises(BlockingIOError):
            stranger.accept()
        check_stop(master)


# -- canary ------------------------------------------------------------------------------------


def test_canary(tmp_path: Path) -> None:
    """A share of new connections goes to the new generation, then all of them."""
    with Master(tmp_path, *TCP, "--canary", "30%:2s", "--", *ABRUPT) as master:
        master.ready()
        with Load(master.port(), CLIENTS) as load:
            load.more(50)
            asked = time.monotonic()
            master.send(signal.SIGUSR2)
            started = master.saw("canary-started", generation=2)
            begun = time.monotonic()
            ended = asked + master.saw("rollout-committed", generation=2)["took"] - 0.001
            master.saw("generation-gone", generation=1)
            load.more(50)
        assert (started["percent"], started["seconds"]) == (30, 2.0)
        assert load.failures == []
        meanwhile = (a for a in load.answers if a.begun > begun and a.ended < ended)
        tried = [answer.body.split()[0] for answer in meanwhile]
        expected, deviation = 0.3 * len(tried), (0.3 * 0.7 * len(tried)) ** 0.5
        assert abs(tried.count("2") - expected) <= 5 * deviation, tried
        assert load.bodies[-1].startswith("2 ")
        check_stop(master)


def test_a_canary_that_dies(tmp_path: Path) -> None:
    """It is rolled back, and all go to the old one again.

    Lost is what it had in hand, and what waited for it in that moment.
    """
    with Master(tmp_path, *TCP, "--canary", "50%:60s", "--", *ABRUPT) as master:
        master.ready()
        with Load(master.port(), CLIENTS) as load:
            load.more(20)
            master.send(signal.SIGUSR2)
            master.saw("canary-started", generation=2)
            load.more(50)
            os.kill(master.workers()[-1], signal.SIGKILL)
            failed = master.saw("rollout-rolled-back", generation=2)
            master.saw("generation-gone", generation=2)
            gone = time.monotonic()
            load.more(50)
        assert "was killed by SIGKILL before it was committed" in failed["reason"]
        assert len(load.failures) <= 2 * CLIENTS
        assert {a.body.split()[0] for a in load.answers if a.begun > gone} == {"1"}
        check_stop(master)


def test_a_canary_that_falls_ill(tmp_path: Path) -> None:
    """Its check goes on; when it fails, the share goes back, and nothing is lost."""
    health = tmp_path / "healthy"
    health.touch()
    options = [*TCP, "--canary", "50%:60s", "--ready", f"exec:test -e {health}"]
    with Master(tmp_path, *options, "--", *ABRUPT) as master:
        master.ready()
        with Load(master.port(), CLIENTS) as load:
            load.more(20)
            master.send(signal.SIGUSR2)
            master.saw("canary-started", generation=2)
            load.more(50)
            health.unlink()
            failed = master.saw("rollout-rolled-back", generation=2)
            master.saw("generation-gone", generation=2)
            load.more(20)
        assert "is not healthy any more: exited with status 1" in failed["reason"]
        assert {body.split()[0] for body in load.bodies} == {"1", "2"}
        assert load.failures == []
        check_stop(master)


# -- exclusive -----------------------------------------------------------------------------------


def test_exclusive(tmp_path: Path) -> None:
    """A program that must not run twice, and dies of TERM, loses nothing.

    All that is acknowledged is counted, and all that is counted was acknowledged.
    """
    options = [*TCP, "--surge", "exclusive"]
    with Master(tmp_path, *options, "--", *program("alone", str(tmp_path))) as master:
        master.ready()
        with Load(master.port(), CLIENTS) as load:
            handovers = hand_over(master, load, 10)
        assert load.failures == []
        assert int((tmp_path / "count").read_text()) == len(load.answers)
        check_exclusion(master, handovers)
        check_stop(master)


def test_exclusive_that_fails(tmp_path: Path) -> None:
    """The old version comes back and serves those who have waited for the new one."""
    options = [*TCP, "--surge", "exclusive", "--backoff", "10ms"]
    with Master(tmp_path, *options, "--", *program("alone", str(tmp_path), "broken")) as master:
        master.ready()
        with Load(master.port(), CLIENTS) as load:
            for _ in range(3):
                load.more(20)
                after = master.now()
                (tmp_path / "broken").touch()
                master.send(signal.SIGUSR2)
                master.saw("rollout-rolled-back", after=after)
                (tmp_path / "broken").unlink()
                master.saw("worker-ready", after=after)
            load.more(20)
        assert load.failures == []
        assert {body.split()[0] for body in load.bodies} == {"1"}
        check_stop(master)


# -- why it is shared ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--handover", "shared"], "asked for"),
        (["--surge", "1"], "surge 1 replaces workers in batches, beside each other"),
    ],
)
def test_shared_with_the_reason(tmp_path: Path, options: list[str], reason: str) -> None:
    """What is in use, and why it is not the better one, is in the log."""
    with Master(tmp_path, *TCP, *options, "--", *HELLO) as master:
        listening = master.saw("listening")
        assert (listening["handover"], listening["reason"]) == ("shared", reason)
        master.ready()
        with Load(master.port(), CLIENTS) as load:
            hand_over(master, load)
        assert load.failures == []
        assert master.all("worker-quieting") == []
        check_stop(master)


def test_from_one_to_the_other_and_back(tmp_path: Path) -> None:
    """A reload changes how the next generation takes over, and nothing is lost by it."""
    file = tmp_path / "overseer.toml"
    config = 'listen = ["127.0.0.1:0"]\nhandover = "{}"\n'
    file.write_text(config.format("steered"))
    with Master(tmp_path, "--config", str(file), "--", *HELLO) as master:
        master.ready()
        with Load(master.port(), CLIENTS) as load:
            for handover in ("shared", "steered", "shared", "shared", "steered", "steered"):
                load.more(20)
                file.write_text(config.format(handover))
                after = master.now()
                master.send(signal.SIGHUP)
                master.saw("generation-gone", after=after)
        assert load.failures == []
        check_stop(master)


def test_a_canary_needs_steering(tmp_path: Path) -> None:
    """A share of a shared socket cannot be had."""
    options = [*TCP, "--handover", "shared", "--canary", "10%:1s"]
    with Master(tmp_path, *options, "--", *HELLO) as master:
        assert master.wait() == 2
        assert "canary: needs handover steered" in master.stderr[-1]


# -- sockets that were handed over ---------------------------------------------------------------


def hands_over(uid: int) -> list[str]:
    """Return a command to put in front: it binds as that user and execs with the socket at 3."""
    return [sys.executable, str(PROGRAMS / "hands_over.py"), str(uid)]


def test_a_socket_that_was_handed_over(tmp_path: Path) -> None:
    """It is steered as any other."""
    wrapper = hands_over(os.geteuid())
    with Master(tmp_path, *PATIENT, "--", *ABRUPT, wrapper=wrapper) as master:
        master.ready()
        assert master.saw("listening")["handover"] == "steered"
        with Load(master.port(), CLIENTS) as load:
            handovers = hand_over(master, load)
        assert load.failures == []
        check_answers(master, load, handovers)
        check_stop(master)


def test_a_restart_of_the_master_itself(tmp_path: Path) -> None:
    """At a stop new connections wait in the socket that was handed over; the next master has them.

    The program dies of TERM, whatever it has in hand: it has nothing any more.
    """
    wrapper = [sys.executable, str(PROGRAMS / "activates.py")]
    with Master(tmp_path, *PATIENT, "--", *ABRUPT, wrapper=wrapper) as masters:
        masters.ready()
        with Load(masters.port(), CLIENTS) as load:
            for _ in range(5):
                load.more(20)
                pid = masters.all("overseer-started")[-1]["pid"]
                after = masters.now()
                os.kill(pid, signal.SIGUSR2)  # then the live socket is not the one handed over
                masters.saw("generation-gone", after=after)
                load.more(20)
                after = masters.now()
                masters.send(signal.SIGHUP)
                masters.saw("overseer-stopped", after=after, status=0)
                masters.saw("service-ready", after=after)
            load.more(20)
        assert load.failures == []
        assert masters.stop() == 0


def test_a_socket_of_another_user(tmp_path: Path) -> None:
    """A second socket cannot be had beside it: it is shared, and the log says why."""
    if os.geteuid():
        pytest.skip("needs root to bind as somebody else")
    with Master(tmp_path, "--", *HELLO, wrapper=hands_over(65534)) as master:
        listening = master.saw("listening")
        assert listening["handover"] == "shared"
        assert "handed over by uid 65534" in listening["reason"]
        master.ready()
        with Load(master.port(), CLIENTS) as load:
            hand_over(master, load)
        assert load.failures == []
        check_stop(master)
