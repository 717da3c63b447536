"""What is adopted, as it is written; when who binds for himself is ready; what to do without it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from overseer_py import advice
from overseer_py.address import Address, Kind, is_loose
from overseer_py.bound import Bound, is_same
from overseer_py.config import Config, Sources
from overseer_py.core.messages import WorkerId
from overseer_py.errors import ConfigError
from overseer_py.listening import Listening, own_rule
from overseer_py.recipe import Recipe
from overseer_py.system import options
from overseer_py.system.group import Shared
from overseer_py.system.listeners import Listener, Seat, open_listener
from overseer_py.system.notifier import Place
from overseer_py.system.process import Process
from overseer_py.watches import Notify, Rule

COMMAND = ("python", "app.py")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in a directory without an overseer.toml."""
    monkeypatch.chdir(tmp_path)


def load(*adopt: str, listen: tuple[str, ...] = ()) -> Config:
    """Return the configuration with these addresses."""
    return Sources({"adopt": adopt, "listen": listen}, COMMAND, {}).load()


# -- as it is written -----------------------------------------------------------------------------


def test_named_addresses_stand_behind_what_is_inherited() -> None:
    """So that the i-th listener is still fd 3+i."""
    config = load("127.0.0.1:80", "db=unix:/run/db.sock?mode=0600", listen=("web=:8000",))
    assert [o.name for o in config.addresses] == ["web", "listener-1", "db"]
    assert [o.adopted for o in config.addresses] == [False, True, True]
    assert config.addresses[2] == Address(
        "db", Kind.UNIX, path="/run/db.sock", mode=0o600, adopted=True
    )
    assert config.loose == ()


@pytest.mark.parametrize("text", [":8000", "web=:8000", "[::]:8000"])
def test_a_port_alone_is_bound_by_nobody_but_the_program(text: str) -> None:
    """At which host, its own bind(2) says."""
    config = load(text)
    assert config.addresses == ()
    assert [(o.port, is_loose(o)) for o in config.loose] == [(8000, True)]


def test_auto_is_no_address() -> None:
    """It stands for all that the program binds."""
    config = load("auto", "127.0.0.1:80")
    assert [o.name for o in config.addresses] == ["listener-0"]
    assert config.settings.adopt == ("auto", "127.0.0.1:80")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("udp:127.0.0.1:53", "cannot be adopted"),
        ("fd:web", "cannot be adopted"),
        ("127.0.0.1:0", "port 0 is another one each time"),
        ("8000", "is no address"),
    ],
)
def test_what_cannot_be_adopted(text: str, why: str) -> None:
    """It is refused before anything is started."""
    with pytest.raises(ConfigError, match=why):
        load(text)


def test_names_are_one_family() -> None:
    """A listener that is inherited and one that is adopted cannot share a name."""
    with pytest.raises(ConfigError, match=r"adopt: .* a listener is named a already"):
        load("a=127.0.0.1:2", listen=("a=:1",))


def test_it_is_a_variable_and_a_key() -> None:
    """As every option."""
    Path("overseer.toml").write_text('adopt = ["auto"]\ncommand = ["x"]\n')
    assert Sources().load().settings.adopt == ("auto",)
    environ = {"OVERSEER_ADOPT": "127.0.0.1:1 auto"}
    assert Sources({}, COMMAND, environ).load().settings.adopt == ("127.0.0.1:1", "auto")


# -- when it is ready -----------------------------------------------------------------------------


class Watched:
    """A worker that binds for itself, and what has become of it."""

    def __init__(self) -> None:
        self.ready = 0
        self.missing = ["at 127.0.0.1:80 (web)"]
        self.rule = Listening(self._on_ready, lambda: self.missing)
        self.process = cast("Process", object())

    def _on_ready(self) -> None:
        self.ready += 1

    def listen(self) -> None:
        """Listen where it must."""
        self.missing.clear()
        self.rule.listened()


class Once(Rule):
    """A rule that is met as soon as it begins."""

    begun = 0

    def begin(self, worker: Process, now: float) -> None:
        """Be met."""
        self.begun += 1
        self.on_ready()


@pytest.fixture
def watched() -> Watched:
    """Give one of which nothing is known yet."""
    return Watched()


def test_a_rule_about_listeners_begins_once_it_listens(watched: Watched) -> None:
    """There is nothing to see before."""
    once = Once(watched.rule.own_rule_is_met)
    watched.rule.then(lambda: once)
    watched.rule.begin(watched.process, 0.0)
    watched.rule.listened()  # elsewhere
    assert (once.begun, watched.ready) == (0, 0)
    assert "at 127.0.0.1:80 (web)" in watched.rule.hint
    watched.listen()
    assert (once.begun, watched.ready) == (1, 1)
    assert own_rule(watched.rule) is once


@pytest.mark.parametrize("listens_first", [False, True])
def test_another_rule_is_not_enough_alone(watched: Watched, listens_first: bool) -> None:
    """READY=1 before or after it listens: it is ready when both are so."""
    watched.rule.beside(Notify(watched.rule.own_rule_is_met))
    watched.rule.begin(watched.process, 0.0)
    steps: list[Callable[[], None]] = [watched.listen, lambda: watched.rule.hear({"READY": "1"})]
    first, second = steps if listens_first else reversed(steps)
    first()
    assert watched.ready == 0
    second()
    assert watched.ready == 1


