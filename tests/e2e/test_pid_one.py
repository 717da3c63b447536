"""As PID 1 of a container: signals from the first moment, orphans, a root that is read-only."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.e2e.bundles import Bundle
from tests.e2e.commands import TCP, overseer
from tests.e2e.containers import Container, Image, rest_of, shipped, until
from tests.load import Load, fetch, half_a_request
from tests.master import HELLO, ROOT, program
from tests.needs import need

TERM, STOP, CONT = signal.SIGTERM, signal.SIGSTOP, signal.SIGCONT
SERVICE = [*TCP, "--", *HELLO]
RUNS = 20  # of one start, each with a TERM at another moment of it

# Says of each status in turn that it is not ready, and leaves ten orphans behind every time.
CHECK = """
count=$(wc -l <"$1") && echo >>"$1"
for i in 1 2 3 4 5 6 7 8 9 10; do (exec sleep 0.0$i &); done
[ "$count" -ge 5 ] || exit $((40 + count))
"""


# -- signals ---------------------------------------------------------------------------------------


def test_the_entry_point_holds_signals_before_python_begins(tmp_path: Path) -> None:
    """Python's own start is too slow to ask: the mask is there when the interpreter is."""
    with Container(tmp_path, shipped(), *SERVICE) as master:
        until(lambda: master.executes("python"))
        assert all(master.holds(number) for number in (TERM, signal.SIGINT, signal.SIGUSR2))
        master.send(TERM)
        assert master.wait() == 0


def test_term_at_any_moment_of_the_start(tmp_path: Path) -> None:
    """From the first moment at which the kernel can keep it: it ends, with 0, every time."""
    with Container(tmp_path, shipped(), *SERVICE) as master:
        until(lambda: master.holds(TERM))
        first = master.progress()
        master.ready()
        step = (master.progress() - first) // (RUNS - 2)
    # Not a word yet: Python has not even begun.  A busy machine may be too late to see that.
    until(lambda: _term_after(tmp_path, 0) == "")
    stages = [_term_after(tmp_path, number * step) for number in range(1, RUNS)]
    assert len({stage for stage in stages if stage}) > 1


def _term_after(tmp_path: Path, pages: int) -> str:
    """Start one, send TERM when it has come so far; return the last that it had said by then."""
    with Container(tmp_path, shipped(), *SERVICE) as master:
        until(lambda: master.holds(TERM))
        first = master.progress()
        until(lambda: master.progress() - first >= pages or master.all("service-ready"))
        said = master.facts[-1]["event"] if master.now() else ""
        master.send(TERM)
        assert master.wait() == 0, f"TERM after {pages} pages, {said or 'before the first word'}"
        return str(said)


def test_usr2_in_the_first_moment_is_a_rollout(tmp_path: Path) -> None:
    """What can wait is not only the end."""
    with Container(tmp_path, shipped(), *SERVICE) as master:
        until(lambda: master.holds(signal.SIGUSR2))
        master.send(signal.SIGUSR2)
        master.saw("rollout-committed", generation=2)
        master.send(TERM)
        assert master.wait() == 0


def test_a_bare_start_has_a_window(tmp_path: Path) -> None:
    """Why the examples have another entry point: the kernel drops what Python cannot block yet."""
    for _ in range(100):
        with Container(tmp_path, Image(), *SERVICE) as master:
            until(lambda: master.executes("python"))
            master.send(STOP)
            until(lambda: psutil.Process(master.pid).status() == psutil.STATUS_STOPPED)
            if master.holds(TERM):
                continue  # looked too late: this machine is busy
            master.send(TERM)
            assert not master.pending(TERM)
            master.send(CONT)
            master.ready()
            master.send(TERM)
            assert master.wait() == 0
            return
    pytest.fail("it was never seen before it blocks signals")


