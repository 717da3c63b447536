"""The master becomes the next version of itself: nobody notices, and nothing is forgotten."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.e2e.commands import TCP, Command, Gate, document, overseer
from tests.e2e.test_broken_versions import EXAMPLES
from tests.e2e.test_death import bound, ended
from tests.e2e.test_errands import ASKS, Worker
from tests.e2e.test_idle import footprint
from tests.load import Load, fetch, half_a_request
from tests.master import HELLO, PATIENCE, ROOT, RUN, Fact, Master, program

SERVICE = program("service")


def upgrade(master: Master, place: Path) -> Fact:
    """Ask for it as a user does; return what the new image said of it."""
    after = master.now()
    done = overseer(place, "upgrade-master", "--pid", str(master.pid))
    assert done.returncode == 0, done.stderr + master.transcript()
    upgraded = master.saw("upgraded", after=after)
    master.at_rest()  # and has let go of whoever asked
    return upgraded


def descriptors(pid: int) -> dict[str, str]:
    """Return what a process has open."""
    found = {}
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            found[entry.name] = os.readlink(entry.path)
    return found


def kinds(pid: int) -> list[str]:
    """Return the kinds of its descriptors; which socket or pipe it is does not matter."""
    return sorted(what.partition("[")[0] for what in descriptors(pid).values())


def has_only(pid: int, wanted: list[str]) -> bool:
    """Wait until it has these again: the last client's end is heard of a moment later."""
    give_up_at = time.monotonic() + PATIENCE
    while kinds(pid) != wanted:
        if time.monotonic() > give_up_at:
            return False
    return True


# -- nobody notices ------------------------------------------------------------------------


def test_under_load_nobody_notices(tmp_path: Path) -> None:
    """Same pid, same workers, same sockets; a request that goes on ends well; nothing piles up."""
    with Master(tmp_path, *TCP, "--workers", "2", "--", *HELLO) as master:
        master.ready()
        workers, before = sorted(master.workers()), kinds(master.pid)
        with Load(master.port()) as load, half_a_request(master.port()) as connection:
            for _ in range(5):
                load.more(50)
                upgrade(master, tmp_path)
                load.more(50)
            connection.sendall(b"\r\n")
            assert b" 200 " in connection.recv(4096)
        assert load.failures == []
        assert sorted(master.workers()) == workers
        assert {int(body.split()[-1]) for body in load.bodies} <= set(workers)
        assert has_only(master.pid, before)
        assert footprint(master)[1] == 0
        master.restart()
        assert master.stop() == 0
        assert len(master.all("overseer-stopped", status=0)) == 1


@pytest.mark.parametrize("listen", ["unix:{}/web.sock", "[::1]:0", "127.0.0.1:0?backlog=7"])
def test_other_listeners(tmp_path: Path, listen: str) -> None:
    """All kinds are handed over after it as they were before."""
    with Master(tmp_path, "--listen", listen.format(tmp_path), "--", *HELLO) as master:
        master.ready()
        place: str | tuple[str, int] = str(tmp_path / "web.sock")
        if "unix" not in listen:
            place = listen.rpartition(":")[0].strip("[]"), master.port()
        with Load(place) as load:
            master.restart()
            upgrade(master, tmp_path)
            load.more()
            master.restart()
            load.more()
            upgrade(master, tmp_path)
        assert load.failures == []
        assert document(tmp_path, "hello")["listeners"][0]["handover"] == "steered"
        assert master.stop() == 0
        assert not (tmp_path / "web.sock").exists()


def test_a_shared_listener_and_udp(tmp_path: Path) -> None:
    """Those too of which all generations have the same, and those without connections."""
    options = ["--listen", "udp=udp:127.0.0.1:0", "--handover", "shared", "--ready", "delay:100ms"]
    with Master(tmp_path, *TCP, *options, "--", *HELLO) as master:
        master.ready()
        upgrade(master, tmp_path)
        before = document(tmp_path, "hello")["listeners"]
        with Load(master.port()) as load:
            master.restart()
            load.more()
        assert len(load.failures) <= load.clients  # shared: what the old one had in hand
        assert document(tmp_path, "hello")["listeners"] == before
        assert [each["type"] for each in before] == ["tcp", "udp"]


