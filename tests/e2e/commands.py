"""The command as its users run it: once and for its answer, or going on while facts happen."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.e2e.documents import Document, check_status
from tests.master import HELLO, PATIENCE, ROOT, Fact

TCP = ["--listen", "127.0.0.1:0"]

_WIDE = struct.pack("HHHH", 50, 200, 0, 0)  # struct winsize, so that no line is folded


def overseer(
    place: Path, *arguments: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command as the user of that runtime directory, to its end."""
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(place), **(env or {})}
    return subprocess.run(
        [sys.executable, "-m", "overseer_py", *arguments],
        check=False,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=PATIENCE,
    )


class Command:
    """A command that goes on, with all that it has written up to now; on a terminal, or not."""

    def __init__(self, place: Path, *arguments: str, terminal: bool = False) -> None:
        self._news = threading.Condition()
        self._text = ""
        self._ended = False
        self._fd, end = pty.openpty() if terminal else os.pipe()
        if terminal:
            fcntl.ioctl(end, termios.TIOCSWINSZ, _WIDE)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "overseer_py", *arguments],
            env={**os.environ, "XDG_RUNTIME_DIR": str(place)},
            stdin=subprocess.DEVNULL,
            stdout=end,
            stderr=end,
            cwd=ROOT,
        )
        os.close(end)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        data = b""
        while more := self._some():
            data += more
            with self._news:
                self._text = data.decode(errors="replace")
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _some(self) -> bytes:
        try:
            return os.read(self._fd, 1 << 16)
        except OSError:  # EIO: nobody has the terminal any more, pty(7)
            return b""

    def saw(self, text: str, *, after: int = 0) -> int:
        """Wait until it has written this text; return the position behind it."""
        with self._news:
            self._news.wait_for(lambda: text in self._text[after:] or self._ended, PATIENCE)
            assert text in self._text[after:], f"no {text!r} in:\n{self._text[after:]}"
            return self._text.index(text, after) + len(text)

    def wait(self) -> int:
        """Wait for its end, and for all that it has written; return its status."""
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def interrupt(self) -> int:
        """Send what Ctrl-C does; return the status."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    @property
    def lines(self) -> list[str]:
        """The lines that it has written up to now."""
        with self._news:
            return self._text.splitlines()

    @property
    def facts(self) -> list[Fact]:
        """The same, each of them JSON."""
        return [json.loads(line) for line in self.lines]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.process.kill()
        self.wait()
        os.close(self._fd)
        if error:
            sys.stderr.write(f"{self.process.args!r} wrote:\n{self._text}\n")


class Gate:
    """Holds every generation that starts while it is shut: ``service`` waits at a FIFO.

    The environment file with which the master is to be run says so, or is empty.
    """

    def __init__(self, directory: Path) -> None:
        self._fifo = directory / "gate"
        os.mkfifo(self._fifo)
        self._variables = directory / "gate.env"
        self._variables.touch()
        self.options = ["--env-file", str(self._variables)]

    def shut(self) -> Self:
        """Hold those that start from now on."""
        self._variables.write_text(f"GATE={self._fifo}\n")
        return self

    def clear(self) -> None:
        """Let all pass that start from now on."""
        self._variables.write_text("")

    def open(self) -> None:
        """Let the one pass that waits, and all that start from now on."""
        self.clear()
        os.close(os.open(self._fifo, os.O_WRONLY))  # once it has opened it, fifo(7)


class Versions:
    """A program whose next version the test decides on."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "app.py"
        self.command = [sys.executable, str(self._path)]
        self.repair()

    def repair(self) -> None:
        """From now on it works."""
        self._path.write_text(f"import runpy\nrunpy.run_path({HELLO[1]!r}, run_name='__main__')\n")

    def spoil(self) -> None:
        """From now on it cannot import what it needs."""
        self._path.write_text("import a_module_that_was_never_deployed\n")


def document(place: Path, *which: str) -> Document:
    """Return what ``status --json`` prints of one instance, after a look at every field of it."""
    done = overseer(place, "status", *which, "--json")
    assert done.returncode == 0, done.stderr
    found: Document = json.loads(done.stdout)
    check_status(found)
    return found