def test_a_rule_about_a_name_that_is_not_there_yet(watched: Watched) -> None:
    """With auto, names come with what is bound: it waits for its own."""
    tries: list[int] = []

    def make() -> Rule:
        tries.append(1)
        if len(tries) == 1:
            raise ConfigError("ready: no listener is named 'port-81'")
        return Once(watched.rule.own_rule_is_met)

    watched.rule.then(make)
    watched.rule.begin(watched.process, 0.0)
    watched.listen()
    assert watched.ready == 0
    watched.listen()
    assert watched.ready == 1


def test_news_after_the_end(watched: Watched) -> None:
    """A worker that is past is not watched any more, whatever it still does."""
    watched.rule.then(lambda: Once(watched.rule.own_rule_is_met))
    watched.rule.begin(watched.process, 0.0)
    watched.rule.stop()
    watched.listen()
    assert watched.ready == 0


# -- where it binds -------------------------------------------------------------------------------


def test_paths_are_the_same(tmp_path: Path) -> None:
    """Whatever links lead there; another name is another path, whatever it is linked to."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    real = str(tmp_path / "real" / "app.sock")
    assert is_same(str(tmp_path / "link" / "app.sock"), real)
    assert is_same(str(tmp_path / "link" / ".." / "real" / "app.sock"), real)
    assert not is_same(str(tmp_path / "real" / "other.sock"), real)
    assert not is_same(str(tmp_path / "app.sock"), real)


@pytest.mark.parametrize(
    ("place", "there"),
    [
        (Place(socket.AF_INET, "127.0.0.1", 1), True),
        (Place(socket.AF_INET, "0.0.0.0", 1), True),
        (Place(socket.AF_INET6, "::", 1), True),
        (Place(socket.AF_INET6, "::ffff:127.0.0.1", 1), True),
        (Place(socket.AF_INET6, "::1", 1), False),
        (Place(socket.AF_INET, "127.0.0.2", 1), False),
        (Place(socket.AF_INET, "127.0.0.1", 2), False),
        (Place(socket.AF_UNIX, "127.0.0.1", 1), False),
    ],
)
def test_what_a_bind_means(place: Place, there: bool) -> None:
    """The very address, or every one of which it is a part; at the same port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        address = Address("web", Kind.TCP, "127.0.0.1", port, adopted=True)
        seat = Seat(Listener("web", address, Shared(sock, "")), sock)
        recipe = cast("Recipe", SimpleNamespace(seats=[seat]))
        bound = Bound(WorkerId(1, 0, 1), recipe, -1)
        meant = replace(place, port=port if place.port == 1 else port - 1)
        assert (bound.seat_at(meant) is seat) == there


# -- what its socket had --------------------------------------------------------------------------


def test_options_are_carried_over() -> None:
    """What the program has set, and nothing that it has not."""
    with socket.socket() as theirs, socket.socket() as ours:
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50_000)
        theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 3)
        options.carry(theirs, ours)
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 100_000
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT)
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# -- without it -----------------------------------------------------------------------------------

SAID = {
    "Python": "OSError: [Errno 98] Address already in use",
    "uvicorn": "[Errno 98] error while attempting to bind on address ('127.0.0.1', {}): address "
    "already in use",
    "gunicorn": "[2026-11-21 12:00:00 +0000] [7] [ERROR] Connection in use: ('127.0.0.1', {})",
    "node": "Error: listen EADDRINUSE: address already in use 127.0.0.1:{}",
    "nginx": "nginx: [emerg] bind() to 0.0.0.0:{} failed (98: Address already in use)",
    "Go": "panic: listen tcp :{}: bind: address already in use",
}


@pytest.fixture
def seat() -> Seat:
    """Give what a worker has inherited."""
    listener = open_listener(Address("web", Kind.TCP, "127.0.0.1", 0))
    return Seat(listener, listener.socket)


@pytest.mark.parametrize("line", SAID.values(), ids=SAID)
def test_its_masters_address(line: str, seat: Seat) -> None:
    """However a program says it."""
    listener: Listener = seat.listener
    told = advice.about(["Traceback:", line.format(listener.port)], [seat], [])
    assert listener.address in told
    assert "--adopt" in told
    listener.close()


@pytest.mark.parametrize(
    "line", ["ValueError: 98", "Address not available", SAID["node"].format(1), ""]
)
def test_another_reason(line: str, seat: Seat) -> None:
    """Nothing is said of what is not known."""
    assert advice.about([line], [seat], []) == ""
    seat.listener.close()


def test_another_workers_address() -> None:
    """The kernel says who has the port."""
    code = "import socket; s = socket.create_server(('', 0)); print(s.getsockname()[1], flush=True)"
    command = [sys.executable, "-c", f"{code}; input()"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout
        assert other.stdin
        port = other.stdout.readline().strip()
        told = advice.about([SAID["node"].format(port)], [], [other.pid])
        assert f"port {port} is another worker's" in told
        assert advice.about([SAID["node"].format(port)], [], [os.getpid()]) == ""
        other.stdin.close()