# -- in the middle of something ---------------------------------------------------------------


@contextmanager
def restarting(place: Path) -> Iterator[Command]:
    """Give a client that waits for a rollout."""
    with Command(place, "restart", "--json") as client:
        yield client


@pytest.mark.parametrize("ready", ["auto", "notify", "fd", "http:/health", "exec:true", "delay:1s"])
def test_while_a_candidate_starts(tmp_path: Path, ready: str) -> None:
    """However it shows that it is ready, the new image finds out; who waits gets the answer."""
    gate = Gate(tmp_path)
    if ready == "exec:true":  # and false before
        ready = f"exec:test -e {tmp_path}/go"
        (tmp_path / "go").touch()
    options = ["--ready", ready, "--env", f"TELL={ready}", *gate.options]
    with Master(tmp_path, *TCP, *options, "--", *SERVICE) as master:
        master.ready()
        gate.shut()
        (tmp_path / "go").unlink(missing_ok=True)
        with Load(master.port()) as load, restarting(tmp_path) as client:
            master.saw("worker-started", worker="2/0#1")
            upgrade(master, tmp_path)
            upgrade(master, tmp_path)
            gate.open()
            (tmp_path / "go").touch()
            assert client.wait() == 0
            load.more()
        assert load.failures == []
        master.saw("rollout-committed", generation=2)
        assert document(tmp_path, "service")["last_rollout"]["generation"] == 2


def test_a_candidate_that_fails_after_it(tmp_path: Path) -> None:
    """The old one serves on, and who waits hears the reason and the last lines."""
    script = tmp_path / "app.sh"
    script.write_text(f"exec {' '.join(HELLO)}\n")
    with Master(tmp_path, *TCP, "--", "sh", str(script)) as master:
        master.ready()
        os.mkfifo(tmp_path / "fate")
        script.write_text(
            f"echo before it >&2\nread line <{tmp_path}/fate\necho after it >&2\nexit 7\n"
        )
        with Load(master.port()) as load, restarting(tmp_path) as client:
            master.saw_line("before it")
            upgrade(master, tmp_path)
            (tmp_path / "fate").write_text("\n")
            assert client.wait() == 1
            load.more()
        assert load.failures == []
        failed = master.saw("rollout-rolled-back")
        assert "exited with status 7" in failed["reason"]
        assert failed["stderr_tail"] == ["before it", "after it"]
        assert document(tmp_path, "app")["last_rollout"]["exit"] == 7


def test_while_it_settles(tmp_path: Path) -> None:
    """The time that it must stay ready goes on."""
    with Master(tmp_path, *TCP, "--settle", "8s", "--", *HELLO) as master:
        master.ready()
        with restarting(tmp_path) as client:
            master.saw("worker-ready", worker="2/0#1")
            upgrade(master, tmp_path)
            assert not master.all("rollout-committed")
            assert client.wait() == 0
        assert 8 <= master.saw("rollout-committed")["took"] < PATIENCE


def test_in_a_canary(tmp_path: Path) -> None:
    """Some try it, and go on to; a worker that is not healthy any more ends it still."""
    options = ["--canary", "50:1h", "--ready", f"exec:test -e {tmp_path}/healthy"]
    (tmp_path / "healthy").touch()
    with Master(tmp_path, *TCP, *options, "--", *HELLO) as master:
        old = master.ready().workers()
        with restarting(tmp_path) as client, Load(master.port()) as load:
            master.saw("canary-started")
            upgrade(master, tmp_path)
            begun = len(load.answers)
            load.more(200)
            (tmp_path / "healthy").unlink()
            assert client.wait() == 1
            load.more()
        assert load.failures == []
        asked = {int(answer.body.split()[-1]) for answer in load.answers[begun + 8 : begun + 200]}
        assert asked > set(old)
        assert "not healthy" in master.saw("rollout-rolled-back")["reason"]


