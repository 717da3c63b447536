"""``events``, ``logs``, ``status --watch``: what a running service tells those who listen."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from tests.e2e.commands import TCP, Command, Gate, overseer
from tests.e2e.containers import until
from tests.e2e.documents import EVENT, LINE, NUMBER, check_status
from tests.e2e.test_broken_versions import EXAMPLES
from tests.master import HELLO, Fact, Master, program

ROLLOUT = ["rollout-started", "worker-started", "worker-ready", "rollout-committed"]
ROLLOUT += ["worker-draining", "worker-exited", "generation-gone"]


def check_events(events: list[Fact]) -> None:
    """Assert that each has a name and a time, and says of which generation it speaks."""
    for event in events:
        assert {key: event[key] for key in EVENT} == EVENT
        if worker := event.get("worker"):
            assert worker.partition("/")[0] == str(event["generation"])
    assert [e["timestamp"] for e in events] == sorted(e["timestamp"] for e in events)


# -- events -------------------------------------------------------------------------------------


def test_events_that_are_kept(tmp_path: Path) -> None:
    """Each a line of JSON; the last so many, or all."""
    with Master(tmp_path, *TCP, "--", *HELLO) as master:
        master.ready().restart()
        done = overseer(tmp_path, "events", "hello", "--no-follow", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        events = [json.loads(line) for line in done.stdout.splitlines()]
        check_events(events)
        names = [event["event"] for event in events]
        assert names[:4] == ["service-starting", "worker-started", "worker-ready", "service-ready"]
        assert [name for name in names[4:] if name in ROLLOUT] == ROLLOUT
        assert [e["worker"] for e in events if e["event"] == "worker-started"] == ["1/0#1", "2/0#1"]
        words = ["events", "--since", "3", "--no-follow"]
        done = overseer(tmp_path, *words, "--json")
        assert [json.loads(line) for line in done.stdout.splitlines()] == events[-3:]
        shown = overseer(tmp_path, *words).stdout.splitlines()
        assert len(shown) == 3
        assert shown[-1].endswith("  generation 1 gone")
        assert overseer(tmp_path, "events", "--since", "0", "--no-follow").stdout == ""
        assert master.stop() == 0


def test_events_as_they_come(tmp_path: Path) -> None:
    """A rollout in its order, with the pids; the end of the master is theirs."""
    options = [*TCP, "--quiet-timeout", "10ms"]
    with Master(tmp_path, *options, "--", *HELLO) as master:
        master.ready()
        with (
            Command(tmp_path, "events", "--since", "1", "--json") as events,
            Command(tmp_path, "events", "--since", "1") as shown,
        ):
            events.saw("service-ready")
            shown.saw("service ready after ")
            master.restart()
            master.send(signal.SIGTERM)
            assert (events.wait(), shown.wait(), master.wait()) == (0, 0, 0)
            check_events(events.facts)
            of_rollout = [e for e in events.facts if e["event"] in ROLLOUT][: len(ROLLOUT)]
            assert [e["event"] for e in of_rollout] == ROLLOUT
            generations = [2, 2, 2, 2, 1, 1, 1]
            assert [e["generation"] for e in of_rollout] == generations
            assert of_rollout[0]["reason"] == "signal USR2"
            started = master.saw("worker-started", worker="2/0#1")
            assert of_rollout[1]["pid"] == NUMBER
            assert (of_rollout[1]["worker"], of_rollout[1]["pid"]) == ("2/0#1", started["pid"])
            assert "stopping" in [e["event"] for e in events.facts]
            at = 0
            for step in (
                f"2/0 spawned, pid {started['pid']}",
                "2/0 ready",
                "1/0 draining",
                "stopping",
            ):
                at = shown.saw(f"  {step}", after=at)


def test_events_for_a_reader_that_has_enough(tmp_path: Path) -> None:
    """A closed pipe ends the command quietly, also while it follows."""
    with Master(tmp_path, *TCP, "--", *HELLO) as master:
        master.ready()
        script = (
            '"$0" -m overseer_py events --since 100 --json | head -n 1; echo "${PIPESTATUS[0]}"'
        )
        asked = subprocess.Popen(
            ["/bin/bash", "-c", script, sys.executable],
            env={"XDG_RUNTIME_DIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert asked.stdout
        assert json.loads(asked.stdout.readline())["event"] == "service-starting"
        until(lambda: "head" not in children(asked))  # which has closed the pipe by then
        master.restart()  # there is more to write, now or then
        out, err = asked.communicate()
        assert (int(out), err) == (128 + signal.SIGPIPE, "")
        assert master.stop() == 0


def children(process: subprocess.Popen[str]) -> list[str]:
    """Return the names of those that a process has started and that have not ended."""
    names = []
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):
            names += [child.name()] if child.status() != psutil.STATUS_ZOMBIE else []
    return names


# -- logs ---------------------------------------------------------------------------------------


def test_logs(tmp_path: Path) -> None:
    """What workers wrote, by whom and where; the last lines, and with -f those that come."""
    command = ["--", *program("talks", "lines")]
    with Master(tmp_path, *TCP, "--capture", *command, env=EXAMPLES) as master:
        master.ready().saw("worker-output", line="raw \ufffd\ufffd bytes")
        done = overseer(tmp_path, "logs", "talks", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert all(line == LINE for line in lines)
        assert {line["pid"] for line in lines} == set(master.workers())
        assert {(line["generation"], line["slot"]) for line in lines} == {(1, 0)}
        written = {line["line"]: line["stream"] for line in lines}
        assert (written["out one"], written["err one"]) == ("stdout", "stderr")
        shown = overseer(tmp_path, "logs", "-n", "1").stdout
        assert shown.count("\n") == 1
        assert shown.endswith(f"  1/0  {lines[-1]['line']}\n")
        assert overseer(tmp_path, "logs", "-n", "0").stdout == ""
        with Command(tmp_path, "logs", "-f", "-n", "1") as follows:
            at = follows.saw(shown)
            master.restart()
            follows.saw("  2/0  out one\n", after=at)
            assert follows.interrupt() == -signal.SIGINT
            assert not any("  1/0  out" in line for line in follows.lines[1:])
        assert master.stop() == 0


def test_logs_that_nobody_keeps(tmp_path: Path) -> None:
    """Without --capture status 1, and the remedy."""
    with Master(tmp_path, *TCP, "--", *HELLO) as master:
        master.ready()
        done = overseer(tmp_path, "logs")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "overseer: logs: no lines are kept; run it with --capture\n"
        assert master.stop() == 0


# -- status --watch -----------------------------------------------------------------------------


def test_watch_on_a_terminal(tmp_path: Path) -> None:
    """It is written over in place, shows what has changed, and ends without a word."""
    gate = Gate(tmp_path)
    with Master(tmp_path, *TCP, *gate.options, "--", *program("service")) as master:
        master.ready()
        with Command(tmp_path, "status", "--watch", terminal=True) as watch:
            at = watch.saw("\x1b[2J\x1b[H")
            at = watch.saw("running\x1b[0m  pid ", after=at)
            gate.shut()
            master.send(signal.SIGUSR2)
            at = watch.saw("\x1b[H", after=at)
            at = watch.saw("rolling out generation 2: starting, ", after=at)
            gate.open()
            at = watch.saw("last rollout: generation 2 ", after=at)
            assert watch.interrupt() == -signal.SIGINT
            text = "\n".join(watch.lines)
            assert text.count("\x1b[2J") == 1
            assert "Traceback" not in text
            assert "Abort" not in text
        assert master.stop() == 0


def test_watch_for_scripts(tmp_path: Path) -> None:
    """A document a line; when the master has ended, status 3."""
    with Master(tmp_path, *TCP, "--", *HELLO) as master:
        master.ready()
        with Command(tmp_path, "status", "hello", "--watch", "--json") as watch:
            at = watch.saw("\n")
            watch.saw("\n", after=at)
            for found in watch.facts:
                check_status(found)
                assert found["pid"] == master.pid
            assert master.stop() == 0
            assert watch.wait() == 3
            assert watch.lines[-1].startswith("overseer: ")
