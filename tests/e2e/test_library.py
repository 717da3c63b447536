"""Library mode: the first process becomes the master, with nothing of the script in it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import venv
import zipapp
from collections.abc import Callable
from pathlib import Path

import pytest

import overseer_py
from overseer_py import ConfigError
from tests.load import Load, fetch
from tests.master import ROOT, Master
from tests.needs import need

SCRIPT = """\
import http.server, json, os, sys, threading, {heavy}
import overseer_py

class Tells(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({{
            "pid": os.getpid(), "argv": sys.argv, "flags": sys.orig_argv[1:], "id": state.id,
            "addresses": state.addresses, "enabled": state.enabled, "greeting": os.environ.get("A"),
            "executable": sys.executable, "release": state.release, "started": state.started_at,
        }}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

def main(given):
    global state
    state = given
    server = http.server.ThreadingHTTPServer(("", 0), Tells, bind_and_activate=False)
    server.daemon_threads = False
    server.socket.close()
    server.socket = state.listener
    server.socket.setblocking(False)
    threading.Thread(target=server.serve_forever, args=[0.05]).start()
    if not state.draining.is_set():  # from here on the signal is heard
        sys.stderr.write("serving\\n")
    state.draining.wait()
    server.shutdown()
    server.server_close()

overseer_py.run(main, listen="web=127.0.0.1:0", name="app", settle=0.1, env={{"A": "b c=d"}})
"""
HEAVY = "sqlite3, wave"  # what the master has no use for


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Give a script that runs itself under a master."""
    path = tmp_path / "my app.py"
    path.write_text(SCRIPT.format(heavy=HEAVY))
    return path


def told(master: Master) -> dict[str, object]:
    """Return what a worker says of itself."""
    answer: dict[str, object] = json.loads(fetch(master.port("web")))
    return answer


def test_the_first_process_becomes_the_master(tmp_path: Path, script: Path) -> None:
    """Same pid, same words, and nothing of the script stays in it; restarts lose nothing."""
    words = ["two words", "$HOME", "", "--listen"]
    command = [sys.executable, str(script), *words]
    with Master(tmp_path, script=command, cwd=tmp_path) as master:
        started = master.saw("overseer-started")
        assert (started["pid"], started["name"]) == (master.pid, "app")
        master.ready()
        before = told(master)
        assert before["argv"] == [str(script), *words]
        assert before["addresses"] == [f"127.0.0.1:{master.port('web')}"]
        assert (before["id"], before["greeting"]) == ("1/0", "b c=d")
        assert before["enabled"] is True
        loaded = Path(f"/proc/{master.pid}/maps").read_text()
        assert "_sqlite3" not in loaded
        assert "_sqlite3" in Path(f"/proc/{before['pid']}/maps").read_text()
        with Load(master.port("web"), clients=2) as load:
            for _ in range(3):
                master.restart()
            load.more()
        assert load.failures == []
        assert told(master)["id"] == "4/0"
        assert master.stop() == 0


def by_module(place: Path, script: Path) -> list[str]:
    """Return the command for a module of a package."""
    (place / "pack").mkdir()
    (place / "pack" / "__init__.py").touch()
    shutil.copy(script, place / "pack" / "tool.py")
    return [sys.executable, "-m", "pack.tool"]


def by_code(_: Path, script: Path) -> list[str]:
    """Return the command for code in the command line."""
    return [sys.executable, "-c", script.read_text()]


def by_options(_: Path, script: Path) -> list[str]:
    """Return the command with options of the interpreter."""
    return [sys.executable, "-X", "dev", "-W", "ignore", "-u", str(script)]


def by_zip(place: Path, script: Path) -> list[str]:
    """Return the command for a zip file that has this very package, too."""
    package = place / "package"
    aside = shutil.ignore_patterns("__pycache__")  # others write there
    shutil.copytree(ROOT / "overseer_py", package / "overseer_py", ignore=aside)
    shutil.copy(script, package / "__main__.py")
    zipapp.create_archive(package, place / "app.pyz", interpreter=sys.executable)
    return [str(place / "app.pyz")]


def by_environment(place: Path, script: Path) -> list[str]:
    """Return the command for the interpreter of a virtual environment."""
    venv.create(place / "own", with_pip=False, symlinks=True)
    (site,) = (place / "own" / "lib").glob("python*/site-packages")
    paths = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    (site / "more.pth").write_text("\n".join(paths))
    return [str(place / "own" / "bin" / "python"), str(script)]


WAYS = [by_module, by_code, by_options, by_zip, by_environment]


@pytest.mark.parametrize("way", WAYS)
def test_however_a_script_is_called(
    tmp_path: Path, script: Path, way: Callable[[Path, Path], list[str]]
) -> None:
    """The worker is called in the same way, by the same interpreter."""
    command = way(tmp_path, script)
    with Master(tmp_path, "a b", script=command, cwd=tmp_path) as master:
        master.ready()
        assert master.saw("overseer-started")["pid"] == master.pid
        before = told(master)
        assert before["argv"][-1] == "a b"  # type: ignore[index]
        if way is not by_zip:
            assert before["executable"] == command[0]
            assert before["flags"] == [*command[1:], "a b"]
        master.restart()
        assert told(master)["pid"] != before["pid"]
        assert master.stop() == 0


def test_words_are_the_scripts_own(tmp_path: Path, script: Path) -> None:
    """What looks like a placeholder of overseer's, or like standard input, is neither."""
    words = ["{fd}", "{port:web}", "--out", "-"]
    with Master(tmp_path, *words, script=[sys.executable, str(script)], cwd=tmp_path) as master:
        master.ready()
        assert told(master)["argv"] == [str(script), *words]
        assert master.stop() == 0


def test_a_script_that_runs_elsewhere(tmp_path: Path, script: Path) -> None:
    """With ``chdir`` a relative script is still found."""
    (tmp_path / "elsewhere").mkdir()
    script.write_text(script.read_text().replace('name="app"', 'name="app", chdir="elsewhere"'))
    with Master(tmp_path, script=[sys.executable, script.name], cwd=tmp_path) as master:
        master.ready()
        assert told(master)["argv"] == [str(script)]
        assert master.stop() == 0


def test_a_child_of_a_worker_that_lost_its_parent(tmp_path: Path, script: Path) -> None:
    """The master is its parent then; it is no worker all the same."""
    (tmp_path / "outer.py").write_text(
        "import os, subprocess, sys, time\n"
        "if not os.fork():\n"
        f"    child = subprocess.Popen([sys.executable, {str(script)!r}])\n"
        "    os._exit(0)\n"
        "time.sleep(1000)\n"
    )
    outer = [sys.executable, str(tmp_path / "outer.py")]
    with Master(tmp_path, "--ready", "delay:0s", "--", *outer) as master:
        master.saw_line("OverseerError: this is a child of a worker, which has a master already")
        assert master.stop() == 0


def test_a_program_by_name(tmp_path: Path) -> None:
    """``module:function`` is imported in workers only."""
    (tmp_path / "serves.py").write_text(
        "import sys\n"
        "def main(state):\n"
        "    sys.stderr.write(f'serving {state.id}\\n')\n"
        "    state.draining.wait()\n"
    )
    (tmp_path / "app.py").write_text(
        "import overseer_py\noverseer_py.run('serves:main', ready='delay:0s')\n"
    )
    with Master(tmp_path, script=[sys.executable, "app.py"], cwd=tmp_path) as master:
        master.ready()
        master.saw_line("serving 1/0")
        assert master.stop() == 0


def test_with_a_parent_that_stands_in(tmp_path: Path, script: Path) -> None:
    """A worker is known, too, where the master is not its parent (``inherit="overseer"``)."""
    script.write_text(script.read_text().replace('name="app"', 'inherit="overseer", name="app"'))
    with Master(tmp_path, script=[sys.executable, str(script)], cwd=tmp_path) as master:
        master.ready()
        assert told(master)["id"] == "1/0"
        assert master.stop() == 0


def test_a_signal_is_not_lost_on_the_way(tmp_path: Path, script: Path) -> None:
    """What comes while one program is replaced by the other waits for the master."""
    late = "import os, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
    script.write_text(late + "os.kill(os.getpid(), signal.SIGTERM)\n" + script.read_text())
    with Master(tmp_path, script=[sys.executable, str(script)], cwd=tmp_path) as master:
        assert master.wait() == 0
        master.saw("stopping")


def test_what_is_wrong_is_told_before_anything_is_done() -> None:
    """In the script's own process, as an exception."""
    for options, why in (
        ({"workerz": 2}, "run(): workerz: unknown option; did you mean workers?"),
        ({"workers": 0}, "--workers: "),
        ({"capture": "yes"}, "run(): capture: 'yes' is not True or False"),
        ({"listen": ["nowhere"]}, "--listen: 'nowhere' is no address"),
    ):
        with pytest.raises(ConfigError) as failed:
            overseer_py.run(print, **options)
        assert str(failed.value).startswith(why)


def test_without_a_master(script: Path) -> None:
    """A child of a worker has none of its own; ``required=False`` serves all the same."""
    environ = {**os.environ, "OVERSEER_PID": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "OverseerError: this is a child of a worker, which has a master already" in done.stderr
    script.write_text(script.read_text().replace('name="app"', 'required=False, name="app"'))
    with subprocess.Popen(
        [sys.executable, str(script)], env=environ, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        line = process.stderr.readline()
        assert line.startswith("overseer: running without a master: this is a child of a worker")
        assert process.stderr.readline() == "serving\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    environ.pop("OVERSEER_PID")
    text = "import overseer_py; overseer_py.run(print)"
    piped = subprocess.run(
        [sys.executable], input=text, env=environ, capture_output=True, text=True, check=False
    )
    assert "no command line to run again: the script came by standard input" in piped.stderr


def test_the_example(tmp_path: Path) -> None:
    """It serves :3000, in a network of its own, and is restarted."""
    example = str(ROOT / "examples" / "library_mode.py")
    alone = [need("unshare"), "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "-"]
    if os.geteuid():
        alone.insert(1, "--map-root-user")
    with Master(tmp_path, script=[*alone, sys.executable, example]) as master:
        assert master.ready().saw("overseer-started")["name"] == "library_mode"
        assert master.saw("listening")["address"] == "[::]:3000"
        master.restart()
        assert master.stop() == 0
