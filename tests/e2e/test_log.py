"""The log, and what workers write: nothing waits for whoever reads it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.e2e.test_broken_versions import EXAMPLES
from tests.load import Load, fetch
from tests.master import HELLO, PATIENCE, ROOT, Master, program

LISTEN = ("--listen", "127.0.0.1:0")


def test_stderr_is_relayed_and_stdout_is_the_masters_own(tmp_path: Path) -> None:
    """Stderr byte for byte, an unfinished line included; stdout untouched."""
    with Master(tmp_path, *LISTEN, "--", *program("talks", "lines"), env=EXAMPLES) as master:
        master.ready()
        assert master.saw_line("err one") == "err one"
        master.saw_line("bytes")
        assert master.process.stdout
        assert master.process.stdout.readline() == "out one\n"
        assert master.stop() == 0


def test_capture_tags_each_line(tmp_path: Path) -> None:
    """Both streams become facts with generation, slot, pid and stream."""
    options = [*LISTEN, "--capture"]
    with Master(tmp_path, *options, "--", *program("talks", "lines"), env=EXAMPLES) as master:
        master.ready()
        (pid,) = master.workers()
        out = master.saw("worker-output", line="out one")
        err = master.saw("worker-output", line="err one")
        assert (out["stream"], err["stream"]) == ("stdout", "stderr")
        assert (out["generation"], out["slot"], out["pid"]) == (1, 0, pid)
        assert master.stop() == 0
        master.saw("worker-output", line="unfinished")


def test_capture_of_a_flood_holds_nobody_up(tmp_path: Path) -> None:
    """Lines without end, of no length: TERM is heard at once, and what is left is bounded."""
    with Master(tmp_path, "--capture", "--", "yes", "") as master:
        master.ready()
        master.saw("worker-output")
        assert master.stop() == 0


def test_a_flood_leaves_room_for_what_the_master_has_to_say(tmp_path: Path) -> None:
    """However much waits for the reader of the log."""
    with Master(tmp_path, "--capture", "--stop-delay", "1h", "--", "yes", "") as master:
        master.ready()
        master.saw("worker-output")
        after = master.now()
        master.send(signal.SIGTERM)
        master.saw("stopping", after=after)
        master.send(signal.SIGTERM)
        assert master.wait() == 0


def test_no_relay_hands_stderr_over(tmp_path: Path) -> None:
    """The worker has the master's own stderr, and no last lines are kept."""
    options = [*LISTEN, "--no-relay", "--backoff", "10ms"]
    with Master(tmp_path, *options, "--", *program("exits")) as master:
        assert master.wait() == 5
        assert master.saw("gave-up")["stderr_tail"] == []
        master.saw_line("database is missing")


@pytest.mark.parametrize("kind", ["pipe", "closed pipe", "socket"])
def test_a_stuck_or_gone_reader_blocks_nobody(tmp_path: Path, kind: str) -> None:
    """64 MiB of stderr with nobody reading: the worker serves, a restart works, TERM stops."""
    if kind == "socket":
        ours, theirs = (end.detach() for end in socket.socketpair())
    else:
        ours, theirs = os.pipe()
    environ = {**os.environ, **EXAMPLES, "XDG_RUNTIME_DIR": str(tmp_path)}
    pid_file, sock = tmp_path / "pid", tmp_path / "app.sock"
    command = [sys.executable, "-m", "overseer_py", "run", "--pid-file", str(pid_file)]
    command += ["--listen", f"unix:{sock}", "--", *program("talks", "flood", "64")]
    with subprocess.Popen(command, stderr=theirs, env=environ, cwd=ROOT) as master:
        os.close(theirs)
        if kind == "closed pipe":
            os.close(ours)
        try:
            first = _answer(sock, master)
            master.send_signal(signal.SIGUSR2)
            while _answer(sock, master) == first:
                pass
            assert psutil.Process(master.pid).memory_info().rss < 100 << 20
            master.send_signal(signal.SIGTERM)
            assert master.wait(PATIENCE) == 0
        finally:
            master.kill()
    if kind != "closed pipe":
        os.close(ours)


def test_a_stuck_reader_does_not_keep_a_master_that_ends(tmp_path: Path) -> None:
    """Nor the line that says why it ends: the status does."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "overseer_py", "run", "--backoff", "10ms", "--", "false"]
    with subprocess.Popen(command, stderr=writer, env=environ, cwd=ROOT) as master:
        os.close(writer)
        try:
            assert master.wait(PATIENCE) == 5
        finally:
            master.kill()
            os.close(reader)


def _answer(sock: Path, master: subprocess.Popen[bytes]) -> str:
    while True:
        assert master.poll() is None
        try:
            return fetch(str(sock))
        except (FileNotFoundError, ConnectionRefusedError):
            continue


def test_a_line_of_a_hundred_megabytes_is_bounded(tmp_path: Path) -> None:
    """It passes through, or what a slow reader does not take is dropped; memory does not grow."""
    with Master(tmp_path, *LISTEN, "--", *program("talks", "long", "100"), env=EXAMPLES) as master:
        master.ready()  # it serves once it has written all of it
        assert psutil.Process(master.pid).memory_info().rss < 100 << 20
        assert master.stop() == 0


def test_logfmt_is_the_default_where_there_is_no_terminal(tmp_path: Path) -> None:
    """One line a fact: timestamp, level, event, then its keys."""
    with Master(tmp_path, *LISTEN, "--", *HELLO, log_format="") as master:
        line = master.saw_line("event=service-ready")
        words = [word.split("=")[0] for word in line.split()]
        assert words[:3] == ["timestamp", "level", "event"]
        assert "generation=1" in line.split()
        assert master.stop() == 0


def test_console_on_a_terminal(tmp_path: Path) -> None:
    """People get short times, and the last lines of a failed worker set out below the fact."""
    with Master(
        tmp_path, *LISTEN, "--backoff", "10ms", "--", *program("exits"), log_format="console"
    ) as master:
        assert master.wait() == 5
        assert any("│ RuntimeError: database is missing" in line for line in master.stderr)
        assert not any(line.startswith("{") for line in master.stderr)


def test_every_fact_is_a_json_object_with_event_and_level(tmp_path: Path) -> None:
    """Machines can rely on it, also for text that is hard to write down."""
    name = 'quote " and \\ and é'
    with Master(tmp_path, *LISTEN, "--env", f"STRANGE={name}", "--", *HELLO) as master:
        master.ready()
        master.restart()
        assert master.stop() == 0
        for fact in master.facts:
            assert {"timestamp", "level", "event"} <= fact.keys()
            json.dumps(fact)


def test_a_talkative_worker_slows_nobody(tmp_path: Path) -> None:
    """While megabytes pass through the master, a restart under load still loses nothing."""
    with Master(tmp_path, *LISTEN, "--", *program("talks", "flood", "8"), env=EXAMPLES) as master:
        master.ready()
        with Load(master.port()) as load:
            load.more(20)
            master.restart()
            load.more(20)
        assert load.failures == []
        assert master.stop() == 0
