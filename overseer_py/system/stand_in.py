"""A parent for programs that signal their parent: whoever started one hears it, and no other.

Some programs tell their parent that they are ready with the very signal that stops a master
(``kill(getppid(), SIGTERM)``).  A signal that is pending swallows the next one of its number
(signal(7)), so a master that took both could lose a real stop.  Therefore such a program is the
child of a process that stands in for the master: what it says to its parent arrives there, and
what the master is sent is never mistaken for it.

    master  ->  stand-in  ->  program      all that the master, or an operator, sends to the
            <-  pipe      <-  signal       stand-in goes on to the program

The stand-in leads the process group and ends as the program has ended, so to the master it *is*
the worker.  It has the worker's user, or the program could not signal it; and no descriptor but
the pipe.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from overseer_py.system import libc, procfs
from overseer_py.system.signals import SERVED


@dataclass(frozen=True, slots=True)
class StandIn:
    """What a stand-in does."""

    pipe: int  # where it writes a newline for each time that the program says it is ready
    meanings: Mapping[signal.Signals, bool]  # of the program's signals; True: it is ready


def part(stand_in: StandIn, pipe: int, master: int, drain: int) -> int:
    """Fork: return in the child, with its parent's pid; the parent becomes its stand-in.

    The caller is about to become the program, and has its descriptors and its user already.
    """
    program = os.fork()
    if program == 0:
        return os.getppid()
    try:
        libc.set_name("overseer-parent")
        procfs.close_others({pipe})
        _Parent(program, stand_in, pipe, master, drain).stand()
    finally:
        os._exit(1)


class _Parent:
    def __init__(self, program: int, stand_in: StandIn, pipe: int, master: int, drain: int) -> None:
        self._program, self._master = program, master
        self._meanings, self._pipe, self._drain = stand_in.meanings, pipe, drain

    def stand(self) -> NoReturn:
        """Wait for signals, all of which the master has blocked, until the program has ended."""
        while True:
            info = signal.sigwaitinfo(SERVED)
            if info.si_signo == signal.SIGCHLD:
                if ended := os.waitid(os.P_PID, self._program, os.WEXITED | os.WNOHANG):
                    _end_like(ended)
            elif info.si_pid == self._program:
                self._hear(info.si_signo)
            elif not _is_relative(info.si_pid):
                os.kill(self._program, info.si_signo)  # not reaped, so the number is its own

    def _hear(self, number: int) -> None:
        """Take a signal of the program's."""
        try:
            ready = self._meanings[signal.Signals(number)]
        except (KeyError, ValueError):  # meant for whoever is in charge, as a request to restart
            if os.getppid() == self._master:
                with suppress(PermissionError):
                    os.kill(self._master, number)
            return
        if ready:
            self._say_ready()

    def _say_ready(self) -> None:
        try:
            os.write(self._pipe, b"\n")
        except BlockingIOError:  # it has said so a thousand times
            pass
        except BrokenPipeError:
            # The master closes the pipe before it asks to drain; and that signal may have found
            # this one pending, and be lost.
            os.kill(self._program, self._drain)


def _is_relative(pid: int) -> bool:
    """Whether it is in our group: then it meant all of the group, and has reached the program."""
    try:
        return pid != 0 and os.getpgid(pid) == os.getpgrp()  # 0: it is outside of our container
    except ProcessLookupError:  # it is gone, as kill(1) is at once
        return False


def _end_like(ended: os.waitid_result) -> NoReturn:
    """End with the same status, or by the same signal, without a second core."""
    if ended.si_code != os.CLD_EXITED:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError):  # KILL needs no action
            signal.signal(ended.si_status, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {ended.si_status})
        os.kill(os.getpid(), ended.si_status)
    os._exit(ended.si_status)
