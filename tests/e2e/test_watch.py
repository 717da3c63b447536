"""``--watch`` with a real master: what changes is rolled out, whatever becomes of the updater."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from tests.e2e.commands import TCP
from tests.e2e.shops import uss
from tests.e2e.test_death import ended
from tests.load import Load, fetch
from tests.master import HELLO, PATIENCE, Fact, Master
from tests.needs import cannot, need
from tests.release.watching import replace

DEBOUNCE = 0.05
QUICK = ["--debounce", f"{DEBOUNCE}s"]
# A worker that is there at once, and gone at once.
BRISK = ["--ready", "delay:0s", "--", "/bin/sleep", "infinity"]
GARBAGE = {
    "no JSON": "b'hello\\n'",
    "no message": "b'{}\\n'",
    "an event of the master's": (
        'b\'{"v": 1, "is": "Note", "event": "stopping", "facts": {}}\\n\''
    ),
    "an endless line": "b'x' * 100_000",
}


class App:
    """A program that is watched, with versions that say who they are."""

    def __init__(self, tmp_path: Path, files: int = 0) -> None:
        self.tree = tmp_path / "app"
        self.tree.mkdir()
        self.path = self.tree / "main.py"
        for number in range(files):
            folder = self.tree / f"folder{number % 100}"
            folder.mkdir(exist_ok=True)
            (folder / f"file{number}.py").write_text(f"# {number}\n")
        self.install("first")

    def install(self, version: str) -> float:
        """Replace the program; return when that was."""
        new = self.tree.parent / "main.py.new"
        code = f"import runpy\nrunpy.run_path({HELLO[1]!r}, run_name='__main__')\n"
        new.write_text(f"# {version}\n{code}" if version != "broken" else "import nothing_at_all\n")
        at = time.time()
        os.replace(new, self.path)
        return at

    @property
    def command(self) -> list[str]:
        """How it is run."""
        return ["--", sys.executable, str(self.path)]


def updater(master: Master, after: int = 0) -> int:
    """Return the pid of the updater, once it watches."""
    master.saw("watching", after=after)
    return int(master.all("updater-started")[-1]["pid"])


def updaters(master: Master) -> list[int]:
    """Return the pids of all updaters below the master."""
    found = []
    for pid in master.descendants():
        with suppress(OSError):  # it has ended meanwhile
            if Path(f"/proc/{pid}/comm").read_text().startswith("overseer-update"):
                found.append(pid)
    return found


def moment(fact: Fact) -> float:
    """Return when it was, in seconds since the epoch."""
    return datetime.fromisoformat(fact["timestamp"]).timestamp()


def queued(pid: int) -> float:
    """Return the seconds that the threads of a process have waited for a processor."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[1]) for thread in threads) / 1e9


def ends(pid: int) -> None:
    """Wait for the end of a process that may be nobody's child of ours."""
    assert ended([pid], PATIENCE), f"{pid} goes on"


def test_a_change_under_load(tmp_path: Path) -> None:
    """It is rolled out, says what changed, and no request fails."""
    app = App(tmp_path)
    with Master(tmp_path, *TCP, *QUICK, "--watch", str(app.tree), *app.command) as master:
        watching = master.ready().saw("watching")
        assert (watching["paths"], watching["files"]) == (str(app.tree), 1)
        with Load(master.port()) as load:
            for number in (2, 3, 4):
                load.more()
                app.install(f"version {number}")
                started = master.saw("rollout-started", generation=number)
                assert started["reason"] == f"{app.path} changed"
                master.saw("generation-gone", generation=number - 1)
            load.more()
        assert load.failures == []
        assert len(set(load.bodies)) == 4
        assert len(master.all("rollout-started")) == 3
        assert master.stop() == 0


