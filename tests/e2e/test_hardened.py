"""The hardened unit, under a user of its own: everything that the guide promises works there."""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.shops import BROKEN, Shop, digest, release
from tests.e2e.systemd import UNITS, Box
from tests.e2e.units import SERVICE, Unit, inside
from tests.load import Load, fetch
from tests.master import program
from tests.needs import cannot, need

HTTP_SERVER = sys.executable, "-m", "http.server", "--bind", "127.0.0.1"
NUMBERS = itertools.count(1)
OVERSEER = "/usr/local/bin/overseer"


@pytest.fixture
def unit(box: Box) -> Iterator[Unit]:
    """Give a service of the template, hardened by the shipped drop-in."""
    unit = Unit(box, f"hard{next(NUMBERS)}")
    unit.drop_in((UNITS / "hardening.conf").read_text(), "hardening")
    yield unit
    unit.systemctl("stop")


def low_port() -> int:
    """Return a port under 1024 that nobody has."""
    for port in random.sample(range(500, 1024), 524):  # another run of these tests has another
        with closing(socket.socket()) as tried:
            if tried.connect_ex(("127.0.0.1", port)):
                return port
    return cannot("every port under 1024 is in use")


def test_its_exposure(tmp_path: Path) -> None:
    """What the drop-in says that systemd computes for it, and no more."""
    shutil.copy(UNITS / "overseer@.service", tmp_path)
    (tmp_path / "overseer@.service.d").mkdir()
    shutil.copy(UNITS / "hardening.conf", tmp_path / "overseer@.service.d")
    words = [need("systemd-analyze"), "security", "--offline=yes", "--no-pager"]
    words.append(str(tmp_path / "overseer@.service"))
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    score = re.search(r"Overall exposure level for \S+: ([\d.]+) OK", told)
    said = re.search(r"gives the unit ([\d.]+) then", (UNITS / "hardening.conf").read_text())
    assert score, told
    assert said
    assert float(score[1]) <= float(said[1]) <= 2.0


