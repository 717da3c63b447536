"""Under supervisord, with the section that is shipped: one pid, no gap, a clean end."""

from __future__ import annotations

import configparser
import os
import signal
import socket
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from tests.e2e.commands import overseer
from tests.e2e.supervisord import Supervisord
from tests.load import Load, fetch, free_port, half_a_request, other_worker
from tests.master import HELLO, OVERSEER, PATIENCE, ROOT, Master

pytest.importorskip("supervisor")

SHIPPED = (ROOT / "supervisor" / "overseer.conf").read_text()


def _shipped(directory: Path, port: int, options: str = "", more: str = "") -> str:
    """Return the shipped program section, for the example and this checkout."""
    section = SHIPPED
    for shipped, here in (
        ("/usr/local/bin/overseer", str(OVERSEER)),
        ("--listen :8000", f"--listen 127.0.0.1:{port} {options}"),
        ("--chdir /srv/app/current ", ""),
        ("/usr/bin/python3 app.py", " ".join(HELLO)),
        ("=/var/log/", f"={directory}/"),
    ):
        assert shipped in section
        section = section.replace(shipped, here)
    return section + more


def _ended(pid: int) -> None:
    """Wait until a process that is not ours has ended."""
    give_up_at = time.monotonic() + PATIENCE
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < give_up_at, f"{pid} has not ended"


# -- as it is meant to be ---------------------------------------------------------------------


def test_supervisord_sees_one_pid_and_no_restart(tmp_path: Path) -> None:
    """Five restarts under load by ``supervisorctl signal``: no request lost, nothing to notice."""
    port = free_port()
    with Supervisord(tmp_path, _shipped(tmp_path, port)) as supervisord:
        pid = supervisord.saw("RUNNING")
        worker = supervisord.saw_answer(port)
        supervisord.saw_stderr("event=service-ready")
        with Load(port, clients=2) as load:
            for _ in range(5):
                assert supervisord.control("signal", "SIGUSR2", "app") == "app: signalled"
                worker = other_worker(port, than=worker)
            load.more()
        assert load.failures == []
        assert supervisord.saw("RUNNING") == pid
        assert supervisord.control("stop", "app") == "app: stopped"
        supervisord.saw_events("STARTING", "RUNNING", "STOPPING", "STOPPED")
        assert "stopped: app (exit status 0)" in supervisord.log()


def test_a_stop_waits_for_the_request_in_progress(tmp_path: Path) -> None:
    """It is answered in full, and only then is the program STOPPED."""
    port = free_port()
    with Supervisord(tmp_path, _shipped(tmp_path, port)) as supervisord:
        supervisord.saw_answer(port)
        with half_a_request(port) as connection:
            stop = supervisord.begin("stop", "app")
            supervisord.saw("STOPPING")
            connection.sendall(b"\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.0 200 ")
        assert stop.communicate(timeout=PATIENCE)[0] == "app: stopped\n"
        supervisord.saw_events("STARTING", "RUNNING", "STOPPING", "STOPPED")


def test_a_changed_file_is_taken_over_by_hup(tmp_path: Path) -> None:
    """What is good in it, that is: what is wrong changes nothing, and is in the log."""
    port, file = free_port(), tmp_path / "overseer.toml"
    file.write_text("workers = 1\n")
    section = _shipped(tmp_path, port, f"--config {file}")
    with Supervisord(tmp_path, section) as supervisord:
        worker = supervisord.saw_answer(port)
        file.write_text("workerz = 2\n")
        assert supervisord.control("signal", "SIGHUP", "app") == "app: signalled"
        why = "overseer.toml: workerz: unknown key; did you mean workers?"
        supervisord.saw_stderr(why)
        assert fetch(port).strip() == worker
        file.write_text("workers = 1\nsettle = '10ms'\n")
        supervisord.control("signal", "SIGHUP", "app")
        other_worker(port, than=worker)
        supervisord.control("stop", "app")
        supervisord.saw_events("STARTING", "RUNNING", "STOPPING", "STOPPED")


# -- what goes wrong --------------------------------------------------------------------------


def test_a_killed_master_is_started_again(tmp_path: Path) -> None:
    """Also while a worker of the old one still had a request: none of them stays."""
    port = free_port()
    with Supervisord(tmp_path, _shipped(tmp_path, port)) as supervisord:
        pid = int(supervisord.saw("RUNNING"))
        worker = supervisord.saw_answer(port)
        with half_a_request(port):
            os.kill(pid, signal.SIGKILL)
            _ended(int(worker.split()[-1]))
        assert supervisord.saw_answer(port) != worker
        assert int(supervisord.saw("RUNNING")) != pid
        supervisord.saw_events("STARTING", "RUNNING", "EXITED expected:0", "STARTING", "RUNNING")
        assert "exited: app (terminated by SIGKILL; not expected)" in supervisord.log()


