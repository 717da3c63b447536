"""What --adopt promises, beside that nothing is lost: what goes wrong changes nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from overseer_py.system import procfs
from overseer_py.system.sockdiag import State, at_port
from tests.e2e.commands import document
from tests.e2e.handovers import (
    CLIENTS,
    check_answers,
    check_exclusion,
    check_killed,
    check_stop,
    hand_over,
)
from tests.load import Load, fetch, free_port, other_worker
from tests.master import PATIENCE, RUN, Fact, Master, program

BINDS = program("binds")


NAMED = "127.0.0.1:{port}"
LATE = "was not ready within 3 s"


def version(directory: Path, what: str) -> None:
    """Let the program do this from its next start on."""
    (directory / "what").write_text(what)


def adopting(directory: Path, what: str, *options: str) -> Master:
    """Run the program that does so."""
    version(directory, what)
    file = directory / "overseer.toml"
    file.touch()
    place = ["--config", str(file), "--chdir", str(directory)]
    return Master(directory, *options, *place, "--", *BINDS)


def attempt(master: Master, directory: Path, what: str, seconds: int) -> Fact:
    """Try a version that has only so long to be ready, and see it rolled back; so is its haste."""
    version(directory, what)
    (directory / "overseer.toml").write_text(f"ready_timeout = {seconds}\n")
    master.send(signal.SIGHUP)
    return master.saw("rollout-rolled-back")


@pytest.mark.parametrize(
    ("adopt", "broken", "why"),
    [
        (NAMED, "listen {other}", LATE),
        (NAMED, "unheard {port}", LATE),
        (NAMED, "dies {port}", "exited with status 3"),
        ("auto", "listen {other}", LATE),
        ("auto", "never", LATE),
    ],
)
def test_a_broken_version_is_rolled_back(tmp_path: Path, adopt: str, broken: str, why: str) -> None:
    """One that binds another address, or none, or does not accept, or dies, meets nobody."""
    port, other = free_port(), free_port()
    with adopting(tmp_path, f"listen {port}", "--adopt", adopt.format(port=port)) as master:
        master.ready()
        with Load(port, CLIENTS) as load:
            load.more()
            seconds = 3 if why == LATE else 60
            failed = attempt(master, tmp_path, broken.format(port=port, other=other), seconds)
            assert why in failed["reason"]
            master.saw("generation-gone", generation=2)
            load.more()
            version(tmp_path, f"listen {port}")
            master.restart()
            load.more()
        assert load.failures == []
        assert {body.split()[0] for body in load.bodies} == {"1", "3"}
        if broken.startswith("listen"):
            hint = master.saw("worker-late")["hint"]
            assert f"at 127.0.0.1:{port}" in hint
            assert adopt == "auto" or f"it has bound 127.0.0.1:{other}" in hint
        check_stop(master)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """A program that binds elsewhere is told where it has, and where it should have."""
    port, other = free_port(), free_port()
    options = "--adopt", f"web=127.0.0.1:{port}", "--ready-timeout", "5s", "--max-crashes", "1"
    with adopting(tmp_path, f"listen {other}", *options) as master:
        hint = master.saw("worker-late")["hint"]
        assert f"at 127.0.0.1:{port} (web)" in hint
        assert f"it has bound 127.0.0.1:{other}" in hint
        assert master.wait() == 5


def test_every_port_that_it_binds(tmp_path: Path) -> None:
    """Two ports, of which nobody has told the master, are handed over together."""
    one, two = free_port(), free_port()
    with adopting(tmp_path, f"listen {one} {two}", "--adopt", "auto") as master:
        master.ready()
        names = {fact["name"] for fact in master.all("listening")}
        assert names <= {f"port-{one}", f"port-{two}"}
        with Load(one, 2) as first, Load(two, 2) as second:
            handovers = hand_over(master, first, 2)
            second.more()
        assert first.failures == second.failures == []
        check_answers(master, first, handovers)
        check_stop(master)


def test_a_port_that_is_gone_is_missed(tmp_path: Path) -> None:
    """A version that binds fewer ports than the one before is not ready; a reload says it may."""
    one, two = free_port(), free_port()
    with adopting(tmp_path, f"listen {one} {two}", "--adopt", "auto") as master:
        master.ready()
        fetch(two)
        attempt(master, tmp_path, f"listen {one}", 2)
        assert f"port-{two}" in master.saw("worker-late")["hint"]
        master.saw("generation-gone", generation=2)
        fetch(two)
        check_stop(master)


def test_a_port_that_the_old_version_binds_late(tmp_path: Path) -> None:
    """What it binds while the next one starts is nothing that those after must bind."""
    one, two = free_port(), free_port()
    with adopting(tmp_path, f"late {one} {two}", "--adopt", "auto") as master:
        master.ready()
        version(tmp_path, f"waits {one}")
        master.send(signal.SIGUSR2)
        master.saw("worker-started", worker="2/0#1")
        (tmp_path / "late").touch()
        master.saw("listening", name=f"port-{two}")
        fetch(two)
        (tmp_path / "go").touch()
        master.saw("generation-gone", generation=1)
        version(tmp_path, f"listen {one}")
        assert master.restart()["generation"] == 3
        fetch(one)
        with pytest.raises(ConnectionRefusedError):
            fetch(two)


def test_a_server_that_ends_each_connection_at_once(tmp_path: Path) -> None:
    """It is never seen to have one, and yet it serves."""
    port = free_port()
    with adopting(tmp_path, f"ends {port}", "--adopt", f"127.0.0.1:{port}") as master:
        master.ready().restart()
        check_stop(master)


def test_a_port_by_its_number_alone(tmp_path: Path) -> None:
    """``:PORT`` is that port at whatever host the program binds it; others are not adopted."""
    port, other = free_port(), free_port()
    version(tmp_path, f"listen 127.0.0.2:{port} 127.0.0.2:{other}")
    with adopting(tmp_path, f"listen 127.0.0.2:{port}", "--adopt", f"web=:{port}") as master:
        master.ready()
        fact = master.saw("listening")
        assert (fact["name"], fact["address"]) == ("web", f"127.0.0.2:{port}")
        with Load(("127.0.0.2", port), CLIENTS) as load:
            hand_over(master, load, 2)
        assert load.failures == []
        check_stop(master)


def test_an_address_in_use_is_said_at_once(tmp_path: Path) -> None:
    """The master binds what it is told by name, before any program is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        with adopting(tmp_path, "never", "--adopt", place) as master:
            assert master.wait() == 3
            assert any(f"listen {place}: address already in use" in o for o in master.stderr)
            assert master.all("worker-started") == []


