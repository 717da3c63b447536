"""Under systemd, with the files that are shipped: one pid, no gap, a clean end."""

from __future__ import annotations

import itertools
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.systemd import DROP_INS, UNIT_NAMES, UNITS, Box
from tests.e2e.units import SERVICE, Unit, inside
from tests.load import Answer, Load, fetch, free_port, half_a_request
from tests.master import HELLO, PATIENCE, program
from tests.needs import need

NUMBERS = itertools.count(1)


@pytest.fixture
def unit(box: Box) -> Unit:
    """Give a service of the template that nobody else has."""
    return Unit(box, f"app{next(NUMBERS)}")


def refused(answers: list[Answer]) -> list[Answer]:
    """Return the requests that found nobody listening."""
    return [answer for answer in answers if "refused" in answer.failure.lower()]


# -- what is shipped ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNIT_NAMES)
def test_systemd_understands_every_line(tmp_path: Path, name: str) -> None:
    """No key is unknown, no value is ignored: systemd-analyze has nothing to say."""
    for source, target in UNIT_NAMES.items():
        text = (UNITS / source).read_text().replace("/usr/local/bin/overseer", "/bin/true")
        (tmp_path / target).write_text(text)
    drop_ins = tmp_path / f"{UNIT_NAMES[name]}.d"
    drop_ins.mkdir()
    for drop_in in DROP_INS if name.endswith(".service") else ():
        (drop_ins / drop_in).write_text((UNITS / drop_in).read_text())
    words = [need("systemd-analyze"), "verify", "--man=no", str(tmp_path / UNIT_NAMES[name])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    # It looks at what these units refer to as well, which is this machine's business.
    about_ours = [line for line in done.stderr.splitlines() if "overseer" in line]
    assert (done.returncode, about_ours) == (0, [])


# -- start, reload, stop ------------------------------------------------------------------------


def test_a_start_waits_until_it_is_ready(unit: Unit) -> None:
    """Active means ready: not that the master runs, nor that the program does."""
    gate = f"/run/{unit.name}.gate"
    unit.box.run("mkfifo", "--mode=666", gate)
    unit.describe(*SERVICE, env=[f"GATE={gate}"])
    start = unit.begin("start")
    while "begins" not in unit.log():
        assert start.poll() is None
    assert unit.show()["ActiveState"] == "activating"
    unit.box.run("/bin/sh", "-c", f": >{gate}")
    assert start.wait(PATIENCE) == 0
    assert unit.show()["ActiveState"] == "active"
    assert fetch(unit.port)
    unit.systemctl("stop")


def test_a_reload_replaces_the_program_and_a_stop_drains_it(unit: Unit) -> None:
    """The reload keeps the pid, loses nothing and returns when it is done; the stop waits."""
    unit.describe(*HELLO)
    unit.start()
    first, before = fetch(unit.port), unit.show()
    with Load(unit.port, clients=2) as load:
        load.more()
        assert unit.systemctl("reload") == 0
        assert fetch(unit.port) != first
        load.more()
    assert load.failures == []
    after = unit.saw(ActiveState="active", StatusText="Generation 2, 1 of 1 workers ready")
    assert (after["MainPID"], after["NRestarts"]) == (before["MainPID"], "0")
    with half_a_request(unit.port) as connection:
        stop = unit.begin("stop")
        unit.saw(ActiveState="deactivating")
        connection.sendall(b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.0 200 ")
        assert stop.wait(PATIENCE) == 0
    assert unit.show()["ActiveState"] == "inactive"
    assert f"{unit.unit}: Deactivated successfully" in unit.log()


def test_a_reload_of_a_broken_version_says_so(unit: Unit) -> None:
    """Status 1; the unit is active, the old version serves, and no request has noticed."""
    unit.deploy("service")
    unit.describe("/usr/bin/python3", f"/srv/{unit.name}/app.py")
    pid = unit.start()
    first = fetch(unit.port)
    unit.deploy("exits")
    with Load(unit.port, clients=2) as load:
        load.more()
        assert unit.systemctl("reload") == 1
        load.more()
    assert load.failures == []
    assert set(load.bodies) == {first.strip()}
    shown = unit.show()
    assert (shown["MainPID"], shown["ActiveState"], shown["NRestarts"]) == (pid, "active", "0")
    assert "rollout-rolled-back" in unit.log()
    unit.deploy("service")
    assert unit.systemctl("reload") == 0  # and the next one is none the worse for it
    assert fetch(unit.port) != first
    unit.systemctl("stop")


def test_a_stop_takes_longer_than_its_time_out(unit: Unit) -> None:
    """A request that goes on for longer is answered: the master asks for more."""
    unit.drop_in("[Service]\nTimeoutStopSec=3s\n")
    unit.describe(*HELLO)
    unit.start()
    with half_a_request(unit.port) as connection:
        stop = unit.begin("stop")
        unit.saw(ActiveState="deactivating")
        time.sleep(3.5)  # longer than the time-out: that is the point
        connection.sendall(b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.0 200 ")
        assert stop.wait(PATIENCE) == 0
    assert unit.show()["Result"] == "success"


def test_a_wrong_configuration_is_not_tried_again(unit: Unit) -> None:
    """Exit status 2 is final: the unit has failed, and says so at once."""
    unit.write(f"/etc/overseer/{unit.name}.toml", 'commando = ["true"]\n')
    assert unit.systemctl("start") == 1
    shown = unit.box.show(unit.unit)
    assert (shown["ActiveState"], shown["ExecMainStatus"]) == ("failed", "2")
    assert shown["NRestarts"] == "0"
    assert "commando: unknown key; did you mean command?" in unit.log()


def test_a_worker_that_speaks_to_systemd_changes_nothing(unit: Unit) -> None:
    """Neither by the address that it was given nor by systemd's own."""
    unit.describe(*program("speaks_to_systemd"), ready="notify")
    pid = unit.start()
    unit.saw(ActiveState="active", StatusText="Generation 1, 1 of 1 workers ready")
    assert fetch(unit.port).split()[0] == "1"
    assert unit.systemctl("reload") == 0
    assert fetch(unit.port).split()[0] == "2"
    # systemd deals with what it hears in order: it has heard these words by now.
    unit.saw(StatusText="Generation 2, 1 of 1 workers ready")
    shown = unit.show()
    assert (shown["MainPID"], shown["ActiveState"], shown["NRestarts"]) == (pid, "active", "0")
    assert unit.systemctl("stop") == 0
    assert unit.show()["Result"] == "success"


def test_a_master_that_is_stuck_is_replaced(unit: Unit) -> None:
    """The watchdog ends it and starts another one, with nothing left of the first."""
    unit.drop_in("[Service]\nWatchdogSec=5s\nTimeoutAbortSec=1s\n")
    unit.describe(*HELLO, fdstore=True)
    pid = unit.start()
    with Load(unit.port, clients=2) as load:
        load.more()
        unit.kill(signal.SIGSTOP)
        shown = unit.saw(NRestarts="1", ActiveState="active")
        load.more()
    assert refused(load.failures) == []
    assert len(load.failures) <= load.clients
    assert shown["MainPID"] != pid
    assert "Watchdog timeout" in unit.log()
    assert [worker["generation"] for worker in unit.status()["workers"]] == [1]
    unit.systemctl("stop")


# -- sockets that outlive the master --------------------------------------------------------------


def activate(unit: Unit, *names: str) -> dict[str, int]:
    """Write a socket unit for each name; return their ports."""
    ports = {name: free_port() for name in names}
    for name, port in ports.items():
        (unit.box.units / f"{unit.name}-{name}.socket").write_text(
            f"[Socket]\nListenStream=127.0.0.1:{port}\nFileDescriptorName={name}\n"
            f"Service={unit.unit}\n"
        )
    sockets = " ".join(f"{unit.name}-{name}.socket" for name in names)
    unit.drop_in(f"[Unit]\nRequires={sockets}\nAfter={sockets}\n", "sockets")
    return ports


def by_socket(unit: Unit) -> None:
    """Have systemd own the listener."""
    unit.port = activate(unit, "web")["web"]
    unit.describe(*SERVICE, listen=["fd:web"])


def by_store(unit: Unit) -> None:
    """Have systemd keep the listener of the master."""
    unit.describe(*SERVICE, fdstore=True)


LASTING = pytest.mark.parametrize("keep", [by_socket, by_store])
GENERATIONS = pytest.mark.parametrize("rollouts", [0, 2])


@LASTING
@GENERATIONS
def test_a_new_master_costs_no_request(
    unit: Unit, keep: Callable[[Unit], None], rollouts: int
) -> None:
    """``systemctl restart``: connections wait for the next master, whatever was live."""
    keep(unit)
    pid = unit.start()
    for _ in range(rollouts):
        assert unit.systemctl("reload") == 0
    with Load(unit.port, clients=4) as load:
        load.more()
        for _ in range(2):
            assert unit.systemctl("restart") == 0
            load.more()
    assert load.failures == []
    assert unit.show()["MainPID"] != pid
    assert {body.split()[0] for body in load.bodies} == {"1", str(1 + rollouts)}
    unit.systemctl("stop")


@LASTING
@GENERATIONS
def test_nobody_is_refused_when_the_master_is_killed(
    unit: Unit, keep: Callable[[Unit], None], rollouts: int
) -> None:
    """Kill -9: what was in hand is lost, the rest waits."""
    keep(unit)
    unit.start()
    for _ in range(rollouts):
        assert unit.systemctl("reload") == 0
    with Load(unit.port, clients=4) as load:
        load.more()
        unit.kill(signal.SIGKILL)
        unit.saw(NRestarts="1", ActiveState="active")
        load.more()
    assert refused(load.failures) == []
    assert len(load.failures) <= 2 * load.clients  # in a request, and in the dead one's queue
    unit.systemctl("stop")


@LASTING
def test_who_waits_for_a_master_that_is_replaced_is_served(
    unit: Unit, keep: Callable[[Unit], None]
) -> None:
    """It ended before its worker was ready: the client waits on, for the one after that."""
    gate = f"/run/{unit.name}.gate"
    unit.box.run("mkfifo", "--mode=666", gate)
    keep(unit)
    unit.start()
    unit.write(f"/etc/overseer/{unit.name}.env", f"GATE={gate}\n")
    unit.drop_in(f"[Service]\nEnvironment=OVERSEER_ENV_FILE=/etc/overseer/{unit.name}.env\n")
    first = unit.begin("restart")
    unit.saw(ActiveState="activating")
    while unit.log().count(" begins") < 2:
        assert first.poll() is None
    with Load(unit.port, clients=1) as load:
        second = unit.begin("restart")
        while unit.log().count(" begins") < 3:
            assert second.poll() is None
        unit.box.run("/bin/sh", "-c", f": >{gate}")
        assert second.wait(PATIENCE) == 0
        load.more(2)
    assert load.failures == []
    first.wait(PATIENCE)
    unit.systemctl("stop")


def test_every_kind_of_listener_is_kept(unit: Unit) -> None:
    """TCP of IPv4 and IPv6, UDP and unix, with their names; a port that was chosen stays."""
    listen = ["web=127.0.0.1:0", "six=[::1]:0", "udp=udp:127.0.0.1:0"]
    listen += [f"local=unix:/run/overseer/{unit.name}/web.sock?mode=0666"]
    unit.describe(*SERVICE, listen=listen, ready="accept:web", fdstore=True)
    unit.start()
    assert unit.systemctl("reload") == 0
    before = unit.status()["listeners"]
    unit.port = int(before[0]["address"].rpartition(":")[2])
    with socket.socket(socket.AF_UNIX) as local:
        unit.kill(signal.SIGKILL)
        local.connect(inside(unit.box, f"/run/overseer/{unit.name}/web.sock"))
        unit.saw(NRestarts="1", ActiveState="active")
    assert fetch(unit.port)
    assert unit.status()["listeners"] == before
    assert unit.systemctl("restart") == 0
    assert unit.status()["listeners"] == before
    assert unit.box.show(unit.unit)["NFileDescriptorStore"] == "4"
    assert unit.systemctl("stop") == 0
    assert unit.box.show(unit.unit)["NFileDescriptorStore"] == "0"


def test_addresses_that_change_with_the_master(unit: Unit) -> None:
    """What is no longer asked for is closed, a narrower address can be bound at once."""
    wide, gone, moved = free_port(), free_port(), free_port()
    keys = {"ready": "accept:web", "fdstore": True}
    unit.describe(*SERVICE, listen=[f"web=0.0.0.0:{wide}", f"x=127.0.0.1:{gone}"], **keys)
    unit.start()
    listen = [f"web=127.0.0.1:{wide}", f"x=127.0.0.1:{moved}"]
    unit.describe(*SERVICE, listen=listen, **keys)
    assert unit.systemctl("restart") == 0
    assert fetch(wide)
    with pytest.raises(ConnectionRefusedError):
        fetch(gone)
    assert [each["address"] for each in unit.status()["listeners"]] == [
        f"127.0.0.1:{wide}",
        f"127.0.0.1:{moved}",
    ]
    unit.describe(*SERVICE, listen=listen, ready="accept:web")  # without the store
    assert unit.systemctl("restart") == 0
    assert unit.box.show(unit.unit)["NFileDescriptorStore"] == "0"
    assert fetch(wide)
    unit.systemctl("stop")


def test_the_listeners_of_a_reload_are_kept_too(unit: Unit) -> None:
    """The store follows what is added and removed while the master runs."""
    gone, added = free_port(), free_port()
    web = f"web=127.0.0.1:{unit.port}"
    keys = {"ready": "accept:web", "fdstore": True}
    unit.describe(*SERVICE, listen=[web, f"x=127.0.0.1:{gone}"], **keys)
    unit.start()
    unit.describe(*SERVICE, listen=[web, f"x=127.0.0.1:{added}"], **keys)
    unit.box.run("/usr/local/bin/overseer", "reload", unit.name)
    unit.kill(signal.SIGKILL)
    with pytest.raises(ConnectionRefusedError):
        fetch(gone)
    with socket.create_connection(("127.0.0.1", added)):
        unit.saw(NRestarts="1", ActiveState="active")
    assert unit.box.show(unit.unit)["NFileDescriptorStore"] == "2"
    unit.systemctl("stop")


def test_sockets_of_two_units_keep_their_names(unit: Unit) -> None:
    """The program gets each where it expects it, whichever comes first."""
    ports = activate(unit, "web", "admin")
    unit.describe(*SERVICE, listen=["fd:admin", "fd:web"], ready="accept:admin")
    unit.start()
    shown = {each["name"]: each for each in unit.status()["listeners"]}
    assert {name: each["address"] for name, each in shown.items()} == {
        name: f"127.0.0.1:{port}" for name, port in ports.items()
    }
    assert (shown["admin"]["fd"], shown["web"]["fd"]) == (3, 4)
    assert fetch(ports["admin"])  # served: the program takes fd 3
    unit.systemctl("stop")
