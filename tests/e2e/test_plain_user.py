"""The wheel, installed by a plain user for himself: all works but low ports and ``--user``.

As root the tests become a user that owns nothing here but a directory; the interpreter, the
packages that overseer needs and the test programs are this machine's, overseer itself is not.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.commands import TCP
from tests.e2e.containers import reachable
from tests.e2e.shops import BROKEN, Shop, release
from tests.e2e.test_death import bound, ended
from tests.e2e.test_signals import has
from tests.load import Load, fetch
from tests.master import HELLO, OVERSEER, PATIENCE, ROOT, Master, program
from tests.needs import need

UID = 64999  # a number without a name
FIRST, SECOND = "first", "second"


@dataclass(frozen=True)
class User:
    """Somebody who is not root, and the overseer that he has installed."""

    home: Path
    overseer: Path
    become: tuple[str, ...] = ()  # in front of a command

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command as this user, to its end."""
        return subprocess.run(
            [*self.become, *map(str, command)],
            check=False,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home)},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def master(self, place: Path, *arguments: str, wrapper: tuple[str, ...] = ()) -> Master:
        """Start the overseer of this user; a place of his own is its runtime directory."""
        # What follows as arguments begins with: python -m overseer_py
        own = f'shift 3\nexec {shlex.quote(str(self.overseer))} "$@"'
        words = [*wrapper, *self.become, "sh", "-ec", own, "-"]
        env = {"HOME": str(self.home), "PYTHONPATH": ""}
        return Master(place, *arguments, wrapper=words, cwd=place, env=env)

    def ask(self, place: Path, *words: str) -> str:
        """Run a command that asks the master of that place; return what it prints."""
        done = self.run("env", f"XDG_RUNTIME_DIR={place}", self.overseer, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    """Give the present user, or as root another one with the wheel in an environment of his."""
    home = Path(tempfile.mkdtemp(prefix="plain-"))
    try:
        if os.geteuid() != 0:
            yield User(home, OVERSEER)
            return
        os.chown(home, UID, UID)
        switch = [need("setpriv"), f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
        script = f'{reachable(ROOT, sys.prefix, sys.base_prefix)}\nexec {shlex.join(switch)} "$@"'
        become = (need("unshare"), "--mount", "sh", "-ec", script, "-")
        user = User(home, home / "venv" / "bin" / "overseer", become)
        _install(user)
        yield user
    finally:
        shutil.rmtree(home)


def _install(user: User) -> None:
    """Make an environment, and in it overseer from a wheel of this checkout."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels = user.home / "wheels"
    build = [*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)]
    subprocess.run(build, check=True, timeout=5 * PATIENCE)
    venv = user.home / "venv"
    (wheel,) = wheels.iterdir()
    install = ["install", "--no-deps", "--no-index", "--no-cache-dir", str(wheel)]
    for step in (
        [sys.executable, "-m", "venv", "--without-pip", str(venv)],
        [*pip, "--python", str(venv / "bin" / "python"), *install],
    ):
        done = user.run(*step)
        assert done.returncode == 0, done.stderr
    # Packages that overseer needs: those of the tests' own environment.
    library = sysconfig.get_path("purelib", vars={"base": str(venv)})
    Path(library, "packages.pth").write_text(f"{sysconfig.get_path('purelib')}\n")


@pytest.fixture
def place(user: User) -> Iterator[Path]:
    """Give an empty directory of the user's."""
    path = Path(tempfile.mkdtemp(dir=user.home))
    owner = user.home.stat()
    os.chown(path, owner.st_uid, owner.st_gid)
    yield path
    shutil.rmtree(path)


def test_it_is_the_wheel_and_a_plain_user(user: User) -> None:
    """None of the following says anything if it is the checkout, or root."""
    code = "import os, overseer_py; print(os.geteuid(), overseer_py.__file__)"
    python = user.overseer.with_name("python")
    uid, where = user.run(python, "-c", code).stdout.split()
    assert uid != "0"
    if user.become:
        assert Path(where).is_relative_to(user.home)


def test_listeners_and_a_restart_under_load(user: User, place: Path) -> None:
    """TCP and by a path: steered as anybody's, and no request fails."""
    path = place / "web.sock"
    options = [*TCP, "--ready", "accept:listener-0", "--workers", "2"]
    with user.master(place, *options, "--", *HELLO) as master:
        assert master.saw("listening")["handover"] == "steered"
        with Load(master.ready().port()) as load:
            load.more()
            master.restart()
            load.more()
        assert load.failures == []
        assert master.stop() == 0
    with user.master(place, "--listen", f"unix:{path}", "--", *HELLO) as master:
        assert master.saw("listening")["handover"] == "steered"
        master.ready()
        with Load(str(path)) as load:
            load.more()
            master.restart()
            load.more()
        assert load.failures == []
        assert master.stop() == 0


def test_datagrams(user: User, place: Path) -> None:
    """A UDP socket is handed on, too."""
    options = ["--listen", "udp:127.0.0.1:0", "--ready", "delay:100ms"]
    with user.master(place, *options, "--", *program("echoes")) as master:
        master.ready()
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(PATIENCE)
            for generation in (b"1", b"2"):
                client.sendto(b"x", ("127.0.0.1", master.port()))
                assert client.recv(100) == generation + b" x"
                if generation == b"1":
                    master.restart()
        assert master.stop() == 0


@pytest.mark.parametrize(
    ("rule", "environ"),
    [("accept", ""), ("http:/health", ""), ("notify", "TELL=notify"), ("exec:true", "")],
)
def test_readiness(user: User, place: Path, rule: str, environ: str) -> None:
    """What looks into a worker may look into its own user's; a rollout waits for each, too."""
    options = ["--ready", rule, *(["--env", environ] if environ else [])]
    with user.master(place, *TCP, *options, "--", *program("service")) as master:
        assert fetch(master.ready().port()).startswith("1 ")
        master.restart()
        assert fetch(master.port()).startswith("2 ")
        assert master.stop() == 0


def test_the_commands(user: User, place: Path) -> None:
    """Each of them, by the user for his own instance."""
    notes = place / "notes"
    code = f"echo a line; exec {shlex.join(program('tells', str(notes)))}"
    with user.master(place, "--name", "app", "--capture", "--", "sh", "-c", code) as master:
        master.ready()
        assert f"app  running  pid {master.pid}" in user.ask(place, "status")
        assert "app is ready" in user.ask(place, "status", "--ready")
        assert "generation 2 committed" in user.ask(place, "restart")
        assert "generation 3 committed" in user.ask(place, "reload", "app")
        user.ask(place, "scale", "2")
        assert master.saw("scaled")["workers"] == 2
        assert has(notes, f"{master.saw('worker-started', worker='3/1#1')['pid']} up")
        user.ask(place, "signal", "WINCH")
        assert has(notes, "SIGWINCH")
        assert "rollout-committed" in user.ask(place, "events", "--no-follow", "--json")
        assert "a line" in user.ask(place, "logs")
        user.ask(place, "stop")
        assert master.wait() == 0


def test_watching(user: User, place: Path) -> None:
    """A change of a file of the user's is rolled out."""
    app = place / "app.py"
    app.write_bytes(release(FIRST))
    options = [*TCP, "--watch", str(app), "--debounce", "50ms"]
    with user.master(place, *options, "--", sys.executable, str(app)) as master:
        assert fetch(master.ready().port()).split() == [FIRST]
        master.saw("watching")
        app.write_bytes(release(SECOND))
        master.saw("generation-gone", generation=1)
        assert fetch(master.port()).split() == [SECOND]
        assert master.stop() == 0


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_fetching(user: User, place: Path, shop: Shop, scheme: str) -> None:
    """Installed, rolled out, and a broken version taken back without a lost request."""
    source, app = place / "source.py", place / "srv" / "app.py"
    source.write_bytes(release("one"))
    user.run("mkdir", app.parent)

    def offer(content: bytes) -> None:
        shop.offer(content)
        (place / "new").write_bytes(content)
        (place / "new").replace(source)

    url = f"file:{source}" if scheme == "file" else shop.url
    options = [*TCP, "--fetch", url, "--to", str(app), "--interval", "1s"]
    with user.master(place, *options, "--", sys.executable, str(app)) as master:
        with Load(master.ready().port()) as load:
            load.more()
            offer(BROKEN)
            master.saw("release-held")
            after = master.now()
            offer(release("three"))
            master.saw("release-committed", after=after)
            load.more()
        assert load.failures == []
        assert fetch(master.port()).startswith("three ")
        assert {body.split()[0] for body in load.bodies} == {"one", "three"}
        assert "held" in user.ask(place, "releases")
        assert master.stop() == 0


def test_a_killed_master_leaves_nothing(user: User, place: Path) -> None:
    """The guard is the user's, too, and ends what is left."""
    with user.master(place, *TCP, "--workers", "3", "--", *HELLO) as master:
        port = master.ready().port()
        family = [*master.workers(), master.guard()]
        assert len(family) == 4
        master.send(signal.SIGKILL)
        assert master.wait() == -signal.SIGKILL
        assert ended(family, within=PATIENCE)
        assert bound(port)


def test_a_low_port_is_root_s(user: User, place: Path) -> None:
    """The error names the port and what helps."""
    wrapper: tuple[str, ...] = ()
    if user.become:  # there the kernel's own limit holds, whatever this machine allows
        wrapper = (need("unshare"), "--net")
    elif int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80:
        pytest.skip("this machine lets everybody have port 80")
    with user.master(place, "--listen", ":80", "--", *HELLO, wrapper=wrapper) as master:
        assert master.wait() == 3
        (said,) = master.stderr
        assert ":80" in said
        assert "a low port needs root or CAP_NET_BIND_SERVICE" in said


def test_another_user_is_root_s_to_give(user: User, place: Path) -> None:
    """Nobody but root may run workers as somebody else, and the error says so."""
    with user.master(place, "--user", "root", *TCP, "--", *HELLO) as master:
        assert master.wait() == 2
        (said,) = master.stderr
        assert "root: only root can run workers as somebody else; start it as root" in said
