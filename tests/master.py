"""A real master in a process of its own, and its log as facts to wait for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

PATIENCE = 60.0  # seconds: a bound that protects against a hang, not a measurement
ROOT = Path(__file__).parent.parent
PROGRAMS = Path(__file__).parent / "programs"
OVERSEER = Path(sys.executable).with_name("overseer")
RUN = [sys.executable, "-m", "overseer_py", "run"]
HELLO = [sys.executable, str(ROOT / "examples" / "hello.py")]

Fact = dict[str, Any]


def program(name: str, *arguments: str) -> list[str]:
    """Return the command for one of the tiny workers in tests/programs."""
    return [sys.executable, str(PROGRAMS / f"{name}.py"), *arguments]


class Master:
    """``overseer run`` with the given options; facts come from its JSON log.

    Runs in a session of its own, with a runtime directory of its own, so that no two tests meet.
    """

    def __init__(  # noqa: PLR0913 - what is rarely wanted has a name
        self,
        tmp_path: Path,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        wrapper: Sequence[str] = (),
        log_format: str = "json",
        script: Sequence[str] = (),
    ) -> None:
        """Start it; ``wrapper`` is a command to put in front, such as strace or unshare.

        A ``script`` is a command that becomes a master by itself.
        """
        self.facts: list[Fact] = []
        self.stderr: list[str] = []  # lines that are no facts: the workers' own
        self._news = threading.Condition()
        self._ended = False
        environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), **(env or {})}
        options = ["--log-format", log_format] if log_format else []
        if script:
            environ["OVERSEER_LOG_FORMAT"] = log_format
        self.process = subprocess.Popen(
            [*wrapper, *(script or [*RUN, *options]), *arguments],
            env=environ,
            cwd=cwd or ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            with self._news:
                try:
                    fact = json.loads(line)
                    self.facts.append(fact if isinstance(fact, dict) else {"line": fact})
                except ValueError:
                    self.stderr.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    # -- facts ---------------------------------------------------------------------------

    def saw(
        self, event: str, *, after: int = 0, patience: float = PATIENCE, **facts: object
    ) -> Fact:
        """Wait for the first such fact at or behind position ``after``; return it."""

        def found() -> Fact | None:
            nonlocal after  # in a flood each is looked at once
            fact = next((f for f in self.facts[after:] if _matches(f, event, facts)), None)
            after = after if fact else len(self.facts)
            return fact

        with self._news:
            self._news.wait_for(lambda: found() or self._ended, patience)
            fact = found()
        assert fact, f"no {event} {facts}; log:\n{self.transcript()}"
        return fact

    def all(self, event: str, **facts: object) -> list[Fact]:
        """Return all such facts up to now."""
        with self._news:
            return [f for f in self.facts if _matches(f, event, facts)]

    def now(self) -> int:
        """Return the position behind the last fact."""
        with self._news:
            return len(self.facts)

    def saw_line(self, text: str, patience: float = PATIENCE) -> str:
        """Wait for a line of stderr that is no fact and holds the text."""

        def found() -> str | None:
            return next((line for line in self.stderr if text in line), None)

        with self._news:
            self._news.wait_for(lambda: found() or self._ended, patience)
            line = found()
        assert line, f"no line with {text!r}; log:\n{self.transcript()}"
        return line

    def transcript(self) -> str:
        """Return everything that was heard, for a failed test."""
        facts = [" ".join(f"{k}={v}" for k, v in f.items() if k != "timestamp") for f in self.facts]
        return "\n".join([*facts[-80:], "--", *self.stderr[-40:]])

    # -- the service ------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The master's pid."""
        return self.process.pid

    def ready(self) -> Self:
        """Wait until the first generation is ready."""
        self.saw("service-ready")
        return self

    def port(self, name: str = "listener-0") -> int:
        """Return the real port of a listener."""
        return int(self.saw("listening", name=name)["address"].rpartition(":")[2])

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the master."""
        self.process.send_signal(number)

    def restart(self) -> Fact:
        """Ask for a rollout; wait until it is committed and the old generation is gone."""
        after = self.now()
        self.send(signal.SIGUSR2)
        heard = self.saw("signal", after=after)  # what came before it may not have been read yet
        with self._news:
            after = next(index for index, fact in enumerate(self.facts) if fact is heard)
            earlier = [f for f in self.facts[:after] if _matches(f, "rollout-committed", {})]
        before = [fact["generation"] for fact in earlier] or [1]
        committed = self.saw("rollout-committed", after=after)
        self.saw("generation-gone", after=after, generation=before[-1])
        return committed

    def workers(self) -> list[int]:
        """Return the pids of the workers that have been started and have not exited."""
        with self._news:
            facts = list(self.facts)
        started = {f["worker"]: f["pid"] for f in facts if f.get("event") == "worker-started"}
        for fact in facts:
            if fact.get("event") == "worker-exited":
                started.pop(fact["worker"], None)
        return list(started.values())

    def descendants(self) -> list[int]:
        """Return every process below the master."""
        return [child.pid for child in psutil.Process(self.pid).children(recursive=True)]

    def guards(self) -> list[int]:
        """Return the pids of the guards (one, but for the moment of its replacement)."""
        children = psutil.Process(self.pid).children()
        return [child.pid for child in children if _name(child) == "overseer-guard"]

    def guard(self) -> int:
        """Wait until there is one, with its name; return its pid."""
        give_up_at = time.monotonic() + PATIENCE
        while len(guards := self.guards()) != 1:
            assert time.monotonic() < give_up_at, f"guards: {guards}"
        return guards[0]

    def wait(self, patience: float = PATIENCE) -> int:
        """Wait until the master has ended and all its output is read; return its status."""
        try:
            status = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the master did not end; log:\n{self.transcript()}") from None
        self._reader.join(patience)
        return status

    def stop(self) -> int:
        """Send TERM and wait; return the status."""
        self.send(signal.SIGTERM)
        return self.wait()

    def zombies(self) -> list[int]:
        """Return the children of the master that have ended, and that nobody has reaped."""
        children = psutil.Process(self.pid).children()
        return [child.pid for child in children if _is_zombie(child)]

    def at_rest(self) -> Self:
        """Wait until the master sleeps: it has done all that there was to do up to now."""
        give_up_at = time.monotonic() + PATIENCE
        while psutil.Process(self.pid).status() != psutil.STATUS_SLEEPING:
            assert time.monotonic() < give_up_at, self.transcript()
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        family: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.pid).children(recursive=True)
        if self.process.poll() is None:
            self.process.kill()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        self._reader.join(PATIENCE)
        if self.process.stdout:
            self.process.stdout.close()
        if self.process.stderr and not self._reader.is_alive():
            self.process.stderr.close()
        if error:
            sys.stderr.write(f"the master's log:\n{self.transcript()}\n")


def _name(process: psutil.Process) -> str:
    try:
        return Path(f"/proc/{process.pid}/comm").read_text().strip()
    except OSError:  # it has ended meanwhile
        return ""


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:  # reaped meanwhile
        return False


def _matches(fact: Fact, event: str, facts: Mapping[str, object]) -> bool:
    return fact.get("event") == event and all(fact.get(key) == facts[key] for key in facts)
