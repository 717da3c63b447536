"""Under systemd and supervisord, with the files that are shipped: one pid, no gap, a clean end."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.load import Load, fetch
from tests.master import HELLO, PATIENCE, ROOT
from tests.needs import need

SDBOX = str(ROOT / "tests" / "sdbox.sh")
CANNOT = 77  # exit status of sdbox.sh where there can be no systemd in a box
UNITS = ROOT / "systemd"
OVERSEER = Path(sys.executable).with_name("overseer")
UNIT_NAMES = {
    "overseer@.service": "overseer@app.service",  # a template is checked as one of its instances
    "overseer-example.service": "overseer-example.service",
    "overseer-example.socket": "overseer-example.socket",
}

# The interpreter and the checkout may lie in somebody's home, which the units hide.
SEEN = f"[Service]\nProtectHome=tmpfs\nBindReadOnlyPaths={ROOT} {sys.prefix} {sys.base_prefix}\n"


def free_port() -> int:
    """Return a port that nobody has right now."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


def other_worker(port: int, than: str) -> str:
    """Return the answer of the first worker that is another one."""
    give_up_at = time.monotonic() + PATIENCE
    while time.monotonic() < give_up_at:
        if (body := fetch(port).strip()) != than:
            return body
    raise AssertionError(f"nobody else than {than!r} answers")