def test_it_may_do_nothing_that_it_need_not(unit: Unit) -> None:
    """A worker has a user of its own, no capability, and can write nowhere but in its own place."""
    unit.describe(*SERVICE)
    unit.start()
    worker = fetch(unit.port).split()[1]
    status = dict(
        line.split(":\t", 1)
        for line in unit.box.run("cat", f"/proc/{worker}/status").splitlines()
        if ":\t" in line
    )
    assert int(status["Uid"].split()[0]) >= 61184  # DynamicUser= of systemd.exec(5)
    assert {status[key] for key in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    mounts = unit.box.run("cat", f"/proc/{worker}/mounts").splitlines()
    (root,) = (line.split() for line in mounts if line.split()[1] == "/")
    assert "ro" in root[3].split(",")


@pytest.mark.parametrize(
    ("rule", "environ"),
    [
        ("accept", []),
        ("notify", ["TELL=notify"]),
        ("fd", ["TELL=fd"]),
        ("http:/health", []),
        ("exec:sh -c 'test -d /proc/$OVERSEER_WORKER_PID'", []),
        ("delay:100ms", []),
    ],
)
def test_every_readiness_rule(unit: Unit, rule: str, environ: list[str]) -> None:
    """Start and rollout, by each of them."""
    unit.describe(*SERVICE, ready=rule, env=environ)
    unit.start()
    assert unit.systemctl("reload") == 0
    assert fetch(unit.port).split()[0] == "2"


def test_a_worker_so_busy_that_it_never_waits(unit: Unit) -> None:
    """What it has accepted is looked at with pidfd_getfd(2), which the filter must let through."""
    unit.describe(*program("waits", "never", "worker", "0"))
    start = unit.begin("start")
    while "waiting for" not in unit.log() and "worker-started" not in unit.log():
        assert start.poll() is None
    with Load(unit.port, clients=1):
        assert start.wait(60) == 0


def test_idle_connections_are_closed(unit: Unit) -> None:
    """--close-idle reaches into the workers, which are of the same user."""
    keys = {"close_idle": True, "quiet_timeout": "60s", "drain_timeout": "2s"}
    unit.describe(*program("keeps"), **keys)
    unit.start()
    with socket.create_connection(("127.0.0.1", unit.port), 60) as idle:
        idle.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert idle.recv(4096)
        reload = unit.begin("reload")
        assert idle.recv(4096) == b""
        assert reload.wait(60) == 0
    assert "quiet-timed-out" not in unit.log()


def test_every_kind_of_listener_is_steered(unit: Unit) -> None:
    """Under load by TCP and by a unix socket: rollouts, a canary, a new master, a killed one."""
    listen = [f"web=127.0.0.1:{unit.port}", "six=[::1]:0", "udp=udp:127.0.0.1:0"]
    listen += [f"local=unix:/run/overseer/{unit.name}/web.sock?mode=0666"]
    keys = {"ready": "http:web/health", "canary": "50:200ms", "settle": "100ms", "fdstore": True}
    unit.describe(*program("all_listeners"), listen=listen, workers=2, **keys)
    unit.start()
    path = inside(unit.box, f"/run/overseer/{unit.name}/web.sock")
    with Load(unit.port, clients=2) as load, Load(path, clients=2) as local:
        for _ in range(2):
            assert unit.systemctl("reload") == 0
            load.more()
        assert unit.systemctl("restart") == 0
        load.more()
        local.more()
        assert [*load.failures, *local.failures] == []
        assert {each["handover"] for each in unit.status()["listeners"]} == {"steered"}
        unit.kill(signal.SIGKILL)
        unit.saw(NRestarts="1", ActiveState="active")
        load.more()
        local.more()
    assert not [f for f in [*load.failures, *local.failures] if "refused" in f.failure.lower()]
    assert {each["handover"] for each in unit.status()["listeners"]} == {"steered"}


def test_a_program_that_binds_for_itself(unit: Unit) -> None:
    """seccomp(2) is let through, and what the program does is the master's to see."""
    place = f"127.0.0.1:{unit.port}"
    keys = {"adopt": [place], "fdstore": True, "quiet_timeout": "60s"}  # it does not drain
    unit.describe(*HTTP_SERVER, str(unit.port), listen=[], **keys)
    unit.start()
    with Load(unit.port, clients=2) as load:
        for verb in ("reload", "restart", "restart"):
            assert unit.systemctl(verb) == 0
            load.more()
    assert load.failures == []
    (listener,) = unit.status()["listeners"]
    assert (listener["fd"], listener["handover"]) == (None, "steered")


def test_every_command(unit: Unit) -> None:
    """Root asks by the control socket in the unit's runtime directory."""
    unit.describe(*SERVICE, capture=True, env=["TELL=notify"], ready="notify")
    unit.start()

    def ask(*words: str) -> str:
        return unit.box.run(OVERSEER, words[0], unit.name, *words[1:])

    assert unit.status()["workers"][0]["status"] == "serving"
    assert unit.status()["workers"][0]["rss_bytes"] > 0
    ask("restart")
    ask("reload")
    ask("scale", "2")
    ask("signal", "TTOU")
    assert "generation 1 begins" in ask("logs")
    events = [json.loads(line) for line in ask("events", "--json", "--no-follow").splitlines()]
    assert "rollout-committed" in [event["event"] for event in events]
    ask("status", "--ready")
    ask("stop")
    assert unit.show()["Result"] == "success"


def test_releases_are_fetched_and_rolled_back(unit: Unit, shop: Shop) -> None:
    """From loopback into the unit's state directory, with its hooks."""
    home = f"/var/lib/overseer/{unit.name}"
    keys = {"fetch": shop.url, "to": f"{home}/app.py", "interval": "1h", "probation": "0s"}
    keys |= {"post_upgrade": f"touch {home}/upgraded"}
    unit.describe(sys.executable, f"{home}/app.py", **keys)
    unit.start()
    one = fetch(unit.port)

    def ask(*words: str) -> str:
        script = f'{OVERSEER} "$@" 2>&1; echo $?'
        return unit.box.run("/bin/sh", "-c", script, "-", *words).splitlines()[-1]

    with Load(unit.port, clients=2) as load:
        shop.offer(BROKEN)
        assert ask("fetch", unit.name, "--now") == "1"
        assert fetch(unit.port) == one
        two = shop.offer(release("two"))
        assert ask("fetch", unit.name, "--now") == "0"
        assert fetch(unit.port) == f"two {digest(two)}"
        assert ask("rollback", unit.name) == "0"
        assert fetch(unit.port) == one
        load.more()
    assert load.failures == []
    assert unit.status()["held"]
    unit.box.run("test", "-e", f"{home}/upgraded")


def test_a_change_is_seen(unit: Unit) -> None:
    """--watch, of what somebody else has deployed."""
    unit.deploy("service")
    app = f"/srv/{unit.name}/app.py"
    unit.describe("/usr/bin/python3", app, watch=[app])
    unit.start()
    first = fetch(unit.port)
    unit.box.run("/bin/sh", "-c", f"echo '# new' | cat {app} - >{app}.new && mv {app}.new {app}")
    unit.saw(StatusText="Generation 2, 1 of 1 workers ready")
    assert fetch(unit.port) != first


def test_a_low_port(unit: Unit) -> None:
    """Refused with the remedy; with the capability it is had."""
    unit.port = low_port()
    unit.describe(*SERVICE)
    assert unit.systemctl("start") == 1
    assert "a low port needs root or CAP_NET_BIND_SERVICE" in unit.log()
    unit.systemctl("stop")
    allowed = "AmbientCapabilities=CAP_NET_BIND_SERVICE\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE"
    unit.drop_in(f"[Service]\n{allowed}\n", "low-port")
    unit.start()
    assert fetch(unit.port)
    assert unit.systemctl("reload") == 0
    assert fetch(unit.port).split()[0] == "2"