def test_while_the_old_one_has_work(tmp_path: Path) -> None:
    """It is waited for as before, and so is who waits for its end."""
    options = ["--quiet-timeout", "1h"]
    with Master(tmp_path, *TCP, *options, "--", *HELLO) as master:
        master.ready()
        with half_a_request(master.port()) as connection, restarting(tmp_path) as client:
            master.saw("worker-quieting", worker="1/0#1")
            upgrade(master, tmp_path)
            assert client.process.poll() is None
            assert not master.all("worker-draining")
            connection.sendall(b"\r\n")
            assert b" 200 " in connection.recv(4096)
            assert client.wait() == 0
        master.saw("generation-gone", generation=1)


def test_while_one_drains(tmp_path: Path) -> None:
    """Its time goes on, and then it is killed."""
    worker = program("slow_to_stop", "1000")
    options = ["--drain-timeout", "4s", "--quiet-timeout", "0"]
    with Master(tmp_path, *TCP, *options, "--", *worker, env=EXAMPLES) as master:
        master.ready()
        with restarting(tmp_path) as client:
            master.saw("worker-draining", worker="1/0#1")
            upgrade(master, tmp_path)
            assert client.wait() == 0
        assert master.saw("drain-timed-out", worker="1/0#1")
        assert master.saw("worker-exited", worker="1/0#1")["how"] == "was killed by SIGKILL"


def test_in_backoff(tmp_path: Path) -> None:
    """The slot waits no longer than it would have, and its crashes are counted on."""
    options = ["--backoff", "2s"]
    with Master(tmp_path, *TCP, *options, "--", *HELLO) as master:
        master.ready()
        for launch in (1, 2):
            master.saw("worker-ready", worker=f"1/0#{launch}")
            os.kill(master.workers()[0], signal.SIGKILL)
        assert master.saw("worker-backoff")["crashes"] == 2
        upgrade(master, tmp_path)
        master.saw("worker-started", worker="1/0#3")
        assert fetch(master.port())


def test_with_one_queued(tmp_path: Path) -> None:
    """Exactly one more follows, however many asked before and after."""
    gate = Gate(tmp_path)
    with Master(tmp_path, *TCP, *gate.options, "--", *SERVICE) as master:
        master.ready()
        gate.shut()
        master.send(signal.SIGUSR2)
        master.saw("worker-started", worker="2/0#1")
        master.send(signal.SIGUSR2)
        master.saw("rollout-queued")
        upgrade(master, tmp_path)
        after = master.now()
        master.send(signal.SIGUSR2)
        master.saw("signal", after=after)
        gate.open()
        master.saw("rollout-committed", generation=3)
        master.saw("generation-gone", generation=2)
        assert len(master.all("rollout-started")) == 2


def test_exclusive(tmp_path: Path) -> None:
    """The old one is gone, the new one not there yet: who connects waits, whoever the master is."""
    gate = Gate(tmp_path)
    options = [*TCP, "--surge", "exclusive", *gate.options]
    with Master(tmp_path, *options, "--", *SERVICE) as master:
        master.ready()
        gate.shut()
        with Load(master.port()) as load, restarting(tmp_path) as client:
            master.saw("worker-started", worker="2/0#1")
            upgrade(master, tmp_path)
            gate.open()
            assert client.wait() == 0
            load.more()
        assert load.failures == []


# -- nothing is forgotten ---------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_in_the_gap(tmp_path: Path, number: signal.Signals) -> None:
    """What comes when the old image is gone, and the new one not there yet, waits for it."""
    with Master(tmp_path, *TCP, "--", *HELLO) as master:
        master.ready()
        with Command(tmp_path, "upgrade-master"):
            environ = Path(f"/proc/{master.pid}/environ")
            while b"OVERSEER_STATE_FD" not in environ.read_bytes():
                pass
            master.send(number)
            upgraded = master.saw("upgraded")
        heard = master.saw("signal", signal=number.name.removeprefix("SIG"))
        assert master.facts.index(heard) > master.facts.index(upgraded)
        if number == signal.SIGTERM:
            assert master.wait() == 0
        else:
            master.saw("rollout-committed")


