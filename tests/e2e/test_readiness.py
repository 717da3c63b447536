"""Readiness rules with real programs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.e2e.handovers import CLIENTS, check_killed, check_stop
from tests.load import Load, fetch
from tests.master import PROGRAMS, Master, program
from tests.needs import need

TCP = ["--listen", "127.0.0.1:0"]
SERVICE = program("service")


@pytest.mark.parametrize("where", ["worker", "thread", "child"])
@pytest.mark.parametrize("how", ["epoll", "poll", "select", "accept"])
def test_auto(tmp_path: Path, how: str, where: str) -> None:
    """A worker is ready when it waits for connections, in whatever way, and not before."""
    with Master(tmp_path, *TCP, "--", *program("waits", how, where, "0.2")) as master:
        assert master.saw("service-ready")["took"] >= 0.2
        assert fetch(master.port()).startswith("1 ")
        assert master.restart()["took"] >= 0.2
        assert fetch(master.port()).startswith("2 ")
        check_stop(master)


@pytest.mark.parametrize("address", ["127.0.0.1:0", ":0", "unix:{}/web.sock"])
def test_auto_when_busy(tmp_path: Path, address: str) -> None:
    """A worker is ready, too, when it answers and is so busy that it never waits."""
    address = address.format(tmp_path)
    command = program("waits", "never", "worker", "0")
    with Master(tmp_path, "--listen", address, "--", *command) as master:
        master.saw("listening")
        place = f"{tmp_path}/web.sock" if address.startswith("unix") else master.port()
        with Load(place, CLIENTS) as load:
            master.ready()
            master.restart()
            load.more()
        check_stop(master)


def test_what_a_check_writes_is_seen(tmp_path: Path) -> None:
    """The command of ``exec`` has the master's own stderr."""
    rule = "exec:sh -c 'echo all is well >&2'"
    with Master(tmp_path, "--ready", rule, "--", "sleep", "1000") as master:
        master.ready()
        master.saw_line("all is well")
        check_stop(master)


@pytest.mark.parametrize("rule", ["auto", "http:/"])
@pytest.mark.parametrize("kept", ["-sys_ptrace", "-all,+setuid,+setgid,+kill,+sys_ptrace"])
def test_workers_of_another_user_without_the_right_to_look(rule: str, kept: str) -> None:
    """Root in a container has no CAP_SYS_PTRACE: it looks with the eyes of the worker's user.

    The capability is no use without one to search their directories.
    """
    if os.geteuid():
        pytest.skip("needs root to run workers as somebody else")
    drop = [f"--bounding-set={kept}", "--inh-caps=-all"]
    with tempfile.TemporaryDirectory() as public:  # tmp_path is not for others
        os.chmod(public, 0o755)
        binary = Path(public) / "server"
        subprocess.run([need("cc"), "-o", str(binary), str(PROGRAMS / "server.c")], check=True)
        options = [*TCP, "--ready", rule, "--user", "nobody", "--chdir", "/"]
        wrapper = [need("setpriv"), *drop]
        with Master(Path(public), *options, "--", str(binary), wrapper=wrapper) as master:
            master.ready()
            (pid,) = master.workers()
            assert psutil.Process(pid).username() == "nobody"
            master.restart()
            assert fetch(master.port()).startswith("2 ")
            check_stop(master)


def test_accept_of_one_listener(tmp_path: Path) -> None:
    """``accept:NAME`` looks at the listener that it names, and at no other."""
    listeners = ["--listen", "web=127.0.0.1:0", "--listen", "admin=127.0.0.1:0"]
    with Master(tmp_path, *listeners, "--ready", "accept:web", "--", *SERVICE) as master:
        master.ready()
        assert fetch(master.port("web")).startswith("1 ")
        master.restart()
        assert fetch(master.port("web")).startswith("2 ")
        check_stop(master)


@pytest.mark.parametrize("rule", ["accept", "accept:web,admin", "accept:admin", "auto"])
def test_accept_of_a_listener_that_nobody_serves(tmp_path: Path, rule: str) -> None:
    """A worker that does not wait on every listener that is meant is never ready."""
    listeners = ["--listen", "web=127.0.0.1:0", "--listen", "admin=127.0.0.1:0"]
    options = ["--ready", rule, "--ready-timeout", "300ms", "--backoff", "10ms"]
    with Master(tmp_path, *listeners, *options, "--", *SERVICE) as master:
        assert master.wait() == 5
        assert len(master.all("worker-late")) == 3
        assert master.all("worker-ready") == []