@contextmanager
def half_a_request(port: int) -> Iterator[socket.socket]:
    """Give a connection that a worker waits for: accepted, but the request has no end yet."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n")
        fetch(port)  # connections are accepted in order: if this one was, so was the other
        yield connection


# -- systemd ---------------------------------------------------------------------------------


class Box:
    """A systemd of its own that sees this machine's files and keeps its hands off them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.units = directory / "units"
        self.units.mkdir()
        mounted = [str(path) for path in (ROOT, sys.prefix, sys.base_prefix) if _mounted(path)]
        self._process = subprocess.Popen(
            [SDBOX, "boot", str(directory), *mounted],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        if self._process.stdout.readline() != "up\n":
            why = self.close()
            if self._process.returncode == CANNOT:
                pytest.skip(why)
            raise AssertionError(why)

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside; return its output."""
        words = [SDBOX, "run", str(self._directory), *command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.stderr}\n{self.run('journalctl', '-n100')}")
        return done.stdout.strip()

    def start_stop(self, unit: str) -> subprocess.Popen[bytes]:
        """Begin to stop a unit; return who waits for its end."""
        return subprocess.Popen([SDBOX, "run", str(self._directory), "systemctl", "stop", unit])

    def show(self, unit: str) -> dict[str, str]:
        """Return the properties of a unit."""
        lines = self.run("systemctl", "show", unit).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def saw(self, unit: str, **properties: str) -> dict[str, str]:
        """Wait until a unit has these properties; return all of them."""
        give_up_at = time.monotonic() + PATIENCE
        while time.monotonic() < give_up_at:
            shown = self.show(unit)
            if properties.items() <= shown.items():
                return shown
        raise AssertionError(f"{unit} is not {properties}: {self.run('journalctl', '-n100')}")

    def close(self) -> str:
        """End it; return what it complained of."""
        return self._process.communicate(timeout=PATIENCE)[1].strip()


def _mounted(path: Path | str) -> bool:
    """Whether a path is not on the root file system."""
    return not all(not parent.is_mount() for parent in [Path(path), *list(Path(path).parents)[:-1]])


# Inside, /usr/local/bin/overseer is the one under test, and whoever the service runs as may
# enter the directories on the way to it.  Nothing of this leaves the box.
FURNISH = """
set -e
mkdir -p /etc/overseer /srv/example/current /usr/local/bin
ln -sf "$1" /usr/local/bin/overseer
ln -sf "$2" /srv/example/current/app.py
[ -e /usr/bin/python3 ] || ln -s "$3" /usr/bin/python3
for path in "$1" "$2" "$(readlink -f "$3")"; do
    while [ "$path" != / ]; do
        path=$(dirname "$path")
        chmod o+x "$path" 2>/dev/null || true
    done
done
"""


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Boot a box with the shipped units in it; skip, with the reason, where there can be none."""
    box = Box(tmp_path_factory.mktemp("box"))
    for name in UNIT_NAMES:
        shutil.copy(UNITS / name, box.units)
    for name in ("overseer@.service", "overseer-example.service"):
        (box.units / f"{name}.d").mkdir()
        (box.units / f"{name}.d" / "seen.conf").write_text(SEEN)
    box.run("/bin/sh", "-c", FURNISH, "-", str(OVERSEER), HELLO[1], sys.executable)
    yield box
    assert box.close() == ""


def _configure(box: Box, name: str, text: str) -> None:
    box.run("/bin/sh", "-c", 'printf %s "$1" >"/etc/overseer/$2.toml"', "-", text, name)


@pytest.mark.parametrize("name", UNIT_NAMES)
def test_systemd_understands_every_line(tmp_path: Path, name: str) -> None:
    """No key is unknown, no value is ignored: systemd-analyze has nothing to say."""
    for source, target in UNIT_NAMES.items():
        text = (UNITS / source).read_text().replace("/usr/local/bin/overseer", "/bin/true")
        (tmp_path / target).write_text(text)
    words = [need("systemd-analyze"), "verify", "--man=no", str(tmp_path / UNIT_NAMES[name])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    # It looks at what these units refer to as well, which is this machine's business.
    about_ours = [line for line in done.stderr.splitlines() if "overseer" in line]
    assert (done.returncode, about_ours) == (0, [])


@pytest.mark.parametrize("name", [name for name in UNIT_NAMES if name.endswith(".service")])
def test_a_unit_may_do_little_else(name: str) -> None:
    """The exposure that systemd computes is at most 3.0 of 10; 9.6 is a unit without a sandbox."""
    options = ["--offline=yes", "--threshold=30"]
    words = [need("systemd-analyze"), "security", *options, str(UNITS / name)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_systemd_service_starts_reloads_and_drains(box: Box) -> None:
    """Active means ready; a reload keeps the pid; a stop waits for the request in progress."""
    port, unit = free_port(), "overseer@app.service"
    command = [f'"{word}"' for word in HELLO]
    listen = f'listen = ["127.0.0.1:{port}"]\n'
    _configure(box, "app", f"command = [{', '.join(command)}]\n{listen}")
    box.run("systemctl", "start", unit)
    first, before = fetch(port).strip(), box.show(unit)
    assert before["ActiveState"] == "active"
    with Load(port, clients=2) as load:
        box.run("systemctl", "reload", unit)
        other_worker(port, than=first)
        status = "Generation 2, 1 of 1 workers ready"
        after = box.saw(unit, ActiveState="active", StatusText=status)
        load.more()
    assert load.failures == []
    assert (after["MainPID"], after["NRestarts"]) == (before["MainPID"], "0")
    with half_a_request(port) as connection:
        stop = box.start_stop(unit)
        box.saw(unit, ActiveState="deactivating")
        connection.sendall(b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.0 200 ")
        assert stop.wait(PATIENCE) == 0
    assert box.show(unit)["ActiveState"] == "inactive"
    assert f"{unit}: Deactivated successfully" in box.run("journalctl", "--unit", unit)


def test_a_systemd_service_with_a_wrong_configuration_is_not_tried_again(box: Box) -> None:
    """Exit status 2 is final: the unit has failed, and says so at once."""
    _configure(box, "wrong", 'commando = ["true"]\n')
    box.run("systemctl", "start", "overseer@wrong.service", check=False)
    shown = box.show("overseer@wrong.service")
    assert (shown["ActiveState"], shown["ExecMainStatus"]) == ("failed", "2")
    assert shown["NRestarts"] == "0"


def test_connections_to_a_systemd_socket_wait_while_the_master_is_restarted(box: Box) -> None:
    """The first request starts the service; a whole new master costs none."""
    port, unit = free_port(), "overseer-example"
    (box.units / f"{unit}.socket.d").mkdir()
    (box.units / f"{unit}.socket.d" / "port.conf").write_text(
        f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n"
    )
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "start", f"{unit}.socket")
    fetch(port)
    before = box.saw(f"{unit}.service", ActiveState="active")
    with Load(port, clients=2) as load:
        load.more()
        box.run("systemctl", "restart", f"{unit}.service")
        load.more()
    assert load.failures == []
    assert box.show(f"{unit}.service")["MainPID"] != before["MainPID"]
    box.run("systemctl", "stop", f"{unit}.socket", f"{unit}.service")
    assert "Failed" not in box.run("journalctl", "--unit", f"{unit}.service")


# -- supervisord --------------------------------------------------------------------------------

SUPERVISORD = """
[unix_http_server]
file=%(here)s/s
[supervisord]
nodaemon=true
logfile=%(here)s/log
pidfile=%(here)s/pid
childlogdir=%(here)s
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://%(here)s/s
[include]
files=overseer.conf
"""


class Supervisord:
    """A supervisord of its own with the shipped program section."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory
        section = (ROOT / "supervisor" / "overseer.conf").read_text()
        for shipped, here in (
            ("/usr/local/bin/overseer", str(OVERSEER)),
            ("--listen :8000", f"--listen 127.0.0.1:{port}"),
            ("--chdir /srv/app/current ", ""),
            ("/usr/bin/python3 app.py", " ".join(HELLO)),
        ):
            assert shipped in section
            section = section.replace(shipped, here)
        (directory / "overseer.conf").write_text(section)
        (directory / "supervisord.conf").write_text(SUPERVISORD)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-c", "supervisord.conf"],
            cwd=directory,
            env={"XDG_RUNTIME_DIR": str(directory)},
            stdout=subprocess.DEVNULL,
        )

    def control(self, *words: str) -> str:
        """Return what supervisorctl says."""
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", "supervisord.conf"]
        done = subprocess.run(
            [*command, *words], cwd=self._directory, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    def saw(self, state: str) -> str:
        """Wait until the program is in this state; return its pid."""
        give_up_at = time.monotonic() + PATIENCE
        while time.monotonic() < give_up_at:
            if state in (status := self.control("status", "app")):
                return status.partition("pid ")[2].partition(",")[0]
        raise AssertionError(f"app is not {state}: {self.log()}")

    def log(self) -> str:
        """Return supervisord's log."""
        return (self._directory / "log").read_text()

    def close(self) -> int:
        """End it, with the program; return its exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE)


def test_supervisord_sees_one_pid_and_no_restart(tmp_path: Path) -> None:
    """Three restarts under load by ``supervisorctl signal``: no request lost, nothing to notice."""
    pytest.importorskip("supervisor")
    port = free_port()
    supervisord = Supervisord(tmp_path, port)
    try:
        pid = supervisord.saw("RUNNING")
        with Load(port, clients=2) as load:
            worker = fetch(port).strip()
            for _ in range(3):
                assert supervisord.control("signal", "SIGUSR2", "app") == "app: signalled"
                worker = other_worker(port, than=worker)
            load.more()
        assert load.failures == []
        assert supervisord.saw("RUNNING") == pid
        assert supervisord.control("stop", "app") == "app: stopped"
        assert supervisord.log().count("spawned: 'app'") == 1
        assert "stopped: app (exit status 0)" in supervisord.log()
    finally:
        assert supervisord.close() == 0
