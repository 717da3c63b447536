"""``check`` and ``init``: a service's description, looked at and written down."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.commands import overseer
from tests.e2e.supervisord import Supervisord
from tests.e2e.systemd import Box
from tests.load import fetch, free_port
from tests.master import HELLO, OVERSEER, ROOT
from tests.needs import need

# Words that a reader of files could take for something else.
ODD = ["two words", 'a "quote"', "it's", "$HOME ${HOME}", "100 %n %%", "back\\slash", "", "a ;b #c"]
VARIABLE = 'x "y" $Z %h'


# -- check --------------------------------------------------------------------------------------


def test_a_good_service(tmp_path: Path) -> None:
    """Status 0 and what it is; nothing is bound, the port may be in use."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "e.env").write_text("A=1\n")
        (tmp_path / "overseer.toml").write_text(
            f'listen = ["web=127.0.0.1:{port}"]\nready = "http:web/health"\nenv_file = ["e.env"]\n'
            f'command = ["{sys.executable}", "app.py", "--fd", "{{fd:web}}"]\nworkers = 2\n'
        )
        done = overseer(tmp_path, "check", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        what, runs, where = done.stdout.splitlines()
        assert what == "app: good"
        assert runs.endswith("app.py --fd {fd:web}")
        assert f"in {tmp_path}, 2 worker(s), " in where
        assert f"127.0.0.1:{port}" in where
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.env", "overseer.toml"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("workerz = 2", "overseer.toml: workerz: unknown key; did you mean workers?"),
        ("workers = 0", "overseer.toml: workers: "),
        ("settle = 'soon'", "overseer.toml: settle: 'soon'"),
        ("not toml", "overseer.toml: not TOML: "),
        ("chdir = '/nowhere/at/all'", "chdir: /nowhere/at/all: no such directory"),
        ("env_file = ['no.env']", "env_file: no.env: No such file or directory"),
        ("env_dir = ['no.d']", "env_dir: no.d: No such file or directory"),
        ("user = 'nobody-of-that-name'", "nobody-of-that-name"),
        ("ready = 'accept:admin'", "ready: no listener is named 'admin'; there are: web"),
        ("ready = 'http:admin/health'", "ready: no listener is named 'admin'; there are: web"),
        ("listen = []\nready = 'accept'", "ready: this rule needs a listener; add --listen"),
        ("command = ['true', '{fd:admin}']", "command: {fd:admin}: no listener for it (there is: "),
        ("command = ['no-such-program']", "command: no-such-program: no such program"),
        ("command = ['./no-such-file']", "command: ./no-such-file: no such program"),
        ("command = []", "no command to run"),
    ],
)
def test_a_bad_service(tmp_path: Path, text: str, why: str) -> None:
    """Status 2, and in one line what is wrong."""
    lines = ["listen = ['web=127.0.0.1:0']", "command = ['true']"]
    given = [line.partition(" ")[0] for line in text.splitlines()]
    lines = [line for line in lines if line.partition(" ")[0] not in given]
    (tmp_path / "overseer.toml").write_text("\n".join([*lines, text]))
    done = overseer(tmp_path, "check", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("overseer: ")
    assert why in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("what", ["systemd", "supervisor"])
def test_nothing_is_written_of_a_bad_service(tmp_path: Path, what: str) -> None:
    """As check: status 2, and what is wrong."""
    done = overseer(tmp_path, "init", what, "--", "no-such-program")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("overseer: command: no-such-program: ")


def test_a_service_of_sockets_that_are_handed_over(tmp_path: Path) -> None:
    """Whether systemd gives one cannot be known: a warning."""
    done = overseer(tmp_path, "check", "--", "true", "{fd}")
    assert done.returncode == 0
    assert done.stderr.startswith("overseer: warning: no listener: ")


# -- init systemd -------------------------------------------------------------------------------


def test_a_unit(tmp_path: Path) -> None:
    """It is right for systemd; paths are absolute, time-outs follow from those of the service."""
    (tmp_path / "e.env").write_text("A=1\n")
    (tmp_path / "e.d").mkdir()
    (tmp_path / "app.py").touch()
    options = ["--ready-timeout", "2m", "--settle", "10s", "--stop-delay", "5s"]
    options += ["--drain-timeout", "90s", "--env-file", "e.env", "--pid-file", "app.pid"]
    options += ["--watch", "src", "--env-dir", "e.d"]
    command = ["init", "systemd", *options, "--", "env", "A=1", "true"]
    done = overseer(tmp_path, *command, cwd=tmp_path, env={"OVERSEER_WORKERS": "3"})
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "TimeoutStartSec=160s" in lines
    assert "TimeoutStopSec=110s" in lines
    (reload,) = (line.split() for line in lines if line.startswith("ExecReload="))
    asks = [f"ExecReload={sys.executable}", "-m", "overseer_py", "restart", "--pid", "$MAINPID"]
    assert reload[: len(asks)] == asks
    start = done.stdout.partition("ExecStart=")[2].partition("\n#")[0].replace("\\\n", "").split()
    assert start[:4] == [sys.executable, "-m", "overseer_py", "run"]
    given = dict(zip(start[4::2], start[5::2], strict=False))
    assert given["--env-file"] == str(tmp_path / "e.env")
    assert given["--env-dir"] == str(tmp_path / "e.d")
    assert given["--pid-file"] == str(tmp_path / "app.pid")
    assert given["--watch"] == str(tmp_path / "src")
    assert given["--chdir"] == str(tmp_path)
    assert given["--workers"] == "3"  # from the environment, which is not the service's
    assert start[-4:] == ["--", need("env"), "A=1", "true"]
    unit = tmp_path / "env.service"
    unit.write_text(done.stdout)
    words = [need("systemd-analyze"), "verify", "--man=no", str(unit)]
    verified = subprocess.run(words, capture_output=True, text=True, check=False)
    about_ours = [line for line in verified.stderr.splitlines() if "env.service" in line]
    assert (verified.returncode, about_ours) == (0, [])


@pytest.mark.parametrize(("orphans", "mode"), [("drain", "mixed"), ("adopt", "process")])
def test_a_unit_leaves_workers_that_are_to_be_adopted(
    tmp_path: Path, orphans: str, mode: str
) -> None:
    """Or systemd would kill them with the master."""
    done = overseer(tmp_path, "init", "systemd", "--orphans", orphans, "--", "true")
    assert f"KillMode={mode}" in done.stdout.splitlines()


def test_a_unit_of_a_service_that_cannot_be_asked(tmp_path: Path) -> None:
    """Its reload is a signal."""
    done = overseer(tmp_path, "init", "systemd", "--control", "none", "--", "true")
    lines = done.stdout.splitlines()
    assert "ExecReload=/bin/kill -USR2 $MAINPID" in lines
    assert "    --control none \\" in lines


def test_a_unit_in_use(box: Box) -> None:
    """Under a real systemd every word comes through, and a reload says how it has ended."""
    port = free_port()
    words = ["--name", "written", "--listen", f"127.0.0.1:{port}", "--env", f"ODD={VARIABLE}"]
    words += ["--fdstore"]
    done = subprocess.run(
        [OVERSEER, "init", "systemd", *words, "--", *HELLO, *ODD],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    (box.units / "written.service").write_text(done.stdout)
    box.run("systemctl", "daemon-reload")
    unit = str(box.units / "written.service")
    assert box.run("/bin/sh", "-c", f"systemd-analyze verify --man=no {unit} 2>&1") == ""
    box.run("systemctl", "start", "written")
    assert box.show("written.service")["NFileDescriptorStore"] == "1"
    before = fetch(port).strip()
    worker = before.split()[-1]
    assert box.run("cat", f"/proc/{worker}/cmdline").split("\0")[:-1] == [*HELLO, *ODD]
    assert f"ODD={VARIABLE}" in box.run("cat", f"/proc/{worker}/environ").split("\0")
    box.run("systemctl", "reload", "written")
    assert fetch(port).strip() != before
    assert json.loads(box.run(str(OVERSEER), "status", "written", "--json"))["generation"] == 2
    box.run("systemctl", "stop", "written")
    assert box.show("written.service")["Result"] == "success"


# -- init supervisor ----------------------------------------------------------------------------


def test_a_section(tmp_path: Path) -> None:
    """Under a real supervisord it gets RUNNING, with every word, and stops as it should."""
    pytest.importorskip("supervisor")
    port = free_port()
    words = ["--name", "app", "--listen", f"127.0.0.1:{port}", "--env", f"ODD={VARIABLE}"]
    words += ["--drain-timeout", "90s", "--", *HELLO, *ODD]
    done = overseer(tmp_path, "init", "supervisor", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "stopwaitsecs=105" in done.stdout.splitlines()
    supervisord = Supervisord(tmp_path, done.stdout)
    try:
        pid = supervisord.saw("RUNNING")
        worker = Path("/proc", supervisord.saw_answer(port).split()[-1])
        assert (worker / "cmdline").read_text().split("\0")[:-1] == [*HELLO, *ODD]
        assert f"ODD={VARIABLE}" in (worker / "environ").read_text().split("\0")
        assert overseer(tmp_path, "restart", "--pid", pid).returncode == 0
        assert supervisord.control("stop", "app") == "app: stopped"
        assert "stopped: app (exit status 0)" in supervisord.log()
    finally:
        assert supervisord.close() == 0