def test_notify(tmp_path: Path) -> None:
    """READY=1 counts if it comes from the worker; a stranger's is logged and ignored."""
    gate = _gate(tmp_path)
    environ = ["--env", "TELL=notify", "--env", f"GATE={gate}"]
    with Master(tmp_path, *TCP, *environ, "--ready", "notify", "--", *SERVICE) as master:
        master.saw_line("generation 1 begins")
        _pretend_to_be_ready(master)
        assert master.saw("notify-ignored")["pid"] == os.getpid()
        assert master.all("worker-ready") == []
        gate.write_bytes(b"go")
        master.ready()
        assert fetch(master.port()).startswith("1 ")
        check_stop(master)


def _pretend_to_be_ready(master: Master) -> None:
    (worker,) = master.workers()
    address = psutil.Process(worker).environ()["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"READY=1", address.replace("@", "\0", 1))


def test_fd(tmp_path: Path) -> None:
    """A newline on OVERSEER_READY_FD counts; that the worker waits for connections does not."""
    gate = _gate(tmp_path)
    environ = ["--env", "TELL=fd", "--env", f"GATE={gate}"]
    with Master(tmp_path, *TCP, *environ, "--ready", "fd", "--", *SERVICE) as master:
        master.saw_line("generation 1 begins")
        assert master.all("worker-ready") == []
        gate.write_bytes(b"go")
        master.ready()
        assert fetch(master.port()).startswith("1 ")
        check_stop(master)


@pytest.mark.parametrize("rule", ["notify", "fd"])
def test_silence(tmp_path: Path, rule: str) -> None:
    """A new version that serves and does not say so is rolled back, and the old one serves on.

    With one socket for both it had answered, too: what it had begun when it was killed is lost.
    """
    file = tmp_path / "overseer.toml"
    file.write_text(f'env = ["TELL={rule}"]')
    options = ["--config", str(file), "--ready", rule]
    with Master(tmp_path, *TCP, *options, "--", *SERVICE) as master:
        master.ready()
        file.write_text('env = ["TELL=nobody"]\nready_timeout = 1')
        with Load(master.port(), CLIENTS) as load:
            master.send(signal.SIGHUP)
            rolled_back = master.saw("rollout-rolled-back")
            master.saw("generation-gone", generation=2)
            load.more(100)
        assert "was not ready within 1 s" in rolled_back["reason"]
        check_killed(load)
        assert load.bodies[-1].startswith("1 ")
        check_stop(master)


def test_http(tmp_path: Path) -> None:
    """A 2xx counts if the new worker gave it; the old one's, on the same address, does not.

    With one socket for both, what the bad version had begun when it was killed is lost.
    """
    file = tmp_path / "overseer.toml"
    file.write_text("env = ['HEALTH=200']")
    options = ["--config", str(file), "--ready", "http:/health"]
    with Master(tmp_path, *TCP, *options, "--", *SERVICE) as master:
        enough = 3 + round(10 * master.ready().saw("service-ready")["took"])  # on a slow machine
        file.write_text(f"env = ['HEALTH=500']\nready_timeout = {enough}")
        with Load(master.port(), CLIENTS) as load:
            load.more()
            master.send(signal.SIGHUP)
            late = master.saw("rollout-rolled-back")
            master.saw("generation-gone", generation=2)
            load.more()
            file.write_text("env = ['HEALTH=204']")
            master.send(signal.SIGHUP)
            master.saw("rollout-committed", generation=3)
            master.saw("generation-gone", generation=1)
            load.more()
        assert f"was not ready within {enough} s" in late["reason"]
        said = [fact["reason"] for fact in master.all("worker-not-ready-yet", worker="2/0#1")]
        assert any("500" in reason for reason in said)
        check_killed(load)
        check_stop(master)


def test_exec(tmp_path: Path) -> None:
    """A command that exits with 0 counts; it knows the worker's pid, and is tried again."""
    gate, found = tmp_path / "gate", tmp_path / "found"
    command = f"sh -c 'test -e {gate} && echo $OVERSEER_WORKER_PID >{found}'"
    with Master(tmp_path, *TCP, "--ready", f"exec:{command}", "--", *SERVICE) as master:
        master.saw("worker-not-ready-yet")
        assert master.all("worker-ready") == []
        gate.touch()
        master.ready()
        assert [int(found.read_text())] == master.workers()
        check_stop(master)


def test_delay(tmp_path: Path) -> None:
    """A worker that has been alive so long counts, whatever it does."""
    with Master(tmp_path, *TCP, "--ready", "delay:300ms", "--", *SERVICE) as master:
        assert master.saw("service-ready")["took"] >= 0.3
        check_stop(master)


def _gate(tmp_path: Path) -> Path:
    """Return a FIFO: the program waits until the test has written to it."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    return gate