def test_the_master_survives_supervisord(tmp_path: Path) -> None:
    """Nobody reads its stderr any more: it serves on, rolls over, and stops as it should."""
    port = free_port()
    supervisord = Supervisord(tmp_path, _shipped(tmp_path, port))
    try:
        master = psutil.Process(int(supervisord.saw("RUNNING")))
        worker = supervisord.saw_answer(port)
        supervisord.saw_stderr("event=service-ready")
        supervisord.process.kill()
        supervisord.process.wait(PATIENCE)
        with Load(port, clients=2) as load:
            for _ in range(2):
                master.send_signal(signal.SIGUSR2)
                worker = other_worker(port, than=worker)
            load.more()
        assert load.failures == []
        assert overseer(tmp_path, "stop", "app").returncode == 0
        _ended(master.pid)
        _ended(int(worker.split()[-1]))
    finally:
        supervisord.close()
        for left in psutil.process_iter(["cmdline"]):  # it is nobody's child now
            if f"127.0.0.1:{port}" in (left.info["cmdline"] or ()):
                with suppress(psutil.NoSuchProcess):
                    left.kill()


def test_logs_are_rotated_while_it_runs(tmp_path: Path) -> None:
    """By supervisord for their size, and by moving them away and telling it: nobody notices."""
    port, more = free_port(), "stderr_logfile_maxbytes=2KB\nstderr_logfile_backups=2\n"
    with Supervisord(tmp_path, _shipped(tmp_path, port, more=more)) as supervisord:
        pid = supervisord.saw("RUNNING")
        worker = supervisord.saw_answer(port)
        supervisord.saw_stderr("event=service-ready")
        restarts = 0
        with Load(port, clients=2) as load:
            while not (tmp_path / "app.log.2").exists():
                supervisord.control("signal", "SIGUSR2", "app")
                restarts += 1
                worker = other_worker(port, than=worker)
            _moved(tmp_path / "app.log", tmp_path / "moved")
            supervisord.process.send_signal(signal.SIGUSR2)
            while not (tmp_path / "app.log").exists():
                load.more(1)
            supervisord.control("signal", "SIGUSR2", "app")
            other_worker(port, than=worker)
        assert load.failures == []
        assert supervisord.saw("RUNNING") == pid
        _logged(tmp_path, f"event=rollout-committed generation={restarts + 2} ")


def _moved(path: Path, to: Path) -> None:
    """Rename a file, which supervisord may be about to rename itself."""
    while not to.exists():
        with suppress(FileNotFoundError):
            path.rename(to)


def _logged(directory: Path, text: str) -> None:
    """Wait until this stands in the program's log, or in one that was rotated for its size."""
    give_up_at = time.monotonic() + PATIENCE
    while time.monotonic() < give_up_at:
        with suppress(FileNotFoundError):  # it is being rotated
            if any(text in path.read_text() for path in directory.glob("app.log*")):
                return
    raise AssertionError(f"{text} was not logged")


# -- what is wrong from the beginning ---------------------------------------------------------


def test_a_wrong_configuration_is_named_and_not_tried_again(tmp_path: Path) -> None:
    """EXITED, as expected of status 2, with file, key and the nearest key in the log."""
    port, file = free_port(), tmp_path / "overseer.toml"
    file.write_text("workerz = 2\n")
    with Supervisord(tmp_path, _shipped(tmp_path, port, f"--config {file}")) as supervisord:
        supervisord.saw("EXITED")
        assert "exited: app (exit status 2; expected)" in supervisord.log()
        assert supervisord.stderr() == (
            f"overseer: {file}: workerz: unknown key; did you mean workers?"
        )
        file.write_text("workers = 2\n")
        assert supervisord.control("start", "app") == "app: started"
        supervisord.saw_answer(port)
        supervisord.saw_events("STARTING", "RUNNING", "EXITED expected:1", "STARTING", "RUNNING")


def test_a_name_in_use_is_named_and_not_tried_again(tmp_path: Path) -> None:
    """Status 4, and the pid of whoever has it."""
    listen = ["--name", "app", "--listen", "127.0.0.1:0"]
    with Master(tmp_path, *listen, "--", *HELLO) as first:
        first.ready()
        with Supervisord(tmp_path, _shipped(tmp_path, free_port())) as supervisord:
            supervisord.saw("EXITED")
            assert "exited: app (exit status 4; expected)" in supervisord.log()
            assert f"'app' runs already with pid {first.pid}" in supervisord.stderr()
            supervisord.saw_events("STARTING", "RUNNING", "EXITED expected:1")
        assert first.stop() == 0


def test_a_taken_port_is_tried_again_until_it_is_free(tmp_path: Path) -> None:
    """For as long as it takes: status 3 is unexpected."""
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    with closing(taken), Supervisord(tmp_path, _shipped(tmp_path, port)) as supervisord:
        supervisord.saw_log("exited: app (exit status 3; not expected)", times=3)
        taken.close()
        supervisord.saw_answer(port)
        assert f"listen 127.0.0.1:{port}: address already in use" in supervisord.stderr()


def test_init_writes_what_is_shipped(tmp_path: Path) -> None:
    """Both sections say the same, but for what is the service's own."""
    words = ["--name", "app", "--listen", ":8000", "--", *HELLO]
    written = overseer(tmp_path, "init", "supervisor", *words).stdout
    values = []
    for text in (SHIPPED, written):
        parser = configparser.RawConfigParser()
        parser.read_string(text)
        section = dict(parser["program:app"])
        for own in ("command", "user", "environment", "stderr_logfile", "stdout_logfile"):
            section.pop(own, None)
        values.append(section)
    assert values[0] == values[1]