def test_a_worker_that_dies_in_the_gap(tmp_path: Path) -> None:
    """Its end is heard of, and it has another one."""
    with Master(tmp_path, *TCP, "--", *HELLO) as master:
        (worker,) = master.ready().workers()
        with Command(tmp_path, "upgrade-master"):
            environ = Path(f"/proc/{master.pid}/environ")
            while b"OVERSEER_STATE_FD" not in environ.read_bytes():
                pass
            os.kill(worker, signal.SIGKILL)
            master.saw("upgraded")
        assert master.saw("worker-exited")["how"] == "was killed by SIGKILL"
        master.saw("worker-ready", worker="1/0#2")


def test_who_follows_goes_on(tmp_path: Path) -> None:
    """Events go on to be told to the same client, and those before are there to be asked for."""
    with Master(tmp_path, *TCP, "--", *HELLO) as master:
        master.ready()
        with Command(tmp_path, "events", "--since", "1", "--json") as events:
            events.saw('"service-ready"')
            upgrade(master, tmp_path)
            events.saw('"upgraded"')
            master.restart()
            events.saw('"rollout-committed"')
            events.interrupt()
        done = overseer(tmp_path, "events", "--json", "--since", "1000", "--no-follow")
        seen = [json.loads(line)["event"] for line in done.stdout.splitlines()]
        assert {"service-ready", "upgrade-begun", "upgraded", "rollout-committed"} <= set(seen)


def test_captured_lines(tmp_path: Path) -> None:
    """A line of which the beginning came before is one line."""
    os.mkfifo(tmp_path / "rest")
    code = f"printf 'begin'; read x <{tmp_path}/rest; echo 'end'; sleep 1000"
    options = ["--capture", "--ready", "delay:0s"]
    with Master(tmp_path, *options, "--", "sh", "-c", code) as master:
        master.ready()
        upgrade(master, tmp_path)
        (tmp_path / "rest").write_text("\n")
        assert master.saw("worker-output", stream="stdout")["line"] == "beginend"
        done = overseer(tmp_path, "logs")
        assert "beginend" in done.stdout


def test_what_workers_left_is_kept(tmp_path: Path) -> None:
    """What one left, another takes; who waits for something gets it; a lease has one holder."""
    options = ["--workers", "2", "--env", f"PLACE={tmp_path}", "--ready", "notify"]
    with Master(tmp_path, *TCP, *options, "--", *ASKS) as master:
        master.ready()
        worker = Worker(master, tmp_path)
        worker.told("store('cache', b'warm')")
        worker.told("begin(lambda: take('late', None))", 1, 1)
        worker.told("leases.append(lease('job')), leases[0].acquire(0)")
        upgrade(master, tmp_path)
        worker.told("store('late', b'now')")
        assert worker.told("ended()", 1, 1) == "b'now'"
        assert worker.told("lease('job').acquire(0)", 1, 1) == "False"
        upgrade(master, tmp_path)
        master.restart()
        assert worker.told("take('cache')", 2) == "b'warm'"
        assert worker.told("lease('job').acquire(0)", 2, 1) == "True"


def test_the_updater_goes_on(tmp_path: Path) -> None:
    """The same process watches on, and what it says is heard."""
    watched = tmp_path / "watched"
    watched.write_text("one")
    with Master(tmp_path, *TCP, "--watch", str(watched), "--", *HELLO) as master:
        master.ready()
        updater = master.saw("updater-started")["pid"]
        master.saw("watching")
        upgrade(master, tmp_path)
        watched.write_text("two")
        master.saw("rollout-committed", generation=2)
        assert psutil.pid_exists(updater)
        assert len(master.all("updater-started")) == 1


def test_the_guard_knows(tmp_path: Path) -> None:
    """After the death of a master that has been upgraded nothing is left, and the port is free."""
    with Master(tmp_path, *TCP, "--", *program("daemonizes", "stubborn"), env=EXAMPLES) as master:
        master.ready()
        upgrade(master, tmp_path)
        guard = master.guard()
        stray = int(master.saw_line("stray ").split()[1])
        family, port = [*master.descendants(), stray], master.port()
        os.kill(master.pid, signal.SIGKILL)
        assert ended(family, PATIENCE)
        assert bound(port)
        assert guard in family