def test_an_address_that_is_learned_and_in_use(tmp_path: Path) -> None:
    """With ``auto`` the program is told, as by the kernel, and the log says more."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with adopting(tmp_path, f"listen {port}", "--adopt", "auto") as master:
            assert "address already in use" in master.saw("bind-not-adopted")["reason"]
            assert master.saw("worker-exited")["status"] == 1
            master.saw_line("Address already in use")


def test_workers_share_their_generations_socket(tmp_path: Path) -> None:
    """Several workers bind the same address, each for itself, and all serve it."""
    port = free_port()
    options = "--adopt", f"127.0.0.1:{port}", "--workers", "3"
    with adopting(tmp_path, f"listen {port}", *options) as master:
        master.ready()
        with Load(port, 8) as load:
            handovers = hand_over(master, load, 2)
            master.send(signal.SIGTTOU)
            master.saw("worker-exited", worker="3/2#1")
        # Fewer workers of a generation: the one that goes may close what it has accepted.
        before = [a for a in load.failures if a.ended < handovers[-1].gone]
        assert before == []
        check_answers(master, load, handovers)
        assert len({body.split()[2] for body in load.bodies if body.startswith("2 ")}) == 3


def test_a_crash_keeps_the_queue(tmp_path: Path) -> None:
    """Those who come while a crashed worker is replaced wait for the next one."""
    port = free_port()
    with adopting(tmp_path, f"listen {port}", "--adopt", f"127.0.0.1:{port}") as master:
        master.ready()
        with Load(port, CLIENTS) as load:
            load.more()
            (worker,) = master.workers()
            os.kill(worker, signal.SIGKILL)
            master.saw("worker-ready", worker="1/0#2")
            load.more()
        check_killed(load)
        check_stop(master)


@pytest.mark.parametrize("what", ["check", "copy"])
def test_habits(tmp_path: Path, what: str) -> None:
    """A port that is tried first, and a socket that is copied before it is bound."""
    port = free_port()
    with adopting(tmp_path, f"{what} {port}", "--adopt", f"127.0.0.1:{port}") as master:
        master.ready()
        with Load(port, CLIENTS) as load:
            hand_over(master, load, 2)
        assert load.failures == []
        hows = {fact["how"] for fact in master.all("bound")}
        assert hows == ({"joined"} if what == "copy" else {"replaced"})
        check_stop(master)


def test_a_joined_address_is_for_one_worker(tmp_path: Path) -> None:
    """A second worker that has copied its socket cannot have the address, and is told why."""
    port = free_port()
    options = "--adopt", f"127.0.0.1:{port}", "--workers", "2"
    with adopting(tmp_path, f"copy {port}", *options) as master:
        assert "only one worker of a generation" in master.saw("bind-not-adopted")["reason"]


def test_a_joined_socket_after_a_crash(tmp_path: Path) -> None:
    """A worker that joined and died is followed by one that joins."""
    port = free_port()
    with adopting(tmp_path, f"copy {port}", "--adopt", f"127.0.0.1:{port}") as master:
        master.ready()
        first = fetch(port)
        (worker,) = master.workers()
        os.kill(worker, signal.SIGKILL)
        master.saw("worker-ready", worker="1/0#2")
        assert other_worker(port, first.strip())
        master.restart()
        fetch(port)
        check_stop(master)


def test_what_was_set_before_the_bind_holds(tmp_path: Path) -> None:
    """Options and non-blocking mode of the program's own socket are those of its successor."""
    port = free_port()
    with adopting(tmp_path, f"options {port}", "--adopt", f"127.0.0.1:{port}") as master:
        master.ready()
        assert fetch(port).split() == ["1", "4321", "False"]


