"""--adopt where little is allowed, and what is said where it cannot be."""

from __future__ import annotations

import errno
import os
import platform
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.containers import reachable
from tests.e2e.handovers import CLIENTS, check_answers, check_stop, hand_over
from tests.e2e.test_adoption import BINDS, adopting, version
from tests.load import Load, fetch, free_port
from tests.master import PROGRAMS, ROOT, RUN, Master, program
from tests.needs import cannot, need

NOBODY = 65534
PIDFD_GETFD = 438
SECCOMP = {"x86_64": 317, "aarch64": 277}.get(platform.machine(), 0)
FORBIDS = sys.executable, str(PROGRAMS / "forbids.py")


def forbidding(number: int, error: int) -> list[str]:
    """Return a wrapper for a master whom the kernel refuses this call."""
    return [*FORBIDS, str(number), str(error)]


def seen_by_all(*words: str) -> list[str]:
    """Return a wrapper after which everybody can reach the interpreter and the checkout."""
    script = f'{reachable(ROOT, sys.prefix, sys.base_prefix)}\nexec {shlex.join(words)} "$@"'
    return [need("unshare"), "--mount", "sh", "-ec", script, "-"]


def as_nobody() -> list[str]:
    """Return a wrapper that becomes nobody, without any capability."""
    if os.geteuid() != 0:
        return []
    ids = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    return seen_by_all(need("setpriv"), *ids, "--bounding-set=-all", "--inh-caps=-all")


@pytest.fixture
def place() -> Iterator[Path]:
    """Give a directory that belongs to nobody, on a way that he may go."""
    directory = Path(tempfile.mkdtemp(prefix="adopt-"))
    if os.geteuid() == 0:
        os.chown(directory, NOBODY, NOBODY)
    yield directory
    shutil.rmtree(directory)


def test_a_user_without_any_capability(place: Path) -> None:
    """It needs no privilege at all."""
    port = free_port()
    version(place, f"listen {port}")
    options = "--adopt", f"127.0.0.1:{port}", "--chdir", str(place)
    with Master(place, *options, "--", *BINDS, wrapper=as_nobody()) as master:
        master.ready()
        status = Path(f"/proc/{master.pid}/status").read_text().split("CapEff:")[1].split()[0]
        assert int(status, 16) == 0
        (worker,) = master.workers()
        assert "NoNewPrivs:\t1" in Path(f"/proc/{worker}/status").read_text()
        with Load(port, CLIENTS) as load:
            handovers = hand_over(master, load, 3)
        assert load.failures == []
        check_answers(master, load, handovers)
        check_stop(master)


def test_workers_of_another_user(place: Path) -> None:
    """A program that runs as somebody else gets the master's socket all the same."""
    if os.geteuid() != 0:
        cannot("only root can run workers as somebody else")
    port = free_port()
    options = "--adopt", f"127.0.0.1:{port}", "--user", str(NOBODY)
    version(place, f"listen {port}")
    words = *options, "--chdir", str(place), "--", *BINDS
    with Master(place, *words, wrapper=seen_by_all()) as master:
        master.ready()
        with Load(port, CLIENTS) as load:
            hand_over(master, load, 2)
        assert load.failures == []
        check_stop(master)


def test_without_pidfd_getfd(tmp_path: Path) -> None:
    """Where the program's socket cannot be had, the master's takes its place."""
    port = free_port()
    version(tmp_path, f"listen {port}")
    options = "--adopt", f"127.0.0.1:{port}", "--chdir", str(tmp_path)
    wrapper = forbidding(PIDFD_GETFD, errno.EPERM)
    with Master(tmp_path, *options, "--", *BINDS, wrapper=wrapper) as master:
        master.ready()
        with Load(port, CLIENTS) as load:
            handovers = hand_over(master, load, 3)
        assert load.failures == []
        check_answers(master, load, handovers)
        check_stop(master)


