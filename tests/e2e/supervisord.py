"""A real supervisord with one program section."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.master import PATIENCE

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
