"""Real supervisors above the master: a systemd in a box, and a supervisord."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.master import HELLO, PATIENCE, ROOT

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


def boot(directory: Path) -> Box:
    """Boot a box with the shipped units in it; skip, with the reason, where there can be none."""
    box = Box(directory)
    for name in UNIT_NAMES:
        shutil.copy(UNITS / name, box.units)
    for name in ("overseer@.service", "overseer-example.service"):
        (box.units / f"{name}.d").mkdir()
        (box.units / f"{name}.d" / "seen.conf").write_text(SEEN)
    box.run("/bin/sh", "-c", FURNISH, "-", str(OVERSEER), HELLO[1], sys.executable)
    return box


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
    """A supervisord of its own with a program section, of which the program is named app."""

    def __init__(self, directory: Path, section: str) -> None:
        self._directory = directory
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