# -- a next version ----------------------------------------------------------------------------


class Installation:
    """A copy of the package, from which a master is run, and which the test can replace."""

    def __init__(self, place: Path) -> None:
        self.package = place / "site" / "overseer_py"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "overseer_py", self.package, ignore=ignored)
        self.env = {"PYTHONPATH": str(self.package.parent), "PYTHONDONTWRITEBYTECODE": "1"}

    def change(self, file: str, before: str, after: str) -> None:
        """Replace a text of a file, as an installation does: another file takes its place."""
        path = self.package / file
        text = path.read_text()
        assert before in text
        beside = path.with_suffix(".new")
        beside.write_text(text.replace(before, after))
        beside.rename(path)

    def release(self, version: str) -> None:
        """Install that version."""
        self.change("__init__.py", '__version__ = "0.1.0"', f'__version__ = "{version}"')


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """Give a private installation."""
    return Installation(tmp_path)


def started(place: Path, installation: Installation, *options: str) -> Master:
    """Start a master of that installation."""
    return Master(place, *TCP, *options, "--", *HELLO, env=installation.env, cwd=place).ready()


def test_another_version(tmp_path: Path, installation: Installation) -> None:
    """Both are named, and an updater of the old version makes room for one of the new."""
    watched = tmp_path / "watched"
    watched.write_text("one")
    with (
        started(tmp_path, installation, "--watch", str(watched)) as master,
        Load(master.port()) as load,
    ):
        master.saw("watching")
        installation.release("0.2.0")
        done = overseer(tmp_path, "upgrade-master")
        assert done.stdout == f"pid {master.pid}: overseer 0.1.0 → 0.2.0\n", done.stderr
        assert document(tmp_path, "hello")["version"] == "0.2.0"
        master.saw("watching", after=master.facts.index(master.saw("upgraded")))
        watched.write_text("two")
        master.saw("rollout-committed", generation=2)
        load.more()
    assert load.failures == []


def test_by_itself(tmp_path: Path, installation: Installation) -> None:
    """--self-upgrade: when another version is installed, whether or not anything is watched."""
    with started(tmp_path, installation, "--self-upgrade") as master:
        master.saw("updater-started")
        document(tmp_path, "hello")
        installation.release("0.2.0")
        assert master.saw("upgraded")["version"] == "0.2.0"
        after = master.now()
        installation.change("__init__.py", "0.2.0", "0.3.0")
        assert master.saw("upgraded", after=after)["version"] == "0.3.0"
        assert fetch(master.port())


BROKEN = {
    "syntax": ("__main__.py", "import os\n", "import os os\n", "SyntaxError"),
    "import": (
        "house.py",
        "import random\n",
        "import a_module_of_tomorrow\n",
        "ModuleNotFoundError",
    ),
    "format": ("snapshot.py", "FORMAT = 1\n", "FORMAT = 2\n", "format (1) that overseer"),
    "options": (
        "settings.py",
        "workers: int = option.opt(",
        "others: int = option.opt(",
        "No such",
    ),
    "defect": ("house.py", "self.plans.resume(kept.plans)", "1 / 0", "ZeroDivisionError"),
    "dies": ("supervisor.py", "self._house.resume(kept)", "os.abort()", "SIGABRT"),
    "hangs": ("supervisor.py", "self._house.resume(kept)", "time.sleep(600)", "longer than 8 s"),
}


@pytest.mark.parametrize("defect", BROKEN)
def test_a_version_that_cannot_go_on(
    tmp_path: Path, installation: Installation, defect: str
) -> None:
    """The old one goes on as if nothing had been, and says why; the next try may succeed."""
    if defect == "hangs":
        installation.change("upgrade.py", "PATIENCE = 60.0", "PATIENCE = 8.0")
    with started(tmp_path, installation, "--workers", "1") as master:
        before = kinds(master.pid)
        file, text, broken, why = BROKEN[defect]
        installation.change(file, text, broken)
        with Load(master.port()) as load:
            done = overseer(tmp_path, "upgrade-master")
            assert done.returncode == 1
            assert why in done.stderr
            assert why in master.saw("upgrade-failed")["reason"]
            master.restart()
            load.more()
            installation.change(file, broken, text)
            assert footprint(master)[1] == 0
            upgrade(master, tmp_path)
            master.restart()
        assert load.failures == []
        assert has_only(master.pid, before)
        assert master.stop() == 0


