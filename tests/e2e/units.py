"""One service of the shipped template in a systemd of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import Any

from tests.e2e.systemd import Box
from tests.load import fetch, free_port
from tests.master import PATIENCE, PROGRAMS, program

SERVICE = program("service")
MASTER = {"Id", "MainPID", "NRestarts", "ActiveState", "SubState", "StatusText", "Result"}


class Unit:
    """``overseer@NAME.service``: /etc/overseer/NAME.toml says what it runs."""

    def __init__(self, box: Box, name: str) -> None:
        self.box = box
        self.name = name
        self.unit = f"overseer@{name}.service"
        self.port = free_port()

    def describe(self, *command: str, **keys: object) -> None:
        """Write the file; it listens at ``port`` if nothing else is said."""
        keys = {"listen": [f"127.0.0.1:{self.port}"], "command": list(command), **keys}
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in keys.items()]
        self.write(f"/etc/overseer/{self.name}.toml", "".join(lines))

    def drop_in(self, text: str, name: str = "test") -> None:
        """Change the unit."""
        directory = self.box.units / f"{self.unit}.d"
        directory.mkdir(exist_ok=True)
        (directory / f"{name}.conf").write_text(text)
        self.box.run("systemctl", "daemon-reload")

    def write(self, path: str, text: str) -> None:
        """Write a file in the box, atomically, as a deployment should."""
        script = 'mkdir -p "${1%/*}" && printf %s "$2" >"$1.new" && mv "$1.new" "$1"'
        self.box.run("/bin/sh", "-c", script, "-", path, text)

    def deploy(self, name: str) -> None:
        """Make one of the programs of the tests the version that is run."""
        self.write(f"/srv/{self.name}/app.py", (PROGRAMS / f"{name}.py").read_text())

    def systemctl(self, verb: str) -> int:
        """Return the exit status of a systemctl command for this unit."""
        script = f"systemctl {verb} {self.unit} >/dev/null 2>&1; echo $?"
        return int(self.box.run("/bin/sh", "-c", script))

    def begin(self, verb: str) -> subprocess.Popen[bytes]:
        """Begin such a command; return who waits for its end."""
        return self.box.begin("systemctl", verb, self.unit)

    def start(self) -> str:
        """Start it; return the pid of the master."""
        self.box.run("systemctl", "start", self.unit)
        return self.box.show(self.unit)["MainPID"]

    def show(self) -> dict[str, str]:
        """Return what matters of its state."""
        shown = self.box.show(self.unit)
        return {key: value for key, value in shown.items() if key in MASTER}

    def saw(self, **properties: str) -> dict[str, str]:
        """Wait until it has these properties."""
        return self.box.saw(self.unit, **properties)

    def status(self) -> dict[str, Any]:
        """Return what ``overseer status --json`` prints for root."""
        command = ("/usr/local/bin/overseer", "status", self.name, "--json")
        document: dict[str, Any] = json.loads(self.box.run(*command))
        return document

    def kill(self, number: signal.Signals) -> None:
        """Send a signal to the master alone."""
        self.box.run("kill", f"-{number.name.removeprefix('SIG')}", self.show()["MainPID"])

    def log(self) -> str:
        """Return what the unit has written."""
        self.box.run("journalctl", "--sync")  # what was said before may still be on its way
        return self.box.run("journalctl", "--unit", self.unit, "--output=cat")

    def answers(self) -> str:
        """Wait until it answers; return what."""
        give_up_at = time.monotonic() + PATIENCE
        while time.monotonic() < give_up_at:
            try:
                return fetch(self.port).strip()
            except OSError:
                continue
        raise AssertionError(f"{self.unit} does not answer: {self.log()}")


def inside(box: Box, path: str) -> str:
    """Return where a path of the box is seen from outside."""
    return f"/proc/{box.pid}/root{os.path.normpath(path)}"
