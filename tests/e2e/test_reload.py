"""``reload`` and HUP: all of what was changed, or nothing; and whoever asked is told."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import Command, document, overseer
from tests.e2e.test_systemd_protocol import Systemd
from tests.load import Load, fetch, free_port
from tests.master import PATIENCE, Master, program

OLD, NEW = "old", "new"


class Service:
    """A service with a port that stays, and three addresses of which a reload makes others."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "overseer.toml"
        self.web = free_port()
        self.ports = {OLD: free_port(), NEW: free_port()}
        self.datagrams = {OLD: free_port(), NEW: free_port()}
        self.paths = {which: str(directory / f"{which}.sock") for which in (OLD, NEW)}
        self.write(OLD)

    def write(self, which: str, *more: str, command: list[str] | None = None) -> None:
        """Write the configuration with the old addresses, or the new ones."""
        listen = [f"web=127.0.0.1:{self.web}", f"{which}-tcp=127.0.0.1:{self.ports[which]}"]
        listen += [f"{which}-udp=udp:127.0.0.1:{self.datagrams[which]}"]
        listen += [f"{which}-unix=unix:{self.paths[which]}"]
        command = command or program("all_listeners")
        lines = [f"listen = {json.dumps(listen)}", f"command = {json.dumps(command)}", *more]
        self.file.write_text('name = "app"\n' + "\n".join(lines) + "\n")

    def answers(self, which: str) -> list[str]:
        """Return what is answered at each of the addresses that may change: generation and pid."""
        return [
            fetch(self.ports[which]),
            fetch(self.paths[which]),
            _asked_by_datagram(self.datagrams[which]),
        ]

    def is_closed(self, which: str) -> bool:
        """Whether nobody is at any of them, and each is free for others."""
        with socket.socket() as client:
            refused = client.connect_ex(("127.0.0.1", self.ports[which])) == errno.ECONNREFUSED
        with socket.socket(type=socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", self.datagrams[which]))
        return refused and not os.path.lexists(self.paths[which])


def _asked_by_datagram(port: int) -> str:
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", port))
        client.send(b"?")
        return client.recv(1024).decode()


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """Give a service with its old addresses in its file."""
    return Service(tmp_path)


@pytest.fixture
def master(tmp_path: Path, service: Service) -> Iterator[Master]:
    """Give a master that serves it."""
    with Master(tmp_path, "--config", str(service.file)) as master:
        yield master.ready()
        assert master.stop() == 0


def test_addresses_change_together(tmp_path: Path, service: Service, master: Master) -> None:
    """What stays loses nobody; what is new serves; what is gone is closed, and said so."""
    with Load(service.web) as load:
        for number, (gone, come) in enumerate([(OLD, NEW), (NEW, OLD), (OLD, NEW)], start=2):
            after = master.now()
            service.write(come)
            done = overseer(tmp_path, "reload", "app")
            assert (done.returncode, done.stderr) == (0, "")
            assert {a.split()[0] for a in service.answers(come)} == {str(number)}
            for kind in ("tcp", "udp", "unix"):
                master.saw("listener-closed", name=f"{gone}-{kind}", after=after)
            assert service.is_closed(gone)
            last = document(tmp_path, "app")["last_reload"]
            assert (last["outcome"], last["error"], last["generation"]) == (
                "committed",
                None,
                number,
            )
            assert (last["changed"], last["ignored"]) == (["listen"], [])
            load.more()
    assert load.failures == []


# What is to be run instead, and why that comes to nothing.
WAYS = {
    "dies": (["sleep", "1000"], ['ready = "notify"'], "was killed by SIGKILL before it was ready"),
    "is never ready": (
        ["sleep", "1000"],
        ['ready = "notify"', "ready_timeout = 0.5"],
        "was not ready within 0.5 s",
    ),
    "cannot be executed": (["./garbage"], [], "/garbage: Exec format error"),
}


@pytest.mark.parametrize("surge", ["all", "1"])
@pytest.mark.parametrize("way", WAYS)
def test_a_rollout_that_fails_takes_its_addresses_back(
    tmp_path: Path, service: Service, master: Master, way: str, surge: str
) -> None:
    """The old ones answer throughout, the new are closed again, and the plan is the old one."""
    (tmp_path / "garbage").write_bytes(b"\0\1\2")
    (tmp_path / "garbage").chmod(0o755)
    command, more, reason = WAYS[way]
    before = document(tmp_path, "app")
    with (
        Load(service.web, 2) as web,
        Load(service.ports[OLD], 1) as tcp,
        Load(service.paths[OLD], 1) as unix,
    ):
        service.write(NEW, *more, f'surge = "{surge}"', f'chdir = "{tmp_path}"', command=command)
        with Command(tmp_path, "reload", "app") as reload:
            if way == "dies":
                candidate = master.saw("worker-started", worker="2/0#1")["pid"]
                with socket.create_connection(("127.0.0.1", service.ports[NEW]), PATIENCE):
                    assert os.path.lexists(service.paths[NEW])
                assert {a.split()[0] for a in service.answers(OLD)} == {"1"}
                os.kill(candidate, signal.SIGKILL)
            assert reload.wait() == 1
            assert reason in reload.lines[0]
        failed = master.saw("rollout-rolled-back")["generation"]
        master.saw("generation-gone", generation=failed)
        for kind in ("tcp", "udp", "unix"):
            master.saw("listener-closed", name=f"new-{kind}")
        assert service.is_closed(NEW)
        for load in (web, tcp, unix):
            load.more()
    assert [load.failures for load in (web, tcp, unix)] == [[], [], []]
    assert {a.split()[0] for a in service.answers(OLD)} == {"1"}
    after = document(tmp_path, "app")
    assert after["listeners"] == before["listeners"]
    assert after["command"] == before["command"]
    last = after["last_reload"]
    assert (last["outcome"], last["generation"]) == ("rolled-back", failed)
    assert reason in last["error"]
    assert "last reload: rolled-back" in overseer(tmp_path, "status", "app").stdout
    after_that = master.now()
    master.send(signal.SIGUSR2)  # by the old plan, whatever the file says
    committed = master.saw("rollout-committed", after=after_that)["generation"]
    master.saw("generation-gone", generation=1)
    assert {a.split()[0] for a in service.answers(OLD)} == {str(committed)}
    service.write(NEW)
    assert overseer(tmp_path, "reload", "app").returncode == 0
    assert {a.split()[0] for a in service.answers(NEW)} == {str(committed + 1)}
    assert service.is_closed(OLD)


# -- a configuration that is refused -----------------------------------------------------------


REFUSED = {
    'chdir = "/nowhere/at/all"': "chdir: /nowhere/at/all: no such directory",
    'env_file = ["/no.env"]': "env_file: /no.env: No such file or directory",
    'env_dir = ["/no.d"]': "env_dir: /no.d: No such file or directory",
    'ready = "accept:dns"': "ready: no listener is named 'dns'",
    'user = "nobody-of-that-name"': "user nobody-of-that-name: no such user",
    'command = ["./no-such-program"]': "./no-such-program: no such program, or it is not",
    'command = ["app", "{fd:dns}"]': "command: {fd:dns}: no listener for it",
    'restart_signal = "TERM"': "restart_signal: SIGTERM has a meaning of its own",
    'settle = "soon"': "'soon' is not a duration",
    "workerz = 2": "workerz: unknown key; did you mean workers?",
    "nonsense": "not TOML",
}


def test_a_configuration_that_cannot_be_meant(
    tmp_path: Path, service: Service, master: Master
) -> None:
    """It is refused before anything has happened, however exclusively it wants to be rolled out."""
    before = document(tmp_path, "app")
    for line, reason in REFUSED.items():
        after = master.now()
        service.write(NEW, 'surge = "exclusive"', line)
        if line.startswith("command"):  # instead of the other one
            lines = service.file.read_text().splitlines()
            service.file.write_text("\n".join(o for o in lines if "all_listeners" not in o))
        done = overseer(tmp_path, "reload", "app")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("overseer: reload: ")
        assert reason in done.stderr
        assert reason in master.saw("reload-failed", after=after)["reason"]
        assert service.is_closed(NEW)
        found = document(tmp_path, "app")
        last = found["last_reload"]
        assert (last["outcome"], last["generation"], last["changed"]) == ("refused", None, [])
        assert reason in last["error"]
        assert found["listeners"] == before["listeners"]
        assert [w["pid"] for w in found["workers"]] == [w["pid"] for w in before["workers"]]
    shown = overseer(tmp_path, "status", "app").stdout
    assert "  last reload: refused " in shown
    assert reason in shown
    assert not master.all("rollout-started")
    assert {a.split()[0] for a in service.answers(OLD)} == {"1"}


@pytest.mark.usefixtures("master")
@pytest.mark.parametrize("which", ["tcp", "udp", "unix"])
def test_one_address_that_cannot_be_had(tmp_path: Path, service: Service, which: str) -> None:
    """None of the others is bound then; once it is free, all are."""
    service.write(NEW)
    place: tuple[str, int] | str = ("127.0.0.1", service.ports[NEW])
    family, kind = socket.AF_INET, socket.SOCK_STREAM
    if which == "udp":
        place, kind = ("127.0.0.1", service.datagrams[NEW]), socket.SOCK_DGRAM
    elif which == "unix":
        place, family = service.paths[NEW], socket.AF_UNIX
    with socket.socket(family, kind) as other:
        other.bind(place)
        if which != "udp":
            other.listen()
        done = overseer(tmp_path, "reload", "app")
        assert done.returncode == 1
        assert "address already in use" in done.stderr or "somebody listens there" in done.stderr
        assert document(tmp_path, "app")["last_reload"]["outcome"] == "refused"
    if which == "unix":
        os.unlink(service.paths[NEW])
    assert service.is_closed(NEW)
    assert overseer(tmp_path, "reload", "app").returncode == 0
    assert len(service.answers(NEW)) == 3


# -- what is told ----------------------------------------------------------------------------------


def test_variables_are_told_by_name_never_by_value(tmp_path: Path) -> None:
    """Wherever they come from; what was taken out is told, too."""
    (tmp_path / "secrets").mkdir()
    file, variables, secret = (
        tmp_path / "overseer.toml",
        tmp_path / "app.env",
        tmp_path / "secrets" / "FROM_DIRECTORY",
    )

    def write(value: str) -> None:
        file.write_text(
            f'name = "app"\ncommand = ["sleep", "1000"]\nready = "delay:1ms"\n'
            f'env_file = ["{variables}"]\nenv_dir = ["{secret.parent}"]\n'
            f'[env]\nFROM_TOML = "{value}"\nSAME = "s3cret-0"\n'
        )
        variables.write_text(f"FROM_FILE={value}\nTEMPORARY_{value[-1]}={value}\n")
        secret.write_text(value)

    write("s3cret-1")
    with Master(tmp_path, "--config", str(file)) as master:
        master.ready()
        write("s3cret-2")
        assert overseer(tmp_path, "reload", "app").returncode == 0
        names = ["FROM_DIRECTORY", "FROM_FILE", "FROM_TOML", "TEMPORARY_1", "TEMPORARY_2"]
        changed = [f"env.{name}" for name in names]
        assert master.saw("reloaded")["changed"] == changed
        assert document(tmp_path, "app")["last_reload"]["changed"] == changed
        secret.write_text("s3cret-3")  # a rollout takes it, so a reload finds no change in it
        master.send(signal.SIGUSR2)
        master.saw("generation-gone", generation=2)
        variables.write_text("")
        after = master.now()
        assert overseer(tmp_path, "reload", "app").returncode == 0
        changed = ["env.FROM_FILE", "env.TEMPORARY_2"]
        assert master.saw("reloaded", after=after)["changed"] == changed
        said = [overseer(tmp_path, *words.split(), "app").stdout for words in SAYING]
        assert "env.FROM_FILE" in "".join(said)
        assert "s3cret" not in "".join(said) + master.transcript()
        assert master.stop() == 0


SAYING = ("status", "status --json", "events --no-follow", "events --no-follow --json")


def test_what_only_a_new_master_can_change(
    tmp_path: Path, service: Service, master: Master
) -> None:
    """It is named, and the rest is done: a restart signal, for one."""
    service.write(OLD, 'restart_signal = "USR1"', 'log_level = "debug"', "workers = 2")
    assert overseer(tmp_path, "reload", "app").returncode == 0
    last = document(tmp_path, "app")["last_reload"]
    assert (last["changed"], last["ignored"]) == (["workers", "restart_signal"], ["log_level"])
    assert master.saw("reload-ignored")["keys"] == ["log_level"]
    master.send(signal.SIGUSR1)
    master.saw("rollout-committed", generation=3)
    master.saw("generation-gone", generation=2)


def test_a_reload_during_a_rollout(tmp_path: Path, service: Service, master: Master) -> None:
    """It is the next rollout's, and is told of when that has ended."""
    service.write(OLD, 'settle = "1h"')
    master.send(signal.SIGHUP)
    master.saw("worker-ready", worker="2/0#1")
    last = document(tmp_path, "app")["last_reload"]
    assert (last["outcome"], last["generation"], last["changed"]) == (None, 2, ["settle"])
    service.write(NEW)
    with Command(tmp_path, "reload", "app") as reload:
        master.saw("rollout-queued")
        last = document(tmp_path, "app")["last_reload"]
        assert (last["outcome"], last["generation"]) == (None, None)
        os.kill(master.saw("worker-started", worker="2/0#1")["pid"], signal.SIGKILL)
        assert reload.wait() == 0
    last = document(tmp_path, "app")["last_reload"]
    assert (last["outcome"], last["generation"]) == ("committed", 3)
    assert last["changed"] == ["listen", "settle"]
    assert service.is_closed(OLD)


def test_systemd_is_told_why_a_reload_has_failed(tmp_path: Path, service: Service) -> None:
    """In STATUS, with READY=1: the service is what it was. The next one that is good ends it."""
    with Systemd(tmp_path) as systemd, Master(
        tmp_path, "--config", str(service.file), env=systemd.env
    ) as master:  # fmt: skip
        systemd.heard(READY="1")
        service.file.write_text("workerz = 2\n")
        master.send(signal.SIGHUP)
        systemd.heard(RELOADING="1")
        systemd.heard(READY="1")
        systemd.heard_status("1 of 1 workers ready; reload failed: ")
        assert "workerz: unknown key" in systemd.messages[-1]["STATUS"]
        service.write(OLD, 'ready = "notify"', "ready_timeout = 0.2", command=["sleep", "1000"])
        master.send(signal.SIGHUP)
        systemd.heard(RELOADING="1")
        systemd.heard(READY="1")
        systemd.heard_status("1 of 1 workers ready; generation 2 rolled back: worker 2/0#1 was not")
        service.write(OLD)
        master.send(signal.SIGHUP)
        master.saw("rollout-committed", generation=3)
        systemd.heard_status("Generation 3, 1 of 1 workers ready")
        assert systemd.messages[-1]["STATUS"] == "Generation 3, 1 of 1 workers ready"
        assert master.stop() == 0