def test_a_state_that_cannot_be_written_down(tmp_path: Path, installation: Installation) -> None:
    """Whatever goes wrong, who asks hears of it, and the service goes on."""
    installation.change(
        "house.py", "        assert self.guard\n", "        raise ValueError('odd')\n"
    )
    with started(tmp_path, installation) as master:
        done = overseer(tmp_path, "upgrade-master")
        assert (done.returncode, "take over: odd" in done.stderr) == (1, True)
        assert master.saw("upgrade-failed")["reason"] == "odd"
        master.restart()
        assert master.stop() == 0


def test_an_interpreter_that_is_gone(tmp_path: Path) -> None:
    """What cannot be executed changes nothing."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    env = {"PYTHONPATH": os.pathsep.join(path for path in [str(ROOT), *sys.path] if path)}
    with Master(tmp_path, *TCP, "--", *HELLO, script=[str(python), *RUN[1:]], env=env) as master:
        master.ready()
        python.rename(python.with_name("away"))
        done = overseer(tmp_path, "upgrade-master")
        assert done.returncode == 1
        assert "No such file or directory" in done.stderr
        python.with_name("away").rename(python)
        upgrade(master, tmp_path)


# -- and again ---------------------------------------------------------------------------------


def test_who_may_not_ask(tmp_path: Path) -> None:
    """A service that stops is not upgraded any more."""
    worker = program("slow_to_stop", "1000")
    with Master(tmp_path, *TCP, "--", *worker, env=EXAMPLES) as master:
        master.ready()
        master.send(signal.SIGTERM)
        master.saw("stopping")
        done = overseer(tmp_path, "upgrade-master")
        assert (done.returncode, "the service is stopping" in done.stderr) == (1, True)


def test_a_stop_that_comes_first(tmp_path: Path, installation: Installation) -> None:
    """The next version is ready to take over, but there is nothing to take over any more."""
    installation.change(
        "supervisor.py", "self._house.resume(kept)", "open(os.environ['GATE']).read()"
    )
    os.mkfifo(tmp_path / "gate")
    installation.env["GATE"] = str(tmp_path / "gate")
    installation.env["EXAMPLES"] = EXAMPLES["EXAMPLES"]
    worker = program("slow_to_stop", "1000")
    with Master(tmp_path, *TCP, "--", *worker, env=installation.env, cwd=tmp_path) as master:
        master.ready()
        with Command(tmp_path, "upgrade-master") as client:
            with open(tmp_path / "gate", "w"):  # the next version waits there
                master.send(signal.SIGTERM)
                master.saw("stopping")
            assert client.wait() == 1
        assert "stopping" in master.saw("upgrade-failed")["reason"]
        master.send(signal.SIGTERM)
        assert master.wait() == 0


def test_many_ask_at_once(tmp_path: Path) -> None:
    """All get an answer, of one upgrade or of another."""
    with Master(tmp_path, *TCP, "--", *HELLO) as master:
        master.ready()
        answers: list[int] = []

        def ask() -> None:
            answers.append(overseer(tmp_path, "upgrade-master").returncode)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert answers == [0] * 8
        assert len(master.all("upgraded")) <= 8


def test_nothing_piles_up(tmp_path: Path) -> None:
    """After many the master has as many descriptors and as much memory as after the first."""
    with Master(tmp_path, *TCP, "--workers", "2", "--", *HELLO) as master:
        master.ready()
        upgrade(master, tmp_path)
        master.restart()  # meanwhile the client has gone
        fds, zombies, memory = footprint(master)
        for _ in range(5):
            upgrade(master, tmp_path)
            master.restart()
        now = footprint(master)
        assert now[:2] == (fds, zombies) == (fds, 0)
        assert now[2] < memory + 4096  # KiB