@pytest.mark.parametrize("files", [0, 10_000])
def test_how_soon(tmp_path: Path, files: int, capsys: pytest.CaptureFixture[str]) -> None:
    """From the replacing to the new worker: the debounce, and 100 ms at most.

    Less what they have waited for a processor, which others on the machine had.
    """
    app, took = App(tmp_path, files), []
    options = [*QUICK, "--quiet-timeout", "10ms"]
    with Master(tmp_path, *options, "--watch", str(app.tree), *BRISK) as master:
        assert master.ready().saw("watching")["files"] == files + 1
        ours = [master.pid, updater(master)]
        for number in range(2, 12):
            after, before = master.now(), sum(map(queued, ours))
            at = app.install(f"version {number}")
            started = master.saw("worker-started", after=after)
            waited = sum(map(queued, [*ours, started["pid"]])) - before
            took.append(moment(started) - at - waited)
            master.saw("generation-gone", after=after)
        assert master.stop() == 0
    with capsys.disabled():
        times = " ".join(f"{1000 * (each - DEBOUNCE):.0f}" for each in sorted(took))
        sys.stdout.write(f"\n{files} files: debounce + {times} ms ")
    assert min(took) <= DEBOUNCE + 0.1


def test_a_broken_version_changes_nothing(tmp_path: Path) -> None:
    """It is rolled back; the old one serves on; the next version is tried."""
    app = App(tmp_path)
    with Master(tmp_path, *TCP, *QUICK, "--watch", str(app.path), *app.command) as master:
        master.ready().saw("watching")
        with Load(master.port()) as load:
            load.more()
            app.install("broken")
            failed = master.saw("rollout-rolled-back", generation=2)
            assert "nothing_at_all" in "".join(failed["stderr_tail"])
            load.more()
            app.install("repaired")
            master.saw("rollout-committed", generation=3)
            load.more()
        assert load.failures == []
        assert len(set(load.bodies)) == 2
        assert master.stop() == 0


def without_inotify() -> list[str]:
    """Return a command to put in front: in a user namespace of its own there is none to be had."""
    wrapper = [need("unshare"), "--user", "--map-root-user", "sh", "-c"]
    limit = "echo 0 >/proc/sys/user/max_inotify_instances && "
    if subprocess.run([*wrapper, f"{limit} true"], check=False, stderr=subprocess.PIPE).returncode:
        cannot("there can be no user namespace with limits of its own here")
    return [*wrapper, f'{limit} exec "$0" "$@"']


def test_without_inotify(tmp_path: Path) -> None:
    """It is said once, with the reason, and what changes is found all the same."""
    app = App(tmp_path)
    options = [*QUICK, "--watch", str(app.tree)]
    with Master(tmp_path, *options, *BRISK, wrapper=without_inotify()) as master:
        polls = master.ready().saw("watch-polls")
        assert polls["reason"].startswith("inotify: ")
        for number in (2, 3):
            app.install(f"version {number}")
            master.saw("generation-gone", generation=number - 1)
        assert master.all("watch-polls") == [polls]
        assert master.stop() == 0


def test_the_updater_is_killed(tmp_path: Path) -> None:
    """The service is untouched; another one comes, later each time, and finds what it missed."""
    app = App(tmp_path)
    with Master(tmp_path, *TCP, *QUICK, "--watch", str(app.path), *app.command) as master:
        pid, workers = updater(master.ready()), master.workers()
        with Load(master.port()) as load:
            for delay in (1, 2):
                after = master.now()
                os.kill(pid, signal.SIGSTOP)
                if delay == 2:
                    app.install("meanwhile")
                killed_at = time.time()
                os.kill(pid, signal.SIGKILL)
                master.saw("updater-exited", after=after, status=128 + 9)
                started = master.saw("updater-started", after=after)
                assert delay <= moment(started) - killed_at
                pid = updater(master, after)
                assert master.workers() == workers or delay == 2
            assert master.saw("rollout-started")["reason"] == "what is watched changed"
            master.saw("generation-gone", generation=1)
            load.more()
        assert load.failures == []
        assert updaters(master) == [pid]
        app.install("and after")
        assert master.saw("rollout-started", generation=3)["reason"] == f"{app.path} changed"
        master.saw("generation-gone", generation=2)
        assert master.stop() == 0
        assert len(master.all("rollout-started")) == 2


@pytest.mark.parametrize("kind", GARBAGE)
def test_an_updater_that_talks_garbage(tmp_path: Path, kind: str) -> None:
    """It is killed, the log says why, and the service does not notice."""
    package = tmp_path / "doctored" / "watchdog"
    package.mkdir(parents=True)
    code = f"import os, time\nos.write(3, {GARBAGE[kind]})\ntime.sleep(600)\n"
    (package / "__init__.py").write_text(code)
    app = App(tmp_path)
    env = {"PYTHONPATH": str(package.parent)}
    with Master(tmp_path, *TCP, "--watch", str(app.path), *app.command, env=env) as master:
        assert master.ready().saw("updater-garbled")["reason"]
        master.saw("updater-exited", status=128 + 9)
        assert fetch(master.port())
        after = master.now()
        master.saw("updater-started", after=after)
        master.saw("updater-garbled", after=after)
        assert master.all("stopping") == []
        assert master.stop() == 0


