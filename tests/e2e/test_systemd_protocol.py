"""What systemd hears, at a socket that the test owns."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.e2e.commands import Gate
from tests.e2e.test_broken_versions import EXAMPLES, GOOD, deploy
from tests.master import HELLO, PATIENCE, PROGRAMS, Master, program

LISTEN = ("--listen", "127.0.0.1:0")


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, tmp_path: Path) -> None:
        self.messages: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(tmp_path / "notify"))
        self._socket.settimeout(PATIENCE)
        self.env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}

    def heard(self, **fields: str) -> dict[str, str]:
        """Wait for a message with these fields; return it."""
        while True:
            data = self._socket.recv(4096).decode()
            message = dict(line.split("=", 1) for line in data.split("\n"))
            self.messages.append(message)
            if fields.items() <= message.items():
                return message

    def heard_status(self, text: str) -> None:
        """Wait for a STATUS that holds the text."""
        while text not in self.heard().get("STATUS", ""):
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._socket.close()


def test_ready_comes_after_the_first_generation_is_ready(tmp_path: Path) -> None:
    """And not before; then STATUS says generation and workers."""
    with Systemd(tmp_path) as systemd, Master(
        tmp_path, *LISTEN, "--workers", "2", "--", *HELLO, env=systemd.env
    ) as master:  # fmt: skip
        systemd.heard(READY="1")
        heard_at = datetime.now(tz=UTC)
        for worker in ("1/0#1", "1/1#1"):
            ready_at = master.saw("worker-ready", worker=worker)["timestamp"]
            assert datetime.fromisoformat(ready_at) <= heard_at
        systemd.heard_status("Generation 1, 2 of 2 workers ready")
        assert master.stop() == 0
        systemd.heard(STOPPING="1")


def test_a_reload_is_reloading_and_then_ready_also_if_it_fails(tmp_path: Path) -> None:
    """RELOADING=1 with the monotonic time, and always a READY=1 after it."""
    app, env = tmp_path / "app.py", dict(EXAMPLES)
    deploy(GOOD, app)
    command = ["--", sys.executable, str(app)]
    with Systemd(tmp_path) as systemd, Master(
        tmp_path, *LISTEN, *command, env={**env, **systemd.env}
    ) as master:  # fmt: skip
        systemd.heard(READY="1")
        for version, outcome in (
            (GOOD, "rollout-committed"),
            (PROGRAMS / "exits.py", "rollout-rolled-back"),
        ):
            deploy(version, app)
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            master.send(signal.SIGUSR2)
            said = int(systemd.heard(RELOADING="1")["MONOTONIC_USEC"])
            assert before <= said <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            systemd.heard(READY="1")
            master.saw(outcome)
        assert master.stop() == 0


def test_a_bad_configuration_at_hup_ends_reloading(tmp_path: Path) -> None:
    """The unit must not hang in ``reloading`` because the file was wrong."""
    file = tmp_path / "overseer.toml"
    file.write_text("")
    with Systemd(tmp_path) as systemd, Master(
        tmp_path, "--config", str(file), *LISTEN, "--", *HELLO, env=systemd.env
    ) as master:  # fmt: skip
        systemd.heard(READY="1")
        file.write_text("nonsense")
        master.send(signal.SIGHUP)
        systemd.heard(RELOADING="1")
        systemd.heard(READY="1")
        master.saw("reload-failed")
        assert master.stop() == 0


def test_more_time_is_asked_for_while_it_drains(tmp_path: Path) -> None:
    """Once a second, so that a stop time-out shorter than the drain does not cut it."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    worker = program("slow_to_stop", str(gate))
    with Systemd(tmp_path) as systemd, Master(
        tmp_path, *LISTEN, "--", *worker, env={**EXAMPLES, **systemd.env}
    ) as master:  # fmt: skip
        systemd.heard(READY="1")
        master.send(signal.SIGTERM)
        systemd.heard(STOPPING="1")
        for _ in range(3):
            systemd.heard(EXTEND_TIMEOUT_USEC="10000000")
        gate.write_text("")
        assert master.wait() == 0


def test_the_watchdog_is_fed_from_the_loop(tmp_path: Path) -> None:
    """Twice per interval; a master that is stopped feeds it no more."""
    with Systemd(tmp_path) as systemd, Master(
        tmp_path, *LISTEN, "--", *HELLO, env={**systemd.env, "WATCHDOG_USEC": "400000"}
    ) as master:  # fmt: skip
        systemd.heard(WATCHDOG="1")  # while it starts, too
        systemd.heard(READY="1")
        for _ in range(3):
            systemd.heard(WATCHDOG="1")
        assert master.stop() == 0


def test_workers_never_see_what_is_the_masters(tmp_path: Path) -> None:
    """No NOTIFY_SOCKET of systemd's, no WATCHDOG_*, no LISTEN_* but their own."""
    foreign = {"WATCHDOG_USEC": "60000000", "LISTEN_PIDFDID": "7", "LISTEN_FDNAMES": "secret"}
    with Systemd(tmp_path) as systemd, Master(
        tmp_path, *LISTEN, "--", *HELLO, env={**systemd.env, **foreign, "OVERSEER_SETTLE": "0"}
    ) as master:  # fmt: skip
        master.ready()
        (pid,) = master.workers()
        pairs = Path(f"/proc/{pid}/environ").read_text().rstrip("\0").split("\0")
        environ = dict(pair.split("=", 1) for pair in pairs)
        assert environ["NOTIFY_SOCKET"].startswith("@")
        assert environ["LISTEN_PID"] == str(pid)
        assert environ["LISTEN_FDNAMES"] == "listener-0"
        assert environ["LISTEN_FDS"] == environ["OVERSEER_NUM_FDS"] == "1"
        assert environ["OVERSEER_PID"] == str(master.pid)
        assert environ["OVERSEER_INSTANCE"] == "hello"
        assert (environ["OVERSEER_GENERATION"], environ["OVERSEER_SLOT"]) == ("1", "0")
        assert environ["OVERSEER_DRAIN_SECONDS"] == "30"
        assert not {"WATCHDOG_USEC", "LISTEN_PIDFDID", "OVERSEER_SETTLE"} & environ.keys()
        assert sorted(os.listdir(f"/proc/{pid}/fd"), key=int)[:4] == ["0", "1", "2", "3"]
        assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
        assert master.stop() == 0


def test_a_dead_systemd_does_not_matter(tmp_path: Path) -> None:
    """Nobody at NOTIFY_SOCKET: the service runs all the same."""
    env = {"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "100000"}
    with Master(tmp_path, *LISTEN, "--", *HELLO, env=env) as master:
        master.ready()
        master.restart()
        assert master.stop() == 0


def test_ready_waits_for_the_last_of_several_reloads(tmp_path: Path) -> None:
    """A reload that waits behind another is part of what systemd waits for."""
    gate = Gate(tmp_path)
    with Systemd(tmp_path) as systemd, Master(
        tmp_path, *LISTEN, *gate.options, "--", *program("service"), env=systemd.env
    ) as master:  # fmt: skip
        systemd.heard(READY="1")
        gate.shut()
        master.send(signal.SIGUSR2)
        master.saw("worker-started", worker="2/0#1")
        master.send(signal.SIGUSR2)
        master.saw("rollout-queued")
        gate.open()
        systemd.heard(READY="1")
        assert sum("RELOADING" in message for message in systemd.messages) == 2
        master.saw("rollout-committed", generation=3)
        assert master.stop() == 0
