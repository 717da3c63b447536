"""The name of an instance, held by one master at a time, and where it is known.

The proof is a lock (flock(2)) on ``NAME.lock``, which the master and its guard hold together: while
a killed master's guard still cleans up, the name is not free, and a new master waits for it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from overseer_py.errors import ConfigError, NameTakenError
from overseer_py.settings import Settings
from overseer_py.system import custody, procfs

_PATIENCE = 10.0  # seconds to wait for the guard of a master that was killed


@dataclass(slots=True)
class Claim:
    """The right to a name, as long as ``fd`` is open here or in the guard."""

    path: Path
    fd: int
    control: Path  # where the instance can be talked to

    def give_up(self) -> None:
        """Let go of the name."""
        with suppress(OSError):
            self.path.unlink()
        os.close(self.fd)


def runtime_directory(environ: Mapping[str, str]) -> Path:
    """Return the directory where instances of this user are known, made if need be."""
    if given := environ.get("RUNTIME_DIRECTORY"):  # systemd's RuntimeDirectory=
        return Path(given.split(":")[0])
    if given := environ.get("XDG_RUNTIME_DIR"):
        return _private(Path(given) / "overseer")
    if os.geteuid() == 0:
        return _private(Path("/run/overseer"))
    return _private(Path(f"/tmp/overseer-{os.geteuid()}"))  # noqa: S108 - owner and mode are checked


def claim(name: str, control: str, environ: Mapping[str, str]) -> Claim | None:
    """Take the name; raise NameTakenError with the pid of whoever has it.

    ``control`` is a path to be known by instead, or ``none`` for a nameless instance.
    """
    if control == "none":
        return None
    try:
        path = _place(name, control, environ)
        return _lock(path.with_name(f"{path.stem}.lock"), name, path)
    except OSError as error:
        where = error.filename or control
        reason = error.strerror
        raise ConfigError(f"control: {where}: {reason}; give --control PATH, or none") from error
    except ValueError as error:
        raise ConfigError(f"control: {control}: not a path to a file") from error


def left_behind(settings: Settings, environ: Mapping[str, str]) -> bytes | None:
    """Return the state that a dead master of this name has left, to be gone on with.

    If that is not wanted, what is left of it ends.
    """
    if settings.control == "none":
        if settings.orphans == "adopt":
            raise ConfigError("orphans: adopt needs a name to be found by; drop --control none")
        return None
    try:
        path = str(_place(settings.name, settings.control, environ))
    except OSError:  # which whoever takes the name will say
        return None
    if settings.orphans == "adopt":
        return custody.inherit(path)
    custody.disinherit(path)
    return None


def _place(name: str, control: str, environ: Mapping[str, str]) -> Path:
    return Path(control) if control else runtime_directory(environ) / f"{name}.sock"


def _lock(path: Path, name: str, control: Path) -> Claim:
    give_up_at = time.monotonic() + _PATIENCE
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same_file(fd, path):  # not one that its last owner has just unlinked
                return _signed(Claim(path, fd, control))
        except BlockingIOError:
            pid, start = _owner(fd)
            if pid and procfs.group_and_start(pid)[1] == start and not procfs.is_zombie(pid):
                os.close(fd)
                raise NameTakenError(
                    f"overseer {name!r} runs already with pid {pid}; "
                    "stop it, or choose another --name"
                ) from None
            if time.monotonic() > give_up_at:
                os.close(fd)
                raise NameTakenError(
                    f"{path}: locked, but not by a master; see lsof {path}"
                ) from None
            time.sleep(0.01)  # flock(2) has no time-out
        os.close(fd)


def _signed(claim: Claim) -> Claim:
    pid = os.getpid()
    os.ftruncate(claim.fd, 0)
    os.pwrite(claim.fd, f"{pid} {procfs.group_and_start(pid)[1]}\n".encode(), 0)
    return claim


def _owner(fd: int) -> tuple[int, int]:
    match [int(word) for word in os.pread(fd, 64, 0).split() if word.isdigit()]:
        case [pid, start]:
            return pid, start
    return 0, 0


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _private(path: Path) -> Path:
    """Make the directory for this user alone; refuse one that somebody else has prepared."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "not a directory of this user's alone", str(path))
    return path


def write_pid_file(path: str) -> None:
    """Write this process's pid, atomically: a reader sees the old one or the new one."""
    beside = f"{path}.{os.getpid()}"
    try:
        with open(beside, "x", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
        try:
            os.replace(beside, path)
        except OSError:
            os.unlink(beside)
            raise
    except OSError as error:
        raise ConfigError(f"pid_file: {path}: {error.strerror}") from error


def remove_pid_file(path: str) -> None:
    """Remove the file if it still names this process."""
    with suppress(OSError):
        if Path(path).read_text(encoding="ascii").strip() == str(os.getpid()):
            os.unlink(path)
