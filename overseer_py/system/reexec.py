"""Replace the image of this process, and keep what it is: its pid, its children, its descriptors.

execve(2) keeps all of that, and what is blocked of signals, and what is pending.  What the new
image must know is in a memfd (memfd_create(2)), whose number stands in the environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SHRINK, F_SEAL_WRITE, fcntl
from typing import NoReturn

from overseer_py.system.launch import die_with

STATE = "OVERSEER_STATE_FD"  # in the environment: where the state is
REHEARSAL = "OVERSEER_REHEARSAL"  # likewise: take the state up, and end
VARIABLES = (STATE, REHEARSAL)
_SIGKILL = 9


def write_down(data: bytes) -> int:
    """Return a descriptor of a file in memory with this in it; raise OSError."""
    fd = os.memfd_create("overseer-state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK)
    except OSError:
        os.close(fd)
        raise
    return fd


def read_back(fd: int) -> bytes:
    """Return what an earlier image has written down, and close it."""
    with open(fd, "rb") as file:
        file.seek(0)
        return file.read()


def execute(environ: Mapping[str, str], state: int, fds: Iterable[int]) -> NoReturn:
    """Become what the command line of this process means now; raise OSError if that cannot be.

    All that was done for it is undone then.
    """
    kept = [state, *(fd for fd in fds if fd >= 0)]
    try:
        for fd in kept:
            os.set_inheritable(fd, True)
        environ = {**environ, STATE: str(state)}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)  # noqa: S606
    finally:
        for fd in kept:
            with suppress(OSError):
                os.set_inheritable(fd, False)


def rehearse(
    environ: Mapping[str, str], state: int, fds: Iterable[int], master: int, report_fd: int
) -> NoReturn:
    """Do the same in a child, which ends once it has taken all up; what it says is the report."""
    try:
        die_with(master, _SIGKILL)
        os.dup2(report_fd, 1)
        os.dup2(report_fd, 2)
        execute({**environ, REHEARSAL: "1"}, state, fds)
    except OSError as error:
        os.write(report_fd, f"{sys.executable}: {error.strerror}".encode())
    finally:
        os._exit(127)
