"""What is measured, each supervisor running tiny.py: how to start it, when it is ready."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
TINY = HERE / "tiny.py"

SUPERVISORD = """
[unix_http_server]
file={directory}/sock
[supervisord]
nodaemon=true
logfile=/dev/stderr
logfile_maxbytes=0
pidfile={directory}/pid
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[program:tiny]
command={python} {tiny} {port}
startsecs=0
"""


@dataclass(frozen=True)
class Peer:
    """A supervisor with one worker."""

    name: str
    module: str  # that must be installed
    distribution: str  # what to install for that; empty: comes with Python
    command: Callable[[int, str], list[str]]  # for this port, with this directory to write to
    says_ready: str  # in the log line that means that the master has done its part

    @property
    def missing(self) -> str:
        """Why it cannot be measured here; empty if it can."""
        found = importlib.util.find_spec(self.module)
        return "" if found else f"not installed: pip install {self.distribution}"

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {version(self.distribution)}" if self.distribution else self.name

    def start(self, port: int, directory: str) -> subprocess.Popen[str]:
        """Start it; its log is on the stderr of what is returned."""
        return subprocess.Popen(
            self.command(port, directory),
            cwd=HERE,
            env={**os.environ, "XDG_RUNTIME_DIR": directory, "PYTHONPATH": ""},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def _overseer(port: int, _: str) -> list[str]:
    options = ["--listen", f"127.0.0.1:{port}", "--log-format", "logfmt"]
    program = [sys.executable, str(TINY)]
    return [sys.executable, "-m", "overseer_py", "run", *options, "--", *program]


def _gunicorn(port: int, _: str) -> list[str]:
    options = ["--bind", f"127.0.0.1:{port}", "--workers", "1", "--log-level", "info"]
    return [sys.executable, "-m", "gunicorn", *options, "tiny:app"]


def _supervisord(port: int, directory: str) -> list[str]:
    values = {"directory": directory, "python": sys.executable, "tiny": TINY, "port": port}
    config = Path(directory) / "supervisord.conf"
    config.write_text(SUPERVISORD.format(**values))
    return [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)]


def _alone(port: int, _: str) -> list[str]:
    return [sys.executable, str(TINY), str(port)]


PEERS = [
    Peer("overseer", "overseer_py", "overseer-py", _overseer, "service-ready"),
    Peer("gunicorn arbiter", "gunicorn", "gunicorn", _gunicorn, "Booting worker"),
    Peer("supervisord", "supervisor", "supervisor", _supervisord, "entered RUNNING"),
    Peer("tiny.py alone", "wsgiref", "", _alone, "(it logs nothing)"),  # what all of them start
]


def free_port() -> int:
    """Return a port that nobody has right now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
