"""Under systemd, with the files that are shipped: one pid, no gap, a clean end."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.systemd import UNIT_NAMES, UNITS, Box
from tests.load import Load, fetch, free_port, half_a_request, other_worker
from tests.master import HELLO, PATIENCE
from tests.needs import need


def _configure(box: Box, name: str, text: str) -> None:
    box.run("/bin/sh", "-c", 'printf %s "$1" >"/etc/overseer/$2.toml"', "-", text, name)


@pytest.mark.parametrize("name", UNIT_NAMES)
def test_systemd_understands_every_line(tmp_path: Path, name: str) -> None:
    """No key is unknown, no value is ignored: systemd-analyze has nothing to say."""
    for source, target in UNIT_NAMES.items():
        text = (UNITS / source).read_text().replace("/usr/local/bin/overseer", "/bin/true")
        (tmp_path / target).write_text(text)
    words = [need("systemd-analyze"), "verify", "--man=no", str(tmp_path / UNIT_NAMES[name])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    # It looks at what these units refer to as well, which is this machine's business.
    about_ours = [line for line in done.stderr.splitlines() if "overseer" in line]
    assert (done.returncode, about_ours) == (0, [])


@pytest.mark.parametrize("name", [name for name in UNIT_NAMES if name.endswith(".service")])
def test_a_unit_may_do_little_else(name: str) -> None:
    """The exposure that systemd computes is at most 3.0 of 10; 9.6 is a unit without a sandbox."""
    options = ["--offline=yes", "--threshold=30"]
    words = [need("systemd-analyze"), "security", *options, str(UNITS / name)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_systemd_service_starts_reloads_and_drains(box: Box) -> None:
    """Active means ready; a reload keeps the pid; a stop waits for the request in progress."""
    port, unit = free_port(), "overseer@app.service"
    command = [f'"{word}"' for word in HELLO]
    listen = f'listen = ["127.0.0.1:{port}"]\n'
    _configure(box, "app", f"command = [{', '.join(command)}]\n{listen}")
    box.run("systemctl", "start", unit)
    first, before = fetch(port).strip(), box.show(unit)
    assert before["ActiveState"] == "active"
    with Load(port, clients=2) as load:
        box.run("systemctl", "reload", unit)
        other_worker(port, than=first)
        status = "Generation 2, 1 of 1 workers ready"
        after = box.saw(unit, ActiveState="active", StatusText=status)
        load.more()
    assert load.failures == []
    assert (after["MainPID"], after["NRestarts"]) == (before["MainPID"], "0")
    with half_a_request(port) as connection:
        stop = box.start_stop(unit)
        box.saw(unit, ActiveState="deactivating")
        connection.sendall(b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.0 200 ")
        assert stop.wait(PATIENCE) == 0
    assert box.show(unit)["ActiveState"] == "inactive"
    assert f"{unit}: Deactivated successfully" in box.run("journalctl", "--unit", unit)


def test_a_systemd_service_with_a_wrong_configuration_is_not_tried_again(box: Box) -> None:
    """Exit status 2 is final: the unit has failed, and says so at once."""
    _configure(box, "wrong", 'commando = ["true"]\n')
    box.run("systemctl", "start", "overseer@wrong.service", check=False)
    shown = box.show("overseer@wrong.service")
    assert (shown["ActiveState"], shown["ExecMainStatus"]) == ("failed", "2")
    assert shown["NRestarts"] == "0"


def test_connections_to_a_systemd_socket_wait_while_the_master_is_restarted(box: Box) -> None:
    """The first request starts the service; a whole new master costs none."""
    port, unit = free_port(), "overseer-example"
    (box.units / f"{unit}.socket.d").mkdir()
    (box.units / f"{unit}.socket.d" / "port.conf").write_text(
        f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n"
    )
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "start", f"{unit}.socket")
    fetch(port)
    before = box.saw(f"{unit}.service", ActiveState="active")
    with Load(port, clients=2) as load:
        load.more()
        box.run("systemctl", "restart", f"{unit}.service")
        load.more()
    assert load.failures == []
    assert box.show(f"{unit}.service")["MainPID"] != before["MainPID"]
    box.run("systemctl", "stop", f"{unit}.socket", f"{unit}.service")
    assert "Failed" not in box.run("journalctl", "--unit", f"{unit}.service")
