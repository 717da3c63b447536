"""A child whose calls wait for the test."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from overseer_py.system.launch import ensnare
from overseer_py.system.seccomp import Call, Trap
from tests.master import PATIENCE
from tests.system.apart import fork_quietly


class Child:
    """A process that does something, and how it ended."""

    def __init__(self, pid: int, trap: Trap) -> None:
        self.pid = pid
        self.trap = trap

    def call(self) -> Call:
        """Return the next call that waits."""
        assert self.events() & select.POLLIN, "no call came"
        call = self.trap.receive()
        assert call
        return call

    def events(self) -> int:
        """Wait until a call waits, or the last process has gone."""
        poll = select.poll()
        poll.register(self.trap.fd, select.POLLIN)
        ready = poll.poll(PATIENCE * 1000)
        assert ready, "neither a call nor the end"
        return int(ready[0][1])

    def pass_on(self) -> list[str]:
        """Let the kernel do all that is still asked for; return the names of the calls."""
        names = []
        while self.events() & select.POLLIN:
            if call := self.trap.receive():
                names.append(call.name)
                self.trap.proceed(call)
        return names

    def status(self) -> int:
        """Let it go on to its end; return its exit status: 0 if all that it checks is so."""
        self.pass_on()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextmanager
def snared(run: Callable[[], object], *, paths: bool = False) -> Iterator[Child]:
    """Run a function in a child whose calls wait; it exits with 1 if the function fails."""
    ours, theirs = socket.socketpair()
    pid = fork_quietly()
    if pid == 0:
        status = 1
        try:
            ours.close()
            ensnare(theirs.detach(), paths=paths)
            run()
            status = 0
        finally:
            os._exit(status)
    theirs.close()
    with ours:
        ours.settimeout(PATIENCE)
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    if not fds:
        os.waitpid(pid, 0)
        pytest.fail("the child could not install the filter")
    try:
        yield Child(pid, Trap(fds[0]))
    finally:
        os.close(fds[0])
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