def test_what_cannot_be_joined_is_said(tmp_path: Path) -> None:
    """A socket that was copied before, and cannot be had: the program is refused, with a reason."""
    port = free_port()
    version(tmp_path, f"copy {port}")
    options = "--adopt", f"127.0.0.1:{port}", "--chdir", str(tmp_path)
    wrapper = forbidding(PIDFD_GETFD, errno.EPERM)
    with Master(tmp_path, *options, "--", *BINDS, wrapper=wrapper) as master:
        reason = master.saw("bind-not-adopted")["reason"]
        assert "pidfd_getfd(2) is missing or forbidden" in reason
        assert master.wait() == 5


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (errno.EPERM, "seccomp(2) is forbidden here"),
        (errno.EINVAL, "the kernel has no seccomp user notification"),
        (errno.EBUSY, "a program above has a seccomp listener"),
    ],
)
def test_where_it_cannot_be(tmp_path: Path, error: int, why: str) -> None:
    """An old kernel, a sandbox, another listener: said before anything is started."""
    if not SECCOMP:
        cannot(f"the number of seccomp(2) on {platform.machine()} is not known here")
    options = "--adopt", f"127.0.0.1:{free_port()}", "--chdir", str(tmp_path)
    with Master(tmp_path, *options, "--", *BINDS, wrapper=forbidding(SECCOMP, error)) as master:
        assert master.wait() == 3
        assert any(f"adopt: {why}" in line for line in master.stderr)
        assert master.all("worker-started") == []


def test_an_overseer_in_an_overseer(tmp_path: Path) -> None:
    """Of two that adopt, one in the other, the inner one says that it cannot."""
    port = free_port()
    version(tmp_path, f"listen {port}")
    inner = [*RUN, "--control", "none", "--adopt", f"127.0.0.1:{port}", "--", *BINDS]
    options = "--adopt", "auto", "--max-crashes", "1", "--chdir", str(tmp_path)
    with Master(tmp_path, *options, "--", *inner) as master:
        master.saw_line("adopt: a program above has a seccomp listener of its own")
        assert master.wait() == 5


def test_another_network(tmp_path: Path) -> None:
    """A program that has moved into a network of its own is none whose clients we know."""
    if os.geteuid() != 0:
        cannot("only root can make a network namespace")
    port = free_port()
    version(tmp_path, f"listen {port}")
    alone = [
        need("unshare"),
        "--net",
        "sh",
        "-c",
        f'"{need("ip")}" link set lo up && exec "$@"',
        "-",
    ]
    options = "--adopt", f"127.0.0.1:{port}", "--ready-timeout", "2s", "--chdir", str(tmp_path)
    with Master(tmp_path, *options, "--", *alone, *BINDS) as master:
        refused = master.saw("bind-not-adopted")
        assert "network namespace" in refused["reason"]
        late = master.saw("worker-late", after=master.facts.index(refused))
        assert "another network namespace" in late["hint"]


def test_a_setuid_program(place: Path) -> None:
    """One that would become somebody else does not, and the log says so."""
    if os.geteuid() != 0:
        cannot("only root can make a program setuid")
    sleeper = place / "sleeper"
    shutil.copy(need("sleep"), sleeper)
    sleeper.chmod(0o4755)
    options = "--adopt", f"127.0.0.1:{free_port()}", "--chdir", str(place)
    words = *options, "--", str(sleeper), "60"
    with Master(place, *words, wrapper=as_nobody(), cwd=place) as master:
        assert master.saw("privileges-not-gained")["program"] == str(sleeper)


def test_a_process_that_is_left(tmp_path: Path) -> None:
    """What nobody could find is known to be there, and what it binds is the kernel's business."""
    port, later = free_port(), free_port()
    command = program("leaves_one", str(port), str(later))
    with Master(tmp_path, "--adopt", f"127.0.0.1:{port}", "--", *command) as master:
        master.ready()
        left = int(master.saw_line("left ").split()[1])
        try:
            master.restart()
            assert master.saw("process-left")["worker"] == "1/0#1"
            os.kill(left, signal.SIGUSR1)
            assert master.process.stdout
            assert master.process.stdout.readline() == "bound\n"
            assert master.all("master-error") == []
        finally:
            os.kill(left, signal.SIGKILL)


def test_its_own_masters_address(tmp_path: Path) -> None:
    """Without --adopt, a program that binds what its master has is told what to do."""
    port = free_port()
    with adopting(tmp_path, f"listen {port}", "--listen", f"127.0.0.1:{port}") as master:
        how = master.saw("worker-exited")["how"]
        assert f"127.0.0.1:{port} is its own master's" in how
        assert f"--adopt 127.0.0.1:{port}" in how
        assert "{fd}" in how


def test_the_old_generations_address(tmp_path: Path) -> None:
    """Without --listen, too: the old generation is in the way of the new one."""
    port = free_port()
    with adopting(tmp_path, f"listen {port}") as master:
        master.ready()
        version(tmp_path, f"listen {port} ")
        master.send(signal.SIGUSR2)
        assert f"port {port} is another worker's" in master.saw("rollout-rolled-back")["reason"]
        fetch(port)