def test_other_paths_by_a_reload(tmp_path: Path) -> None:
    """Another updater watches them at once, and nobody the old ones; and none at all."""
    app, other = App(tmp_path), tmp_path / "other"
    other.write_text("one\n")
    config = tmp_path / "overseer.toml"

    def configure(watch: list[str]) -> None:
        paths = ", ".join(f'"{path}"' for path in watch)
        config.write_text(f"watch = [{paths}]\n")

    configure([str(app.path)])
    options = [*QUICK, "--config", str(config)]
    with Master(tmp_path, *TCP, *options, *app.command) as master:
        first = updater(master.ready())
        configure([str(other)])
        after = master.now()
        master.send(signal.SIGHUP)
        second = updater(master, after)
        assert second != first
        master.saw("generation-gone", generation=1)
        app.install("which nobody watches any more")
        replace(other, "two\n")
        assert master.saw("rollout-started", generation=3)["reason"] == f"{other} changed"
        master.saw("generation-gone", generation=2)
        ends(first)
        assert updaters(master) == [second]
        assert master.all("updater-exited") == []
        configure([])
        master.send(signal.SIGHUP)
        master.saw("generation-gone", generation=3)
        ends(second)
        assert updaters(master) == []
        assert master.stop() == 0
        assert len(master.all("rollout-started")) == 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT])
def test_the_updater_ends_with_the_master(tmp_path: Path, number: signal.Signals) -> None:
    """However that ends."""
    app = App(tmp_path)
    with Master(tmp_path, *TCP, "--watch", str(app.path), *app.command) as master:
        pid = updater(master.ready())
        assert updaters(master) == [pid]
        master.send(number)
        master.wait()
        ends(pid)


def test_the_updater_is_stopped(tmp_path: Path) -> None:
    """One that hears nothing any more does not hold the master up at its end."""
    app = App(tmp_path)
    with Master(tmp_path, *TCP, "--watch", str(app.path), *app.command) as master:
        pid = updater(master.ready())
        os.kill(pid, signal.SIGSTOP)
        master.restart()
        assert master.stop() == 0
        ends(pid)


def test_nothing_to_watch(tmp_path: Path) -> None:
    """No updater: what is not asked for costs nothing."""
    with Master(tmp_path, *TCP, "--", *HELLO) as master:
        master.ready().restart()
        assert updaters(master) == []
        assert master.all("updater-started") == []
        assert master.stop() == 0


def memory(master: int, updater: int) -> dict[str, int]:
    """Return the bytes of both.

    The master's are with those that it still shares with its guard, which it was forked with: what
    it writes to becomes its own, and is none the more for it.
    """
    return {"master": psutil.Process(master).memory_info().rss, "updater": uss(updater)}


def changes_leave_nothing(tmp_path: Path, changes: int) -> None:
    """Change a file in a tree so many times; neither the master nor the updater grows."""
    app = App(tmp_path, files=300)
    watch = ["--watch", str(app.tree), "--debounce", "10ms"]
    with Master(tmp_path, *watch, *BRISK) as master:
        pid, generation = updater(master.ready()), 1
        before: dict[str, int] = {}
        for number in range(50 + changes):
            if number == 50:  # the caches are filled
                before = memory(master.pid, pid)
            app.install(f"version {number}")
            generation += 1
            master.saw(
                "generation-gone", after=max(0, master.now() - 20), generation=generation - 1
            )
        after = memory(master.pid, pid)
        sys.stdout.write(f"{changes} changes: {before}, then {after}\n")
        assert all(after[of] - before[of] <= 2 << 20 for of in before)
        assert updaters(master) == [pid]
        assert master.stop() == 0


def test_changes_leave_nothing_behind(tmp_path: Path) -> None:
    """A short form of the soak test."""
    changes_leave_nothing(tmp_path, changes=150)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_thousand_changes(tmp_path: Path) -> None:
    """1,000 changes of a watched file: no more memory than before."""
    changes_leave_nothing(tmp_path, changes=1000)
