"""The methods of the control socket: what each takes, and what it answers."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from overseer_py import values
from overseer_py.commands import Commands
from overseer_py.control import Method, RefusedError, Request
from overseer_py.core.messages import Event, Report
from overseer_py.errors import OverseerError
from overseer_py.promises import Promises
from overseer_py.record import Record
from overseer_py.status import Service, status
from overseer_py.system import procfs
from overseer_py.system.signals import SERVED, name_of
from overseer_py.upgrade import Upgrade


@dataclass(frozen=True, slots=True)
class Methods:
    """Whatever a client can ask; each method answers its request, or has it answered later."""

    service: Service
    commands: Commands
    promises: Promises
    events: Record
    lines: Record
    upgrade: Upgrade
    report: Callable[[Report], None]

    def table(self) -> Mapping[str, Method]:
        """Return the methods by name."""
        return {
            "status": self.status,
            "events": self.events.serve,
            "logs": self.logs,
            "restart": self.restart,
            "reload": self.reload,
            "upgrade-master": self.upgrade_master,
            "scale": self.scale,
            "signal": self.signal,
            "stop": self.stop,
            "releases": self.releases,
            "rollback": self.rollback,
            "unhold": self.unhold,
            "fetch": self.fetch,
        }

    def status(self, request: Request) -> None:
        """Answer with the whole document."""
        request.answer(status(self.service))

    def logs(self, request: Request) -> None:
        """Tell the lines that were captured: the ``last`` so many; ``follow``."""
        if not self.service.plans.plan.settings.capture:
            raise RefusedError("not-captured", "no lines are kept; run it with --capture")
        self.lines.serve(request)

    def restart(self, request: Request) -> None:
        """Roll out; ``wait`` for how it ended, ``follow`` what happens meanwhile."""
        self._refuse_if_stopping()
        self._note("restart", request)
        self._promise(request, self.commands.restart("restart"))

    def reload(self, request: Request) -> None:
        """Reread the configuration, then as ``restart``."""
        self._note("reload", request)
        outcome = self.commands.reload()
        if isinstance(outcome, OverseerError):
            raise RefusedError("bad-configuration", str(outcome))
        self._promise(request, outcome)

    def upgrade_master(self, request: Request) -> None:
        """Become the version that is installed now; answers when that is done, or why not."""
        self._refuse_if_stopping()
        self._note("upgrade-master", request)
        self._follow(request)
        self.upgrade.ask("command", request)

    def scale(self, request: Request) -> None:
        """Have this many ``workers`` from now on."""
        try:
            size = values.workers(str(request.params.get("workers")))
        except ValueError as error:
            raise RefusedError("bad-request", f"workers: {error}") from None
        self._refuse_if_stopping()
        self._note("scale", request, workers=size)
        self.commands.scale(size)
        request.answer({"workers": size})

    def signal(self, request: Request) -> None:
        """Do as if this ``signal`` had come to the master."""
        try:
            number = values.signal_number(str(request.params.get("signal")))
        except ValueError as error:
            raise RefusedError("bad-request", f"signal: {error}") from None
        if number not in SERVED or number == signal.SIGCHLD:
            raise RefusedError("bad-request", f"signal: {number.name} means nothing to a master")
        name = name_of(number).removeprefix("SIG")
        self._note("signal", request, signal=name)
        self.commands.signal(number, name)
        request.answer({"signal": name})

    def stop(self, request: Request) -> None:
        """End the service; with ``drain`` false at once.  The end is the connection's, too."""
        drain = request.params.get("drain", True) is not False
        self._note("stop", request, drain=drain)
        self.commands.stop(drain=drain)
        if self._waits(request):
            self.promises.make_last(request)
        else:
            request.answer({"stopping": True})

    def releases(self, request: Request) -> None:
        """Answer with what is installed, and what is held."""
        self.service.updates.ask("releases", "", request)

    def rollback(self, request: Request) -> None:
        """Go back to the previous release, or to the one of this ``digest``, as ``restart``."""
        self._refuse_if_stopping()
        digest = self._digest(request, needed=False)
        self._note("rollback", request, digest=digest or "the previous one")
        self._follow(request)
        self.service.updates.ask("rollback", digest, request)

    def unhold(self, request: Request) -> None:
        """Let the release of this ``digest`` be tried again."""
        digest = self._digest(request, needed=True)
        self._note("unhold", request, digest=digest)
        self.service.updates.ask("unhold", digest, request)

    def fetch(self, request: Request) -> None:
        """Look at the source now; answers as ``restart`` if there is something new."""
        self._refuse_if_stopping()
        self._note("fetch", request)
        self._follow(request)
        self.service.updates.ask("fetch", "", request)

    def _digest(self, request: Request, *, needed: bool) -> str:
        digest = str(request.params.get("digest") or "")
        if not re.fullmatch(r"[0-9a-f]{6,64}" if needed else r"([0-9a-f]{6,64})?", digest):
            raise RefusedError("bad-request", "digest: 6 hexadecimal digits of it, or more")
        return digest

    def _promise(self, request: Request, event: Event) -> None:
        if self._waits(request):
            self.promises.make(request, event)
        else:
            request.answer({"requested": True})

    def _waits(self, request: Request) -> bool:
        """Whether the client waits for the end, and if so, let it follow what happens."""
        waits = request.params.get("wait", True) is not False
        if waits:
            self._follow(request)
        return waits

    def _follow(self, request: Request) -> None:
        if request.params.get("follow"):
            self.events.follow(request)

    def _refuse_if_stopping(self) -> None:
        if self.service.fleet.stopping:
            raise RefusedError("refused", "the service is stopping")

    def _note(self, method: str, request: Request, **facts: object) -> None:
        who = procfs.described(request.pid)
        self.report(Report("command", facts={"method": method, **facts, **who}))