def test_tini(tmp_path: Path) -> None:
    """Under tini TERM ends it at once from the first moment, and drains it once it has begun."""
    image = Image([need("tini"), "--", "overseer", "run"])

    moments: list[Callable[[Container], object]] = [
        # It has blocked them all; while it waits for them that is not to be seen (sigtimedwait(2)).
        lambda master: master.executes("tini") and master.ignores(signal.SIGTTIN),
        lambda master: master.executes("tini") and psutil.Process(master.pid).children(),
        lambda master: master.all("overseer-started"),
        lambda master: master.all("worker-started"),
    ]
    for moment in moments:
        with Container(tmp_path, image, *SERVICE) as master:
            until(partial(moment, master))
            master.send(TERM)
            assert master.wait() in (0, 128 + TERM), master.transcript()
    with Container(tmp_path, image, *SERVICE) as master:
        port = master.ready().port()
        with half_a_request(port) as connection:
            master.send(TERM)
            master.saw("stopping")
            assert "hello from" in rest_of(connection)
        assert master.wait() == 0


# Stands for what is slow to load; says what has been loaded before, and what is blocked by then.
CLICK = """
import signal, sys
print(*(name for name in sys.modules if name.startswith("overseer_py")))
print(*(int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])))
sys.exit()
"""


def test_python_holds_them_before_anything_slow(tmp_path: Path) -> None:
    """Without an entry point that does so: first of all, as early as a program can."""
    (tmp_path / "click.py").write_text(CLICK)
    told = overseer(tmp_path, "run", "--", "true", env={"PYTHONPATH": f"{tmp_path}:{ROOT}"}).stdout
    loaded, blocked = map(str.split, told.splitlines())
    assert set(loaded) <= {"overseer_py", "overseer_py.__main__", "overseer_py.cli"}
    assert {TERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2} <= set(map(int, blocked))