def test_the_backlog_is_the_masters(tmp_path: Path) -> None:
    """A program that asks for a short queue gets a long one: the kernel's own limit is enough."""
    port = free_port()
    place = f"127.0.0.1:{port}?backlog=77"
    with adopting(tmp_path, f"listen {port}", "--adopt", place) as master:
        master.ready()
        fetch(port)
        states = [State.LISTEN]
        (listener,) = at_port(socket.AF_INET, socket.IPPROTO_TCP, port, states)
        assert listener.unsent == 77  # of a listener: how many may wait


@pytest.mark.parametrize("relative", [False, True])
def test_a_unix_path(tmp_path: Path, relative: bool) -> None:
    """The program removes the path and binds it anew, as they do; it is always there."""
    path = tmp_path / "app.sock"
    place = "./app.sock" if relative else str(path)
    with adopting(tmp_path, f"listen {place}", "--adopt", f"unix:{path}?mode=0600") as master:
        master.ready()
        with Load(str(path), CLIENTS) as load:
            handovers = hand_over(master, load, 4)
        assert load.failures == []
        check_answers(master, load, handovers)
        assert path.stat().st_mode & 0o777 == 0o600
        check_stop(master)
        assert not path.exists()


def test_exclusive(tmp_path: Path) -> None:
    """For a program that must not run twice: connections wait while there is none."""
    port = free_port()
    options = "--adopt", f"127.0.0.1:{port}", "--surge", "exclusive"
    with adopting(tmp_path, f"listen {port}", *options) as master:
        master.ready()
        with Load(port, CLIENTS) as load:
            handovers = hand_over(master, load, 4)
        assert load.failures == []
        check_answers(master, load, handovers)
        check_exclusion(master, handovers)
        check_stop(master)


@pytest.mark.parametrize("rule", ["http:/", "accept:web", "delay:50ms", "exec:true"])
def test_other_rules(tmp_path: Path, rule: str) -> None:
    """Whatever the rule, a worker that does not listen where it must is not ready."""
    port = free_port()
    options = "--adopt", f"web=127.0.0.1:{port}", "--ready", rule
    with adopting(tmp_path, f"listen {port}", *options) as master:
        master.ready()
        with Load(port, CLIENTS) as load:
            hand_over(master, load, 1)
            attempt(master, tmp_path, "never", 2)
            load.more()
        assert load.failures == []


def test_beside_an_inherited_listener(tmp_path: Path) -> None:
    """One listener is handed over as a descriptor, another one is bound by the program."""
    port = free_port()
    options = (
        "--listen",
        "127.0.0.1:0",
        "--adopt",
        f"127.0.0.1:{port}",
        "--ready",
        "accept:listener-1",
    )
    with adopting(tmp_path, f"listen {port}", *options) as master:
        master.ready()
        (worker,) = master.workers()
        environ = psutil.Process(worker).environ()
        assert environ["LISTEN_FDS"] == "1"
        assert environ["OVERSEER_NUM_FDS"] == "1"
        assert all(len(fds) == 1 for fds in procfs.sockets(worker).values())
        assert master.saw("listening", name="listener-0")["fd"] == 3
        assert "fd" not in master.saw("listening", name="listener-1")
        inherited, adopted = document(tmp_path, "binds")["listeners"]
        assert (inherited["fd"], adopted["fd"]) == (3, None)
        assert (adopted["type"], adopted["handover"]) == ("tcp", "steered")


def test_a_reload_takes_an_address_away_and_back(tmp_path: Path) -> None:
    """What is adopted can be changed by a reload, as what is listened on."""
    one, two = free_port(), free_port()
    config = tmp_path / "overseer.toml"
    command = "[" + ", ".join(f'"{word}"' for word in BINDS) + "]"

    def configure(port: int) -> None:
        config.write_text(f'adopt = ["127.0.0.1:{port}"]\ncommand = {command}\n')
        version(tmp_path, f"listen {port}")

    configure(one)
    with Master(tmp_path, "--config", str(config), "--chdir", str(tmp_path)) as master:
        master.ready()
        fetch(one)
        configure(two)
        master.send(signal.SIGHUP)
        master.saw("generation-gone", generation=1)
        fetch(two)
        with pytest.raises(ConnectionRefusedError):
            fetch(one)
        check_stop(master)


def test_check_knows_it() -> None:
    """What is adopted is read and named by ``overseer check``."""
    port = free_port()
    command = [RUN[0], "-m", "overseer_py", "check", "--adopt", f":{port}", "--adopt", "auto"]
    done = subprocess.run(
        [*command, "--", *BINDS], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert f":{port}, whatever port it binds" in done.stdout
