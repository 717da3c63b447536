"""The master becomes the next version of itself: same pid, same children, same descriptors.

The next version tries first: a child takes up the state of the moment and ends.  Only if that went
well the master writes its state down once more, at the end of a turn of the loop, when nothing is
in hand, and replaces its image.  What cannot start, or cannot read the state, changes nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial

from overseer_py import __version__, snapshot
from overseer_py.control import KeptRequest, RefusedError, Request
from overseer_py.core.messages import Report
from overseer_py.logs import Log
from overseer_py.snapshot import Snapshot
from overseer_py.system import reexec
from overseer_py.system.process import Children, Process

PATIENCE = 60.0  # seconds for the next version to start, import and take up the state


class Upgrade:
    """One at a time; whoever else asks meanwhile gets the same answer."""

    def __init__(
        self,
        children: Children,
        environ: Mapping[str, str],
        log: Log,
        take: Callable[[], Snapshot],
        report: Callable[[Report], None],
    ) -> None:
        """``take`` returns the state of the moment."""
        self.ready = False  # to be performed at the end of the turn
        self._children, self._environ, self._log = children, environ, log
        self._take, self._report = take, report
        self._requests: list[Request] = []
        self._rehearsal: Process | None = None
        self._late_at: float | None = None
        self._reason = ""

    def ask(self, reason: str, request: Request | None = None) -> None:
        """Begin; the request is answered by the next version, or refused by this one."""
        self._requests += [request] if request else []
        if self._rehearsal or self.ready:
            return
        self._say("upgrade-begun", reason=reason)
        try:
            self._rehearsal = self._rehearse()
        except Exception as error:  # noqa: BLE001 - whatever it was, who waits must hear of it
            self._fail(str(error) or repr(error))
        else:
            self._late_at = time.monotonic() + PATIENCE

    def due(self) -> float | None:
        """Return when the next version has tried for too long."""
        return self._late_at

    def tick(self, now: float) -> None:
        """End a try that takes too long."""
        if self._late_at is not None and self._late_at <= now and self._rehearsal:
            self._late_at, self._reason = None, f"it took longer than {PATIENCE:g} s"
            self._children.kill(self._rehearsal)

    def perform(self) -> None:
        """Become the next version; what goes wrong now leaves this one as it is."""
        self.ready = False
        try:
            state, fds = self._written_down()
            try:
                reexec.execute(self._environ, state, fds)
            finally:
                os.close(state)
        except Exception as error:  # noqa: BLE001 - whatever it was, who waits must hear of it
            self._fail(str(error) or repr(error))

    def give_up(self, reason: str) -> None:
        """Stay as it is, although the next version could take over."""
        self.ready = False
        self._fail(reason)

    def kept(self) -> list[KeptRequest]:
        """Return who waits for the answer."""
        return [request.kept() for request in self._requests if not request.over]

    def performed(self, kept: Snapshot, request_of: Callable[[KeptRequest], Request]) -> None:
        """Say so: this is the next version."""
        took = round(time.monotonic() - kept.at, 3)
        facts = {"version": __version__, "previous": kept.version, "took": took}
        self._say("upgraded", **facts)
        for request in kept.upgrade:
            request_of(request).answer({"pid": os.getpid(), **facts})

    def _rehearse(self) -> Process:
        state, fds = self._written_down()
        try:
            run = partial(reexec.rehearse, self._environ, state, fds, os.getpid())
            return self._children.fork(run, {}, self._on_exit)
        finally:
            os.close(state)

    def _written_down(self) -> tuple[int, list[int]]:
        data, fds = snapshot.encode(self._take())
        return reexec.write_down(data), list(map(int, fds))

    def _on_exit(self, how: str, status: int) -> None:
        self._rehearsal = self._late_at = None
        if status == 0:
            self.ready = True
            return
        reason, self._reason = self._reason, ""
        *before, last = how.strip().splitlines() or [f"it ended with status {status}"]
        if before:  # a traceback
            self._log.warning("upgrade-rehearsed", stderr_tail=[*before, last])
        self._fail(reason or last)

    def _fail(self, reason: str) -> None:
        self._say("upgrade-failed", reason=reason)
        requests, self._requests = self._requests, []
        for request in requests:
            request.refuse(RefusedError("failed", f"the next version did not take over: {reason}"))

    def _say(self, name: str, /, **facts: object) -> None:
        self._report(Report(name, facts=facts))
