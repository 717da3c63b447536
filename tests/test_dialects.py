"""What programs of other conventions are told, and what is understood of them."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from overseer_py import dialects, option
from overseer_py.dialects import DIALECTS, describe, of_worker
from overseer_py.handover import Inherited
from overseer_py.recipe import binary, resolve
from overseer_py.settings import Settings

WEB = Inherited("web", "127.0.0.1:8000", 8000)
ADMIN = Inherited("admin", "[::1]:9000", 9000)
LOCAL = Inherited("local", "/run/app.sock", None)

SETTINGS = Settings(command=("true",))


@pytest.mark.parametrize(
    ("dialect", "variables"),
    [
        ("systemd", {}),
        ("overseer", {"OVERSEER_IS_SLAVE": "1", "OVERSEER_IS_WORKER": "1"}),
        ("grace", {}),
        ("gracehttp", {"IS_GRACEFUL": "1"}),
        (
            "endless",
            {
                "ENDLESS_CONTINUE": "1",
                "ENDLESS_SOCKET_ORDER": "127.0.0.1:8000,[::1]:9000,/run/app.sock",
            },
        ),
        (
            "einhorn",
            {
                "EINHORN_FD_COUNT": "3",
                "EINHORN_FDS": "3 4 5",
                "EINHORN_FD_0": "3",
                "EINHORN_FD_1": "4",
                "EINHORN_FD_2": "5",
                "EINHORN_FD_FAMILY_0": "AF_INET",
                "EINHORN_FD_FAMILY_1": "AF_INET6",
                "EINHORN_FD_FAMILY_2": "AF_UNIX",
            },
        ),
        (
            "server-starter",
            {"SERVER_STARTER_PORT": "127.0.0.1:8000=3;[::1]:9000=4;/run/app.sock=5"},
        ),
    ],
)
def test_sockets_are_described(dialect: str, variables: Mapping[str, str]) -> None:
    """In each convention's own words, and in no other's."""
    assert describe([dialect], [WEB, ADMIN, LOCAL]) == variables


@pytest.mark.parametrize(
    ("dialect", "variables"),
    [
        ("overseer", {"OVERSEER_IS_SLAVE": "1", "OVERSEER_IS_WORKER": "1"}),
        ("grace", {}),
        ("gracehttp", {}),
        ("endless", {}),
        ("einhorn", {"EINHORN_FD_COUNT": "0", "EINHORN_FDS": ""}),
        ("server-starter", {"SERVER_STARTER_PORT": ""}),
    ],
)
def test_without_sockets(dialect: str, variables: Mapping[str, str]) -> None:
    """Those who would take fd 3 for granted are told nothing: they open what they need."""
    assert describe([dialect], []) == variables


def test_endless_compares_texts() -> None:
    """It looks for its address as its author wrote it; one alone needs no order."""
    listen = ["web=:8000?backlog=64", "admin=localhost:0", "unix:/run/app.sock"]
    told = describe(["endless"], [WEB, ADMIN, LOCAL], listen)
    assert told["ENDLESS_SOCKET_ORDER"] == ":8000,[::1]:9000,/run/app.sock"
    adopted = describe(["endless"], [WEB, ADMIN], ["fd:web", "fd:admin"])
    assert adopted["ENDLESS_SOCKET_ORDER"] == "127.0.0.1:8000,[::1]:9000"
    all_adopted = describe(["endless"], [WEB, ADMIN], [])
    assert all_adopted["ENDLESS_SOCKET_ORDER"] == "127.0.0.1:8000,[::1]:9000"
    assert describe(["endless"], [WEB], [":8000"]) == {"ENDLESS_CONTINUE": "1"}


def test_one_worker_is_told_from_another() -> None:
    """By what the convention counts: starts, or places."""
    assert of_worker(DIALECTS, 7, 2) == {
        "OVERSEER_SLAVE_ID": "7",
        "OVERSEER_WORKER_ID": "7",
        "EINHORN_CHILD_INDEX": "2",
        "SERVER_STARTER_GENERATION": "7",
    }
    assert of_worker(["systemd", "grace"], 7, 2) == {}


def test_another_masters_variables_are_not_passed_on(tmp_path: Path) -> None:
    """They name descriptors that no worker has; what the user sets for the workers, they get."""
    foreign = {**describe(DIALECTS, [WEB, ADMIN]), **of_worker(DIALECTS, 1, 0)}
    foreign |= {"OVERSEER_BIN_CHECK": "token", "EINHORN_SOCK_PATH": "/tmp/einhorn.sock"}
    assert all(map(dialects.is_foreign, foreign))
    environ = {"PATH": "/bin", **foreign}
    settings = replace(SETTINGS, env=(("IS_GRACEFUL", "yes"),))
    told = resolve(settings, [WEB], environ, str(tmp_path)).environ
    assert told.keys() & foreign.keys() == {"IS_GRACEFUL"}
    assert told["LISTEN_FDS"] == "1"  # systemd's, whatever else is asked for


def test_what_a_program_asks_of_its_master() -> None:
    """Which signals to the parent mean something, and what asks it to drain."""
    assert dialects.meant_for_parent(["systemd", "gracehttp", "einhorn", "server-starter"]) == {}
    for dialect in ("grace", "endless"):
        assert dialects.meant_for_parent([dialect]) == {signal.SIGTERM: True}
    assert dialects.meant_for_parent(["overseer"]) == {signal.SIGUSR1: False}
    drains = {dialect: dialects.drain_signal([dialect]) for dialect in DIALECTS}
    usr2 = {dialect for dialect, number in drains.items() if number == signal.SIGUSR2}
    assert usr2 == {"overseer", "einhorn"}
    assert set(drains.values()) == {signal.SIGTERM, signal.SIGUSR2}


def test_the_users_drain_signal_wins() -> None:
    """Over that of the convention, also if it is the usual one."""
    einhorn = replace(SETTINGS, inherit=("einhorn",))
    assert SETTINGS.drains_at == signal.SIGTERM
    assert einhorn.drains_at == signal.SIGUSR2
    assert replace(einhorn, drain_signal=signal.SIGTERM).drains_at == signal.SIGTERM


def test_conventions_are_written_by_name() -> None:
    """Several are separated by commas; of one that is not known, the known ones are named."""
    assert option.dialects("systemd, einhorn") == ("systemd", "einhorn")
    assert option.dialects(",".join(DIALECTS)) == DIALECTS
    with pytest.raises(ValueError, match="'goagain' is not one of systemd, overseer, grace, "):
        option.dialects("overseer,goagain")


def test_the_programs_file(tmp_path: Path) -> None:
    """Its path, and an identity that changes with the file; nothing of one that is not there."""
    program = tmp_path / "bin" / "app"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    told = binary(str(program))
    assert told["OVERSEER_BIN_PATH"] == str(program)
    assert len(told["OVERSEER_BIN_ID"]) == hashlib.sha1(usedforsecurity=False).digest_size * 2
    program.write_text("#!/bin/sh\necho 2\n")
    assert binary(str(program))["OVERSEER_BIN_ID"] != told["OVERSEER_BIN_ID"]
    assert binary(str(tmp_path / "no-such-program")) == {}
