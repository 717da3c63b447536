"""Workers that bind for themselves (``--adopt``): each is started so that it can be answered.

A few of its system calls wait for the master (system/seccomp.py), which answers them (answers.py).
A bind(2) at an adopted address gets the socket that the generation has there; from then on all is
as with a socket that was inherited: steered, shared by the workers of the generation, kept over a
crash, and full of those who came while nobody served.

Nothing has to wait for long: what a generation may bind is there before its first worker.  With
``exclusive``, too: no worker of it is started before the last one of the old generation has gone.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from overseer_py.address import Kind
from overseer_py.answers import Answers, Builders
from overseer_py.bound import Bound, KeptBound
from overseer_py.core.messages import WorkerId
from overseer_py.errors import LaunchError, OverseerError
from overseer_py.logs import Log
from overseer_py.recipe import Recipe
from overseer_py.system import seccomp
from overseer_py.system.launch import Launch, Snare
from overseer_py.system.loop import IN, Loop
from overseer_py.system.seccomp import Trap
from overseer_py.system.steering import Steered


class Adoption:
    """Every worker that binds for itself."""

    _answers: Answers

    def __init__(self, loop: Loop, log: Log) -> None:
        self.bound: dict[WorkerId, Bound] = {}
        self._loop = loop
        self._log = log
        self._given: dict[WorkerId, socket.socket] = {}  # the worker's ends, until it has them

    def build_on(self, builders: Builders, on_listen: Callable[[WorkerId], None]) -> None:
        """Say who changes what generations have, and who must know that a worker listens."""
        self._answers = Answers(self._log, builders, on_listen)

    def kept(self) -> list[KeptBound]:
        """Return what the master's next image must know; calls that come meanwhile wait for it."""
        return [KeptBound.of(bound) for bound in self.bound.values()]

    def resume(self, kept: list[KeptBound], recipe_for: Callable[[int], Recipe]) -> None:
        """Go on to answer for the workers of an earlier image."""
        for one in kept:
            try:
                bound = self.bound[one.worker] = one.resumed(recipe_for(one.worker.generation))
            except (KeyError, OverseerError):  # what is left of a generation that has gone
                for fd in (one.channel, one.trap):
                    _close(fd)
            else:
                self._watch(bound)

    def _watch(self, bound: Bound) -> None:
        if bound.channel >= 0:
            self._loop.watch(bound.channel, IN, lambda _: self._on_channel(bound))
        if bound.trap >= 0:
            self._loop.watch(bound.trap, IN, lambda events: self._on_trap(bound, events))

    # -- a worker's beginning ---------------------------------------------------------------

    def fit(self, worker: WorkerId, recipe: Recipe, launch: Launch) -> Launch:
        """Return the launch of a worker whose binds we answer; as it is for any other."""
        if not recipe.plan.settings.adopt:
            return launch
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise LaunchError(f"could not be started: {error.strerror}") from error
        self._given[worker] = theirs
        if seccomp.is_for_ever(as_another=launch.identity is not None):
            self._warn_of_privileges(launch)
        bound = self.bound[worker] = Bound(worker, recipe, ours.detach())
        self._watch(bound)
        paths = any(seat.listener.wanted.kind is Kind.UNIX for seat in bound.seats)
        return replace(launch, snare=Snare(theirs.fileno(), paths))

    def _warn_of_privileges(self, launch: Launch) -> None:
        """Say that a program will not be whom its file makes it: few would guess why."""
        name = launch.argv[0]
        path = os.path.join(launch.directory, name) if "/" in name else ""
        path = path or shutil.which(name, path=launch.environ.get("PATH")) or ""
        if seccomp.gains(path):
            why = "it runs with PR_SET_NO_NEW_PRIVS, as --adopt needs without CAP_SYS_ADMIN"
            self._log.warning("privileges-not-gained", program=path, reason=why)

    def begin(self, worker: WorkerId) -> None:
        """Let go of what the worker has now."""
        if worker in self._given:
            self._given.pop(worker).close()

    def give_up(self, worker: WorkerId) -> None:
        """Forget a worker that could not be started."""
        self.begin(worker)
        if bound := self.bound.get(worker):
            self._forget(bound)

    def gone(self, generation: int) -> None:
        """Say whose processes live on, though the generation has gone.

        Nothing else shows one that has left its parent, its session and its variables.
        """
        there = [b for b in self.bound.values() if b.worker.generation == generation]
        for bound in there:
            if bound.trap >= 0 and not Trap(bound.trap).is_over():
                why = "a process that it has started lives on, unknown to the master"
                self._log.warning("process-left", worker=str(bound.worker), reason=why)

    def missing(self, worker: WorkerId) -> list[str]:
        """Return where a worker does not listen yet, and must."""
        bound = self.bound.get(worker)
        return bound.missing() if bound else []

    def _on_channel(self, bound: Bound) -> None:
        """Take the descriptor that the child sends before it becomes the program."""
        with socket.socket(fileno=bound.channel) as channel:
            self._loop.forget(bound.channel)
            bound.channel = -1
            with suppress(OSError):
                _, fds, _, _ = socket.recv_fds(channel, 1, 1)
                bound.trap = fds[0] if fds else -1
        if bound.trap < 0:  # it could not: its exit says why
            self.bound.pop(bound.worker, None)
            return
        os.set_inheritable(bound.trap, False)
        self._watch(bound)

    def _on_trap(self, bound: Bound, events: int) -> None:
        if not events & IN:  # the last process that could call has gone
            self._forget(bound)
            return
        trap = Trap(bound.trap)
        call = trap.receive()
        if call is None:
            return
        same = (o for o in self.bound.values() if o is not bound and o.recipe is bound.recipe)
        self._answers.give(call, trap, bound, same)

    def _forget(self, bound: Bound) -> None:
        for fd in (bound.channel, bound.trap):
            self._loop.forget(fd)
            _close(fd)
        bound.channel = bound.trap = -1
        for inode, name in bound.admitted.items():  # those that never listened
            for seat in bound.seats:
                if seat.name == name and isinstance(group := seat.listener.group, Steered):
                    group.dismiss(inode)
        self.bound.pop(bound.worker, None)


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
