"""The exit status of ``run``, and the one line that says why."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.master import HELLO, ROOT, Master, program
from tests.needs import need


def run(tmp_path: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "overseer_py", "run", *arguments],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), **environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    """Return the line that says why."""
    return result.stderr.rstrip().splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "overseer: no command to run; write: overseer run [OPTIONS] -- COMMAND [ARG …]"),
        (
            ["--config", "/no/such/file", "--", "true"],
            "overseer: /no/such/file: No such file or directory",
        ),
        (
            ["--listen", "nonsense", "--", "true"],
            (
                "overseer: --listen: 'nonsense' is no address; "
                "write HOST:PORT, :PORT, [V6]:PORT or unix:/path"
            ),
        ),
        (
            ["--ready", "exec:echo 'oops", "--", "true"],
            "overseer: --ready: No closing quotation",
        ),
        (
            ["--restart-signal", "SEGV", "--", "true"],
            "overseer: restart_signal: SIGSEGV is not for that; use USR2",
        ),
        (["--control", "/", "--", "true"], "overseer: control: /: not a path to a file"),
        (
            ["--user", "nobody-of-that-name", "--", "true"],
            "overseer: user nobody-of-that-name: no such user",
        ),
        (["--chdir", "/no/where", "--", "true"], "overseer: chdir: /no/where: no such directory"),
        (
            ["--", "true", "{fd}"],
            "overseer: command: {fd}: no listener for it (there is: none; add --listen)",
        ),
        (
            ["--ready", "accept:web", "--listen", "a=127.0.0.1:0", "--", "true"],
            "overseer: ready: no listener is named 'web'; there are: a",
        ),
        (
            ["--env-file", "/no/such.env", "--", "true"],
            "overseer: env_file: /no/such.env: No such file or directory",
        ),
        (
            ["--control", "/no/where/x.sock", "--", "true"],
            (
                "overseer: control: /no/where/x.lock: No such file or directory; "
                "give --control PATH, or none"
            ),
        ),
        (
            ["--pid-file", "/no/where/x.pid", "--", "true"],
            "overseer: pid_file: /no/where/x.pid: No such file or directory",
        ),
    ],
)
def test_2_usage_or_configuration(tmp_path: Path, arguments: list[str], line: str) -> None:
    """What cannot be meant is refused before anything is started."""
    result = run(tmp_path, *arguments)
    assert last_line(result) == line
    assert result.returncode == 2
    assert not list(tmp_path.rglob("*.lock"))


def test_2_an_unknown_option_names_the_nearest(tmp_path: Path) -> None:
    """As click says it, with the same status."""
    result = run(tmp_path, "--worker", "2", "--", "true")
    assert result.returncode == 2
    assert "--workers" in result.stderr


def test_2_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    """Nothing can be started from a directory that was deleted."""
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os; os.rmdir(os.getcwd()); from overseer_py.__main__ import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "run", "--", "true"],
        cwd=gone,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert last_line(result) == ("overseer: chdir: the working directory is gone; give --chdir DIR")
    assert result.returncode == 2


def test_3_a_listener_that_could_not_be_had(tmp_path: Path) -> None:
    """The line names the address and the remedy; nothing else stays bound."""
    path = tmp_path / "app.sock"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run(tmp_path, "-l", f"a=unix:{path}", "-l", f"b=127.0.0.1:{port}", "--", *HELLO)
    assert result.returncode == 3
    assert last_line(result) == (
        f"overseer: listen 127.0.0.1:{port}: address already in use; "
        "stop whoever has it, or choose another"
    )
    assert not path.exists()


def test_4_another_overseer_of_that_name_runs(tmp_path: Path) -> None:
    """The line names the pid of the first, which does not notice."""
    with Master(tmp_path, "--name", "app", "-l", "127.0.0.1:0", "--", *HELLO) as first:
        first.ready()
        result = run(tmp_path, "--name", "app", "--", "true")
        assert result.returncode == 4
        assert last_line(result) == (
            f"overseer: overseer 'app' runs already with pid {first.pid}; "
            "stop it, or choose another --name"
        )
        assert run(tmp_path, "--control", "none", "--on-exit", "exit", "--", "true").returncode == 0
        assert first.stop() == 0
    assert not list(tmp_path.rglob("*.lock"))


def test_5_gave_up_at_the_first_start(tmp_path: Path) -> None:
    """A service that has never been ready is tried three times."""
    result = run(tmp_path, "--backoff", "50ms", "-l", "127.0.0.1:0", "--", *program("exits"))
    assert result.returncode == 5
    assert last_line(result).startswith(
        "overseer: exits gave up: worker 1/0#3 exited with status 1"
    )
    assert result.stderr.count("RuntimeError: database is missing") >= 3


def test_5_gave_up_after_max_crashes(tmp_path: Path) -> None:
    """A service that had been ready is given up after --max-crashes in a row."""
    options = ["--max-crashes", "2", "--backoff", "10ms", "-l", "127.0.0.1:0"]
    with Master(tmp_path, *options, "--", *HELLO) as master:
        master.ready()
        for _ in range(2):
            pid = master.workers()[-1]
            os.kill(pid, signal.SIGKILL)
            if not master.all("worker-started", worker="1/0#2"):
                master.saw("worker-ready", worker="1/0#2")
        assert master.wait() == 5
        assert "gave up" in master.stderr[-1]


@pytest.mark.parametrize(("command", "status"), [("exit 7", 7), ("exit 0", 0), ("kill -9 $$", 137)])
def test_the_workers_own_status(tmp_path: Path, command: str, status: int) -> None:
    """With --on-exit exit the master ends as the worker did."""
    result = run(tmp_path, "--on-exit", "exit", "--", "sh", "-c", command)
    assert result.returncode == status
    if status:
        assert "service exited: worker 1/0#1" in last_line(result)


def test_0_stopped_as_asked_although_the_worker_dies_of_the_signal(tmp_path: Path) -> None:
    """A worker that has no handler for the drain signal has drained."""
    with Master(tmp_path, "--", "sleep", "1000") as master:
        master.ready()
        assert master.stop() == 0
        assert master.saw("worker-exited")["status"] == 128 + signal.SIGTERM


def test_a_pid_file_lives_as_long_as_its_master(tmp_path: Path) -> None:
    """It names the master, and is removed unless somebody else has taken it over."""
    file = tmp_path / "app.pid"
    for takeover in (False, True):
        with Master(tmp_path, "--pid-file", str(file), "--", "sleep", "1000") as master:
            master.ready()
            assert int(file.read_text()) == master.pid
            if takeover:
                file.write_text("1\n")
            assert master.stop() == 0
            assert file.exists() is takeover


@pytest.mark.parametrize("lacking", ["setuid", "setgid", "kill"])
def test_root_that_may_not_do_what_its_workers_need(tmp_path: Path, lacking: str) -> None:
    """Refused at the start: without CAP_KILL nobody could end them."""
    if os.geteuid():
        pytest.skip("needs root to run workers as somebody else")
    wrapper = [need("setpriv"), f"--bounding-set=-{lacking}", "--inh-caps=-all"]
    with Master(tmp_path, "--user", "nobody", "--", "true", wrapper=wrapper) as master:
        assert master.wait() == 2
        master.saw_line(f"as somebody else root needs CAP_{lacking.upper()}; add it to the ")
