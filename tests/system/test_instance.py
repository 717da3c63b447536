"""A name is held by one master at a time, and nobody else's file is touched."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overseer_py import instance
from overseer_py.errors import ConfigError, NameTakenError
from tests.system.apart import apart

NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")

CLAIMS = """
import sys
from overseer_py import instance
claim = instance.claim("app", "", {"XDG_RUNTIME_DIR": sys.argv[1]})
print("mine", flush=True)
sys.stdin.read()
claim.give_up()
"""


@contextmanager
def another_master(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Have another process hold the name "app"."""
    command = [sys.executable, "-c", CLAIMS, str(directory)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "mine\n"
        try:
            yield other
        finally:
            other.kill()


def claim(directory: Path, name: str = "app") -> instance.Claim:
    """Claim a name in this directory."""
    claimed = instance.claim(name, "", {"XDG_RUNTIME_DIR": str(directory)})
    assert claimed
    return claimed


def test_a_name_that_is_taken_is_refused_with_the_pid(tmp_path: Path) -> None:
    """Whoever comes second learns who has the name, and what to do."""
    with another_master(tmp_path) as other:
        with pytest.raises(NameTakenError) as caught:
            claim(tmp_path)
        assert f"'app' runs already with pid {other.pid}; stop it" in str(caught.value)
        assert caught.value.exit_status == 4
        claim(tmp_path, "another").give_up()


def test_a_name_is_free_after_an_end(tmp_path: Path) -> None:
    """After an orderly end nothing is left of a name."""
    with another_master(tmp_path) as other:
        other.communicate("")
    assert list((tmp_path / "overseer").iterdir()) == []
    claim(tmp_path).give_up()


def test_the_file_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    """A master that was killed leaves its file; the next one signs it."""
    with another_master(tmp_path) as other:
        other.kill()
        other.wait()
        path = tmp_path / "overseer" / "app.lock"
        assert path.read_text(encoding="ascii").split()[0] == str(other.pid)
        mine = claim(tmp_path)
        assert path.read_text(encoding="ascii").split()[0] == str(os.getpid())
        mine.give_up()


@pytest.mark.parametrize("content", ["", "rubbish", "1", "1 2 3", "99999999999999999999 1\n"])
def test_rubbish_in_the_file_is_overwritten(tmp_path: Path, content: str) -> None:
    """What counts is the lock, and not what somebody wrote into the file."""
    (tmp_path / "overseer").mkdir(mode=0o700)
    path = tmp_path / "overseer" / "app.lock"
    path.write_text(content, encoding="ascii")
    mine = claim(tmp_path)
    assert path.read_text(encoding="ascii").split()[0] == str(os.getpid())
    mine.give_up()


def test_a_name_that_is_given_up_meanwhile(tmp_path: Path) -> None:
    """Whoever waits for a guard gets the name when the guard has done its work."""

    def run() -> bool:
        (tmp_path / "overseer").mkdir(mode=0o700)
        reader, writer = os.pipe()
        guard = os.fork()
        if guard == 0:  # holds the lock; the one who signed it is dead
            held = claim(tmp_path)
            os.truncate(held.path, 0)
            os.write(writer, b".")
            signal.sigtimedwait([], 0.05)  # the other one waits: nothing tells when it begins
            os._exit(0)
        os.read(reader, 1)
        mine = claim(tmp_path)
        return os.path.samestat(os.fstat(mine.fd), mine.path.stat())

    assert apart(run)


def test_the_lock_is_private(tmp_path: Path) -> None:
    """Only the user may read it, and no worker inherits it."""
    mine = claim(tmp_path)
    assert stat.S_IMODE(mine.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(mine.path.parent.stat().st_mode) == 0o700
    assert not os.get_inheritable(mine.fd)
    mine.give_up()


def test_no_name_is_asked_for() -> None:
    """``none`` claims nothing."""
    assert instance.claim("app", "none", {}) is None


def test_a_path_of_ones_own(tmp_path: Path) -> None:
    """With a path given, the lock is beside it, and no directory is made."""
    claimed = instance.claim("app", str(tmp_path / "x.sock"), {})
    assert claimed
    assert claimed.path == tmp_path / "x.lock"
    with pytest.raises(NameTakenError, match=str(os.getpid())):
        instance.claim("another", str(tmp_path / "x.sock"), {})
    claimed.give_up()
    with pytest.raises(ConfigError) as caught:
        instance.claim("app", str(tmp_path / "gone" / "x.sock"), {})
    remedy = "No such file or directory; give --control PATH, or none"
    assert str(caught.value) == f"control: {tmp_path}/gone/x.lock: {remedy}"


def test_where_instances_are_known(tmp_path: Path) -> None:
    """The runtime directory of systemd's first, then the user's."""
    environ = {"RUNTIME_DIRECTORY": "/run/app:/run/b", "XDG_RUNTIME_DIR": str(tmp_path)}
    assert instance.runtime_directory(environ) == Path("/run/app")
    del environ["RUNTIME_DIRECTORY"]
    assert instance.runtime_directory(environ) == tmp_path / "overseer"


@root_only
def test_where_instances_of_a_user_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any of them, a directory for this user alone is made among the temporary ones."""

    def run() -> tuple[str, int, int]:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        found = instance.runtime_directory({})
        status = found.stat()
        return found.name, stat.S_IMODE(status.st_mode), status.st_uid

    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o1777)
        monkeypatch.setattr(tempfile, "tempdir", place)
        assert apart(run) == (f"overseer-{NOBODY}", 0o700, NOBODY)


@root_only
def test_a_directory_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    """Who owns the directory could give our name away."""
    (tmp_path / "overseer").mkdir(mode=0o700)
    os.chown(tmp_path / "overseer", NOBODY, NOBODY)
    refused(tmp_path)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_directory_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    """Nor may anybody else be able to write to it."""
    (tmp_path / "overseer").mkdir()
    (tmp_path / "overseer").chmod(mode)
    refused(tmp_path)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_directory_is_refused(tmp_path: Path, kind: str) -> None:
    """A link, also to a directory of our own, and a file are not followed."""
    (tmp_path / "real").mkdir(mode=0o700)
    if kind == "link":
        (tmp_path / "overseer").symlink_to(tmp_path / "real")
    else:
        (tmp_path / "overseer").write_text("", encoding="ascii")
    refused(tmp_path)


def refused(tmp_path: Path) -> None:
    """Claim a name; the directory is not trusted."""
    with pytest.raises(ConfigError, match="not a directory of this user's alone; give --control"):
        claim(tmp_path)


def test_a_link_instead_of_the_lock_is_refused(tmp_path: Path) -> None:
    """Nobody has us write to a file of their choice."""
    (tmp_path / "overseer").mkdir(mode=0o700)
    (tmp_path / "precious").write_text("precious", encoding="ascii")
    (tmp_path / "overseer" / "app.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(ConfigError, match="symbolic links"):
        claim(tmp_path)
    assert (tmp_path / "precious").read_text(encoding="ascii") == "precious"


# -- the pid file ---------------------------------------------------------------------------------


def test_the_pid_file_names_this_process(tmp_path: Path) -> None:
    """It holds the pid and a newline, and nothing is left beside it."""
    path = tmp_path / "pid"
    instance.write_pid_file(str(path))
    assert path.read_text(encoding="ascii") == f"{os.getpid()}\n"
    assert [file.name for file in tmp_path.iterdir()] == ["pid"]
    instance.remove_pid_file(str(path))
    assert list(tmp_path.iterdir()) == []
    instance.remove_pid_file(str(path))


def test_the_pid_file_is_replaced_whole(tmp_path: Path) -> None:
    """Whoever has the old file open reads the old pid: it is never half written."""
    path = tmp_path / "pid"
    path.write_text("12345\n", encoding="ascii")
    with path.open(encoding="ascii") as old:
        instance.write_pid_file(str(path))
        assert old.read() == "12345\n"
    assert path.read_text(encoding="ascii") == f"{os.getpid()}\n"


@pytest.mark.parametrize("content", ["1\n", "", "rubbish", "99999999999\n"])
def test_the_pid_file_of_another_stays(tmp_path: Path, content: str) -> None:
    """It is removed only if it still names this process."""
    path = tmp_path / "pid"
    path.write_text(content, encoding="ascii")
    instance.remove_pid_file(str(path))
    assert path.read_text(encoding="ascii") == content


def test_a_pid_file_that_cannot_be(tmp_path: Path) -> None:
    """The key, the path and the reason are told, and nothing is left behind."""
    for path, reason in (
        (tmp_path, "Is a directory"),
        (tmp_path / "gone" / "pid", "No such file or directory"),
    ):
        for _ in range(2):
            with pytest.raises(ConfigError) as caught:
                instance.write_pid_file(str(path))
            assert str(caught.value) == f"pid_file: {path}: {reason}"
    assert list(tmp_path.iterdir()) == []
    assert not Path(f"{tmp_path}.{os.getpid()}").exists()