def test_workers_know_nothing_of_it(tmp_path: Path) -> None:
    """However PID 1 began: no signal is blocked or ignored in a worker, nor Ctrl-Z in itself."""
    with Container(tmp_path, shipped(), "--", "sleep", "1000") as master:
        master.ready()
        (worker,) = _sleepers(master)
        lines = Path(f"/proc/{worker.pid}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines)
        assert [int(status[key], 16) for key in ("SigBlk", "SigIgn", "SigCgt")] == [0, 0, 0]
        assert master.holds(signal.SIGUSR2)
        assert not master.holds(signal.SIGTSTP)
        master.send(TERM)
        assert master.wait() == 0


# -- orphans ---------------------------------------------------------------------------------------


def test_orphans_of_all_are_reaped(tmp_path: Path) -> None:
    """A worker's hundred, and a hundred of a command that was run beside it."""
    with Container(tmp_path, shipped(), *TCP, "--", *program("orphans", "100")) as master:
        master.ready()
        master.inside("sh", "-c", "for i in $(seq 100); do (exec sleep 1000 >&- 2>&- &); done")
        until(lambda: len(_sleepers(master)) == 100)  # what runs is seen a moment later
        strangers = _sleepers(master)
        for stranger in strangers:
            stranger.kill()
        until(lambda: not any(stranger.is_running() for stranger in strangers))
        until(lambda: not master.zombies())
        master.send(TERM)
        assert master.wait() == 0


def _sleepers(master: Container) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(master.pid).children():
        with suppress(psutil.NoSuchProcess):  # another orphan, reaped meanwhile
            found += [child] if child.name() == "sleep" else []
    return found


def test_a_check_keeps_its_status_in_a_storm_of_orphans(tmp_path: Path) -> None:
    """What ends beside it is reaped, too, and is not mistaken for it."""
    count = tmp_path / "count"
    count.touch()
    check = tmp_path / "check"
    check.write_text(CHECK)
    options = [*TCP, "--ready", f"exec:sh {check} {count}"]
    with Container(tmp_path, Image(), *options, "--", *program("orphans", "100")) as master:
        master.ready()
        told = [fact["reason"] for fact in master.all("worker-not-ready-yet")]
        assert told == [f"exited with status {number}" for number in range(40, 45)]
        until(lambda: not master.zombies())
        master.send(TERM)
        assert master.wait() == 0


def test_a_hook_keeps_its_status_in_a_storm_of_orphans(tmp_path: Path) -> None:
    """The updater's subprocess is no child of PID 1; its orphans are."""
    source, target = tmp_path / "source.py", tmp_path / "app.py"
    source.write_text(Path(HELLO[1]).read_text())
    hook = tmp_path / "hook"
    hook.write_text("for i in $(seq 50); do (exec sleep 0.0$i &); done; exit 43\n")
    options = ["--fetch", f"file:{source}", "--to", str(target), "--check", f"sh {hook}"]
    target.write_text(source.read_text())
    with Container(tmp_path, Image(), *TCP, *options, "--", HELLO[0], str(target)) as master:
        master.ready()
        source.write_text(f"{source.read_text()}\n")
        assert "ended with status 43" in master.saw("release-vetoed")["reason"]
        until(lambda: not master.zombies())
        master.send(TERM)
        assert master.wait() == 0


# -- a root that nobody writes to ------------------------------------------------------------------


@pytest.mark.parametrize("image", [shipped(), Image()], ids=["user", "root"])
def test_all_works_on_a_read_only_root(tmp_path: Path, image: Image) -> None:
    """With a tmpfs on /run and nothing else: start, restart under load, the commands, the drain."""
    with Container(tmp_path, replace(image, read_only=True), *SERVICE) as master:
        port = master.ready().port()
        for place in ("/", "/tmp", "/var/tmp", str(tmp_path)):
            tried = master.inside("touch", f"{place}/written")
            assert tried.returncode == 1, f"{place} can be written to"
        with Load(port) as load:
            load.more()
            done = master.inside("overseer", "restart")
            assert done.returncode == 0, done.stderr
            load.more()
        assert load.failures == []
        assert "generation 2" in master.inside("overseer", "status").stdout
        with half_a_request(port) as connection:
            master.send(TERM)
            master.saw("stopping")
            assert "hello from" in rest_of(connection)
        assert master.wait() == 0


def test_stop_on_a_read_only_root(tmp_path: Path) -> None:
    """PID 1 ends before who asked for it can be told, if it is in the same container."""
    with Container(tmp_path, shipped(read_only=True), *SERVICE) as master:
        master.ready()
        master.inside("overseer", "stop")
        assert master.wait() == 0


@pytest.mark.parametrize("image", [shipped(run=""), Image(run="")], ids=["user", "root"])
def test_nothing_at_all_to_write_to(tmp_path: Path, image: Image) -> None:
    """The error names the path and what helps; and that helps."""
    image = replace(image, read_only=True)
    with Container(tmp_path, image, "--name", "app", *SERVICE) as master:
        assert master.wait() == 2
        (said,) = master.stderr
        assert said.startswith("overseer: control: /run/overseer")
        assert said.endswith("; give --control PATH, or none")
    with Container(tmp_path, image, "--control", "none", *SERVICE) as master:
        port = master.ready().port()
        master.send(signal.SIGUSR2)
        master.saw("generation-gone", generation=1)
        assert fetch(port).startswith("hello from")
        master.send(TERM)
        assert master.wait() == 0


# -- a real runtime --------------------------------------------------------------------------------


def test_a_container_of_an_oci_runtime(tmp_path: Path) -> None:
    """What makes a container is not ours: crun does, and all is as above."""
    with Bundle(tmp_path, shipped(read_only=True), *SERVICE) as master:
        port = master.ready().port()
        assert master.saw("overseer-started")["pid"] == 1
        assert master.inside("touch", "/written").returncode == 1
        assert master.inside("overseer", "status", "--ready").returncode == 0
        with Load(port) as load:
            load.more()
            done = master.inside("overseer", "restart")
            assert done.returncode == 0, done.stderr
            master.kill("USR2")
            master.saw("generation-gone", generation=2)
            load.more()
        assert load.failures == []
        with half_a_request(port) as connection:
            master.kill("TERM")
            master.saw("stopping")
            assert "hello from" in rest_of(connection)
        assert master.wait() == 0
