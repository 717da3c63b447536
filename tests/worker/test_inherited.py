"""What a worker was given: sockets by index and name, whoever stands between it and the master."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from overseer_py import worker
from tests.master import Master, program


def inherits(tmp_path: Path, *options: str, wrapper: list[str] | None = None) -> dict[str, Any]:
    """Run the program under a master; return what it found."""
    place = tmp_path / "found"
    command = program("worker_inherits", str(place))
    if wrapper:
        command = [*wrapper, shlex.join(command) + "; exit $?"]  # so that the shell must stay
    with Master(tmp_path, *options, "--ready", "notify", "--", *command) as master:
        master.ready()
        found: dict[str, Any] = json.loads(place.read_text())
        assert found["master_pid"] == master.pid
        assert master.stop() == 0
    return found


def test_by_index_and_name(tmp_path: Path) -> None:
    """Each is of the right family and type, and goes to nobody else."""
    path = str(tmp_path / "app.sock")
    places = ["web=127.0.0.1:0", f"local=unix:{path}", "six=[::1]:0", "time=udp:127.0.0.1:0"]
    options = [word for place in places for word in ("--listen", place)]
    found = inherits(tmp_path, *options, "--name", "shop")
    assert found["names"] == ["web", "local", "six", "time"]
    kinds = [(s["family"], s["type"]) for s in found["sockets"]]
    assert kinds == [
        ("AF_INET", "SOCK_STREAM"),
        ("AF_UNIX", "SOCK_STREAM"),
        ("AF_INET6", "SOCK_STREAM"),
        ("AF_INET", "SOCK_DGRAM"),
    ]
    assert found["by_name"] == {"web": 3, "local": 4, "six": 5, "time": 6}
    assert not any(s["inheritable"] for s in found["sockets"])
    assert found["same"]
    assert found["LISTEN_PID"] == str(found["pid"])
    assert (found["generation"], found["slot"], found["name"]) == (1, 0, "shop")
    assert found["release"] is None


def test_behind_a_wrapper(tmp_path: Path) -> None:
    """LISTEN_PID is the shell's; the master is an ancestor all the same."""
    options = ["--listen", "web=127.0.0.1:0"]
    found = inherits(tmp_path, *options, wrapper=["sh", "-c"])
    assert found["LISTEN_PID"] != str(found["pid"])
    assert found["names"] == ["web"]


def test_a_wrapper_that_closes_them(tmp_path: Path) -> None:
    """What stands at the numbers then is not taken for a listener."""
    wrapper = ["sh", "-c", 'exec 3</dev/null; eval "$0"']
    found = inherits(tmp_path, "--listen", "127.0.0.1:0", wrapper=wrapper)
    assert found["names"] == []


def run_alone(tmp_path: Path, environ: dict[str, str], *fds: int) -> dict[str, Any]:
    """Run the program without a master; return what it found."""
    place = tmp_path / "found"
    hidden = ("OVERSEER_", "LISTEN_", "NOTIFY_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    script = 'export LISTEN_PID=$$; exec "$@"' if "LISTEN_FDS" in environ else 'exec "$@"'
    for target, fd in enumerate(fds, start=3):
        script = f"exec {target}<&{fd}; {script}"
    command = ["bash", "-c", script, "-", *program("worker_inherits", str(place))]
    subprocess.run(command, env={**kept, **environ}, pass_fds=fds, check=True)
    found: dict[str, Any] = json.loads(place.read_text())
    return found


def test_without_a_master(tmp_path: Path) -> None:
    """There is nothing, and nobody to talk to: the program ends as it pleases."""
    found = run_alone(tmp_path, {})
    assert found["sockets"] == []
    assert {found[key] for key in ("generation", "slot", "name", "release", "master_pid")} == {None}


def test_systemd_in_its_place(tmp_path: Path) -> None:
    """LISTEN_FDS with our own pid is enough; who has no name is unknown."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
        fds = [one.fileno(), two.fileno()]
        found = run_alone(tmp_path, {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "web"}, *fds)
        assert found["names"] == ["web", "unknown"]
        assert found["sockets"][0]["address"] == list(one.getsockname())


def test_a_stranger_with_the_variables(tmp_path: Path) -> None:
    """Who is no descendant of the master takes nothing, whatever its environment says."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with child, socket.create_server(("127.0.0.1", 0)) as one:
        environ = {"OVERSEER_NUM_FDS": "1", "OVERSEER_PID": str(child.pid)}
        assert run_alone(tmp_path, environ, one.fileno())["sockets"] == []
        child.communicate()


def test_what_is_not_there_is_named() -> None:
    """The message says what there is, and what to do."""
    with pytest.raises(KeyError, match=r"no listener 'web' .*--listen NAME=ADDRESS"):
        worker.listeners()["web"]
    with pytest.raises(IndexError, match="no listener 0: there are 0"):
        worker.listeners()[0]
