"""A real supervisord with one program section, and all that becomes of the program as events."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tests.load import fetch
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
[eventlistener:listener]
command=@python@ %(here)s/listener.py %(here)s/events
events=PROCESS_STATE
priority=1
[include]
files=overseer.conf
"""

LISTENER = """
import sys
from supervisor import childutils

with open(sys.argv[1], "a", buffering=1) as events:
    while True:
        header, payload = childutils.listener.wait()
        events.write(f"{header['eventname']} {payload}\\n")
        childutils.listener.ok()
"""

T = TypeVar("T")

_STATE = re.compile(r"(?<=^PROCESS_STATE_)\w+|expected:\d")


class Supervisord:
    """A supervisord of its own with a program section, of which the program is named app."""

    def __init__(self, directory: Path, section: str) -> None:
        self._directory = directory
        (directory / "overseer.conf").write_text(section)
        (directory / "supervisord.conf").write_text(SUPERVISORD.replace("@python@", sys.executable))
        (directory / "listener.py").write_text(LISTENER)
        (directory / "events").touch()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-c", "supervisord.conf"],
            cwd=directory,
            env={"XDG_RUNTIME_DIR": str(directory)},
            stdout=subprocess.DEVNULL,
        )

    def control(self, *words: str) -> str:
        """Return what supervisorctl says."""
        return self.begin(*words).communicate(timeout=PATIENCE)[0].strip()

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Begin what supervisorctl is to wait for; return it."""
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", "supervisord.conf"]
        return subprocess.Popen(
            [*command, *words],
            cwd=self._directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def saw(self, state: str) -> str:
        """Wait until the program is in this state; return its pid."""
        status = self._wait(lambda: self.control("status", "app"), lambda status: state in status)
        return status.partition("pid ")[2].partition(",")[0]

    def saw_answer(self, port: int) -> str:
        """Wait until the program serves, which RUNNING does not say; return what it answers."""
        return self._wait(lambda: _asked(port), lambda answer: answer.startswith("hello from "))

    def saw_events(self, *events: str) -> None:
        """Wait until the program has come to the last of these states; all else is too much."""
        seen = self._wait(
            self.events, lambda seen: len(seen) >= len(events) and seen[-1] == events[-1]
        )
        assert seen == [*events]

    def saw_log(self, text: str, times: int = 1) -> None:
        """Wait until supervisord has logged this so many times."""
        self._wait(self.log, lambda log: log.count(text) >= times)

    def saw_stderr(self, text: str) -> None:
        """Wait until the program has written this there."""
        self._wait(self.stderr, lambda said: text in said)

    def _wait(self, look: Callable[[], T], enough: Callable[[T], bool]) -> T:
        give_up_at = time.monotonic() + PATIENCE
        while time.monotonic() < give_up_at:
            if enough(found := look()):
                return found
        raise AssertionError(f"{self.control('status')}\n{self.events()}\n{self.log()}")

    def events(self) -> list[str]:
        """Return each state to which the program has come, such as ``EXITED expected:1``."""
        lines = (self._directory / "events").read_text().splitlines()
        return [" ".join(_STATE.findall(line)) for line in lines if "processname:app" in line]

    def stderr(self) -> str:
        """Return what the program has written there, as far as supervisord shows it."""
        return self.control("tail", "-100000", "app", "stderr")

    def log(self) -> str:
        """Return supervisord's log."""
        path = self._directory / "log"
        return path.read_text() if path.exists() else ""

    def close(self) -> int:
        """End it, with the program; return its exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        status = self.close()
        if error:
            sys.stderr.write(f"supervisord's log:\n{self.log()}\n{'; '.join(self.events())}\n")
        else:
            assert status == 0


def _asked(port: int) -> str:
    try:
        return fetch(port).strip()
    except OSError:
        return ""
