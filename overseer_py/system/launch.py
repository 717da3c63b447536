"""Between fork and exec: arrange a new process, then become the program.

It runs in the child of a one-threaded master, so ordinary Python is safe here.  The order
matters and is the kernel's, not taste: see the comments.  What fails comes back through a
close-on-exec pipe, which closes by itself when the exec succeeds.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fcntl import F_DUPFD_CLOEXEC, fcntl
from typing import NamedTuple, NoReturn

from overseer_py.handover import FIRST_FD
from overseer_py.system import libc, seccomp, stand_in
from overseer_py.system.stand_in import StandIn

NOT_EXECUTED = 127  # exit status of a child that could not become the program


class Identity(NamedTuple):
    """Whom a worker runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]


class Snare(NamedTuple):
    """Which calls of a program wait for the master's answer (seccomp.py)."""

    channel: int  # a socket over which the master gets the descriptor where they arrive
    paths: bool  # whether unlink(2) waits, too


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that a new process needs to know."""

    argv: Sequence[str]
    environ: Mapping[str, str]
    directory: str = ""
    executable: str = ""  # the file, where it is known; else argv[0] is looked up in PATH
    fds: Sequence[int] = ()  # become 3, 4, …
    stdout: int = 1
    stderr: int = 2
    death_signal: int = signal.SIGTERM  # sent to it when the master dies in any way; 0 for none
    umask: int | None = None
    identity: Identity | None = None
    stand_in: StandIn | None = None  # between it and the master, if it signals its parent
    snare: Snare | None = None  # some of its calls wait for the master


def become(launch: Launch, master: int, limit: tuple[int, int], report_fd: int) -> NoReturn:
    """Turn this freshly forked process into the program; never return.

    ``limit`` is RLIMIT_NOFILE as the service is to have it: select(2) fails above 1024.
    """
    step = "set up its descriptors"
    try:
        os.setpgid(0, 0)
        above = FIRST_FD + len(launch.fds)
        pipe = fcntl(launch.stand_in.pipe, F_DUPFD_CLOEXEC, above) if launch.stand_in else -1
        channel = fcntl(launch.snare.channel, F_DUPFD_CLOEXEC, above) if launch.snare else -1
        report_fd = place(report_fd, launch)
        step = f"enter directory {launch.directory}"
        if launch.directory:
            os.chdir(launch.directory)
        if launch.umask is not None:
            os.umask(launch.umask)
        if launch.identity:
            step = "change user"
            change_identity(launch.identity)
        step = f"execute {launch.argv[0]}"
        die_with(master, launch.death_signal)
        if launch.stand_in:
            master = stand_in.part(launch.stand_in, pipe, master, launch.death_signal)
            die_with(master, launch.death_signal)
        environ = with_pids(launch.environ, master)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        if launch.snare:
            step = "have its calls wait for the master (--adopt)"
            ensnare(channel, paths=launch.snare.paths)
            step = f"execute {launch.argv[0]}"
        reset_signals()  # last: one that waited takes effect here, with its default action
        if launch.executable:
            os.execve(launch.executable, list(launch.argv), environ)
        os.execvpe(launch.argv[0], list(launch.argv), environ)
    except OSError as error:
        os.write(report_fd, explain(step, error).encode())
    except BaseException as error:  # noqa: BLE001 - the child must never return into the master
        os.write(report_fd, f"could not {step}: {error}".encode())
    os._exit(NOT_EXECUTED)


def ensnare(channel: int, *, paths: bool) -> None:
    """Put the filter on, and send the master the descriptor where the calls arrive."""
    trap = seccomp.install(paths=paths)
    with socket.socket(fileno=channel) as sock:
        socket.send_fds(sock, [b"."], [trap])
    os.close(trap)


def with_pids(environ: Mapping[str, str], parent: int) -> dict[str, str]:
    """Return the variables with those that only this process knows."""
    environ = dict(environ)
    if "OVERSEER_SLOT" in environ:  # a check of a worker has its pid already
        environ.setdefault("OVERSEER_WORKER_PID", str(os.getpid()))
    if "LISTEN_FDS" in environ:
        environ["LISTEN_PID"] = str(os.getpid())
    if "EINHORN_FD_COUNT" in environ:
        environ["EINHORN_MASTER_PID"] = str(parent)
    return environ


def place(report_fd: int, launch: Launch) -> int:
    """Put the descriptors where they belong; return where the report pipe is now.

    First all out of the way, then down: a naive swap of 3 and 4 gives the same file twice, and
    dup2 of a descriptor onto itself does not clear close-on-exec (dup(2)).
    """
    above = FIRST_FD + len(launch.fds)
    null = os.open(os.devnull, os.O_RDONLY)
    wanted = [null, launch.stdout, launch.stderr, *launch.fds]
    copies = [fcntl(fd, F_DUPFD_CLOEXEC, above) for fd in wanted]
    report_fd = fcntl(report_fd, F_DUPFD_CLOEXEC, above)
    for target, copy in enumerate(copies):
        os.dup2(copy, target, inheritable=True)
    return report_fd


def change_identity(identity: Identity) -> None:
    """Become another user: groups before gid before uid, or the right to do so is gone."""
    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)


def die_with(master: int, number: int) -> None:
    """Have this signal sent when the master dies (PR_SET_PDEATHSIG; setuid clears it)."""
    libc.prctl(libc.PR_SET_PDEATHSIG, number)
    if os.getppid() != master:  # it died before we asked
        os._exit(NOT_EXECUTED)


def reset_signals() -> None:
    """Give every signal its default action and an empty mask, whatever the master inherited."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def explain(step: str, error: OSError) -> str:
    """Return the system's reason, with what it usually means when it is a riddle."""
    hint = ""
    if step.startswith("execute "):
        path = step.removeprefix("execute ")
        exists = "/" in path and os.path.exists(path)
        if error.errno == errno.ENOENT and exists:
            hint = " (the interpreter in its first line does not exist)"
        elif error.errno == errno.ENOEXEC:
            hint = " (no #! line, or built for another machine)"
    return f"could not {step}: {error.strerror}{hint}"
