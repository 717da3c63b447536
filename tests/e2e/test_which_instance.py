"""Which instance a command is for: by name, by pid, by path, or the only one there is."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from overseer_py.whereabouts import instances
from tests.e2e.commands import TCP, document, overseer
from tests.e2e.documents import Document
from tests.e2e.test_death import ended
from tests.master import HELLO, OVERSEER, PATIENCE, Master
from tests.needs import cannot


@pytest.fixture(autouse=True)
def _alone() -> None:
    if others := instances({}):  # where they are looked for beside $XDG_RUNTIME_DIR
        cannot(f"this user runs overseers already: {', '.join(others)}")


def test_several(tmp_path: Path) -> None:
    """Of two one has to be named; what is asked of one leaves the other alone."""
    with (
        Master(tmp_path, *TCP, "--name", "one", "--", *HELLO) as one,
        Master(tmp_path, *TCP, "--name", "two", "--", *HELLO) as two,
    ):
        one.ready()
        two.ready()
        for words in (["restart"], ["stop"], ["events"], ["scale", "2"], ["signal", "USR1"]):
            done = overseer(tmp_path, *words)
            assert (done.returncode, done.stdout) == (2, "")
            assert done.stderr == "overseer: which one? NAME is one of: one, two\n"
        done = overseer(tmp_path, "restart", "three")
        assert (done.returncode, done.stdout) == (3, "")
        assert "no overseer named 'three' runs here (there is: one, two)" in done.stderr
        shown = overseer(tmp_path, "status").stdout
        assert (f"pid {one.pid}," in shown, f"pid {two.pid}," in shown) == (True, True)
        assert overseer(tmp_path, "stop", "two").returncode == 0
        assert two.wait() == 0
        assert overseer(tmp_path, "scale", "2").returncode == 0  # the only one now
        assert document(tmp_path, "one")["workers_wanted"] == 2
        assert one.stop() == 0


@pytest.mark.parametrize(
    "words", ["status", "restart", "reload", "stop", "scale 2", "signal USR1", "events", "logs"]
)
def test_none(tmp_path: Path, words: str) -> None:
    """Status 3, whatever is asked for."""
    done = overseer(tmp_path, *words.split())
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "overseer: no overseer of this user runs here\n"


def test_a_killed_master_is_none(tmp_path: Path) -> None:
    """What it has left behind misleads nobody: who lives is still the only one."""
    with Master(tmp_path, *TCP, "--name", "late", "--", *HELLO) as master:
        guard = master.ready().guard()
        master.process.kill()
        assert ended([guard], PATIENCE)
    assert (tmp_path / "overseer" / "late.sock").is_socket()
    for words in (["status"], ["status", "late"], ["restart"]):
        done = overseer(tmp_path, *words)
        assert (done.returncode, done.stdout) == (3, "")
    with Master(tmp_path, *TCP, "--", *HELLO) as master:
        master.ready()
        assert [found["pid"] for found in _documents(tmp_path)] == [master.pid]
        assert overseer(tmp_path, "stop").returncode == 0
        assert master.wait() == 0


def _documents(place: Path) -> list[Document]:
    found: list[Document] = json.loads(overseer(place, "status", "--json").stdout)
    return found


def test_by_pid(tmp_path: Path) -> None:
    """Every command takes the pid of the master; the socket may be anywhere."""
    elsewhere = tmp_path / "some" / "where"
    elsewhere.mkdir(parents=True)
    options = [*TCP, "--capture", "--control", str(elsewhere / "path.sock")]
    with Master(tmp_path, *options, "--", *HELLO) as master:
        pid = ["--pid", str(master.ready().pid)]
        assert overseer(tmp_path, "status").returncode == 3
        assert document(tmp_path, *pid)["pid"] == master.pid
        assert document(tmp_path, str(elsewhere / "path.sock"))["pid"] == master.pid
        asked = ["restart", "reload", "scale 2", "signal USR1", "events --no-follow", "logs"]
        for words in (*asked, "stop"):
            done = overseer(tmp_path, *words.split(), *pid)
            assert (done.returncode, done.stderr) == (0, ""), words
        assert master.wait() == 0
        methods = [fact["method"] for fact in master.all("command")]
        assert methods == ["restart", "reload", "scale", "signal", "stop"]


def test_a_pid_that_is_no_master(tmp_path: Path) -> None:
    """Status 3 for a worker, for any other process, and for none."""
    with Master(tmp_path, *TCP, "--", *HELLO) as master:
        (worker,) = master.ready().workers()
        for pid in (worker, os.getpid(), 1 << 22):
            done = overseer(tmp_path, "stop", "--pid", str(pid))
            assert (done.returncode, done.stdout) == (3, "")
            assert f"no overseer with pid {pid} runs here" in done.stderr
        assert master.stop() == 0


# -- completion -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_for_each_shell(tmp_path: Path, shell: str) -> None:
    """The script that a shell evaluates is printed."""
    script = _complete(tmp_path, f"{shell}_source")
    assert "_OVERSEER_COMPLETE=" in script
    assert f"{shell}_complete" in script


def test_completion_of_names(tmp_path: Path) -> None:
    """The instances that there are, and the commands, are offered."""
    with Master(tmp_path, *TCP, "--name", "aquarium", "--", *HELLO) as master:
        master.ready()
        for line, offered in (
            ("overseer restart a", ["plain,aquarium"]),
            ("overseer restart b", []),
            ("overseer sta", ["plain,status"]),
        ):
            found = _complete(tmp_path, "bash_complete", line)
            assert found.split() == offered
        assert master.stop() == 0


def _complete(place: Path, what: str, line: str = "") -> str:
    told = {"_OVERSEER_COMPLETE": what, "COMP_WORDS": line}
    told["COMP_CWORD"] = str(max(0, len(line.split()) - 1))
    done = subprocess.run(
        [OVERSEER],
        check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(place), **told},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return done.stdout


def test_a_listener_of_the_service_is_no_instance(tmp_path: Path) -> None:
    """Its unix socket may lie where the control socket does: nobody is to be asked there."""
    runtime = tmp_path / "overseer"
    runtime.mkdir(mode=0o700)
    listen = ["--listen", f"unix:{runtime}/web.sock"]
    with Master(tmp_path, "--name", "app", *listen, "--", *HELLO) as master:
        master.ready()
        done = overseer(tmp_path, "status")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("app ")
        assert master.stop() == 0
