"""The updater, as the master sees it: started, restarted, heard, and believed in nothing more than
what proposals.py lets through.

While it is dead the service is untouched; what it must know is told to the next one.
"""  # noqa: D205 - one thought

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

from overseer_py import __version__, proposals
from overseer_py.commands import Commands
from overseer_py.control import KeptRequest, RefusedError, Request
from overseer_py.core.messages import Report, RolloutRequested
from overseer_py.errors import OverseerError
from overseer_py.ledger import timestamp
from overseer_py.link import KeptLink, Link
from overseer_py.plain import to_plain
from overseer_py.promises import Promises
from overseer_py.proposals import (
    Answer,
    Ask,
    Begin,
    Changed,
    Crashing,
    Ended,
    GarbledError,
    Installed,
    Note,
    Said,
    Seen,
    Standing,
    Told,
)
from overseer_py.settings import Settings
from overseer_py.system.guard import Guard
from overseer_py.system.loop import Loop
from overseer_py.system.process import Children

# What the updater must know of the settings; it is started anew when any of it changes.
KEYS = {"name", "watch", "debounce", "fetch", "to", "interval", "max_size", "sha256", "minisign"}
KEYS |= {"allow_downgrade", "check", "keep", "min_age", "no_restart_after_fetch", "fetch_user"}
KEYS |= {"pre_upgrade", "post_upgrade", "on_rollback"}
_ENDS = {
    "rollout-committed": "committed",
    "rollout-rolled-back": "rolled-back",
    "rollout-cancelled": "cancelled",
}
_BACKOFF, _BACKOFF_LIMIT = 1.0, 60.0  # seconds until a dead one is started again
_MOST_PENDING = 16  # messages for the next one


@dataclass(frozen=True, slots=True)
class KeptUpdates:
    """What is known of the updater, for the master's next image."""

    version: str  # of the package that it was started from
    link: KeptLink
    standing: Standing | None
    wanted: Begin | None
    directory: str
    pending: list[bytes]
    seen: str
    since: int
    again_at: float | None
    pause: float
    asks: dict[int, KeptRequest]
    last_ask: int
    first: RolloutRequested | None
    ended: Ended | None
    releases: dict[int, str]


class Updates:
    """One updater at a time, or none if the settings ask for none."""

    def __init__(
        self,
        loop: Loop,
        children: Children,
        commands: Commands,
        promises: Promises,
        environ: Mapping[str, str],
    ) -> None:
        self.standing: Standing | None = None
        self._link = Link(loop, children, environ, self._on_line, self._on_exit)
        self._commands, self._promises = commands, promises
        self._directory = ""
        self._wanted: Begin | None = None
        self._pending: list[Told] = []
        self._seen = ""
        self._since = time.time_ns()
        self._again_at: float | None = None
        self._pause = _BACKOFF
        self._asks: dict[int, Request] = {}
        self._last_ask = 0
        self._first: RolloutRequested | None = None  # the start, held back for a release
        self._ended: Ended | None = None  # the last rollout; None while there is another one
        self._version = __version__  # of the package that it was started from
        self._releases: dict[int, str] = {}  # of each generation that is being tried or runs

    # -- its life --------------------------------------------------------------------------------

    def follow(self, settings: Settings, directory: str, guard: Guard | None) -> None:
        """Have an updater for these settings from now on, or none if they ask for none."""
        self._link.guard, self._directory = guard, directory
        # As JSON has it, so that it is the same after it was read from there.
        known = {key: to_plain(each) for key, each in asdict(settings).items() if key in KEYS}
        wanted = Begin(known, directory, "", 0) if settings.watch or settings.fetch else None
        if wanted == self._wanted:
            return
        if self._wanted and wanted and self._wanted.settings["watch"] != known["watch"]:
            self._seen = ""  # of other paths
        self._wanted = wanted
        self._since = time.time_ns() if self._link.running else self._since
        self._pause = _BACKOFF
        self.end()
        if wanted is None:
            self.standing = None
        elif not self._link.running:
            self._again_at = time.monotonic()

    def before(self, start: RolloutRequested) -> None:
        """Start the service once it is known what was left in place, or something is.

        A release that was being tried when the last master ended is taken back first; and if there
        is none at all yet, one is fetched.  Without an updater nobody waits for it.
        """
        if self._again_at is None or not self._fetches:
            self._commands.post(start)
        else:
            self._first = start

    def end(self) -> None:
        """End it, without waiting for its end."""
        self._again_at = None
        self._link.end()

    def stop(self) -> None:
        """Have none any more: the service is on its way out."""
        self._wanted = None
        self.end()

    def kept(self) -> KeptUpdates:
        """Return what the master's next image must know."""
        waiting = {n: request.kept() for n, request in self._asks.items() if not request.over}
        return KeptUpdates(
            self._version,
            self._link.kept(),
            self.standing,
            self._wanted,
            self._directory,
            [proposals.encode(message) for message in self._pending],
            self._seen,
            self._since,
            self._again_at,
            self._pause,
            waiting,
            self._last_ask,
            self._first,
            self._ended,
            self._releases,
        )

    def resume(
        self,
        kept: KeptUpdates,
        guard: Guard | None,
        request_of: Callable[[KeptRequest], Request],
    ) -> None:
        """Go on with the updater of an earlier image."""
        self._version, self.standing, self._wanted = kept.version, kept.standing, kept.wanted
        self._link.guard, self._directory = guard, kept.directory
        self._link.resume(kept.link)
        self._pending = [proposals.told(message) for message in kept.pending]
        self._seen, self._since = kept.seen, kept.since
        self._again_at, self._pause = kept.again_at, kept.pause
        self._asks = {number: request_of(each) for number, each in kept.asks.items()}
        self._last_ask, self._first = kept.last_ask, kept.first
        self._ended, self._releases = kept.ended, kept.releases

    def due(self) -> float | None:
        """Return when one is to be started."""
        return self._again_at

    def tick(self, now: float) -> None:
        """Start one if it is time to; let one of another version go when it is not needed."""
        if self._version != __version__ and not (self._asks or self._commands.fleet.rolling):
            self._version = __version__
            self._link.end()
        if self._again_at is not None and self._again_at <= now and not self._link.running:
            self._again_at = None
            try:
                self._start(now)
            except (OSError, OverseerError) as error:
                self._say("updater-failed", reason=str(error))
                self._start_service()
                self._try_again(now)

    def _start(self, now: float) -> None:
        assert self._wanted
        pid = self._link.start(self._directory, now)
        self._version = __version__
        self._say("updater-started", pid=pid)
        running = tuple(sorted(set(self._releases.values()) - {""}))
        self._tell(replace(self._wanted, seen=self._seen, since=self._since, running=running))
        pending, self._pending = self._pending, []
        if self._ended:  # the one before may have died before it had heard, or done, all of it
            pending = [self._ended, *(each for each in pending if each is not self._ended)]
        for message in pending:
            self._tell(message)

    @property
    def _fetches(self) -> str:
        """Where releases are installed; empty if none are fetched."""
        settings = self._wanted.settings if self._wanted else {}
        return os.path.join(self._directory, settings["to"]) if settings.get("fetch") else ""

    def _start_service(self, *, anyway: bool = False) -> None:
        """Let the service begin if there is something to run."""
        start = self._first
        if start and (anyway or os.path.lexists(self._fetches)):
            self._first = None
            self._commands.post(start)

    def _on_exit(self, how: str, status: int, asked: bool) -> None:
        if why := self._link.garbled():
            self._say("updater-garbled", reason=why)
        for request in self._asks.values():
            request.refuse(RefusedError("updater-gone", f"the updater {how}"))
        self._asks.clear()
        if self._wanted is None:
            return
        now = time.monotonic()
        if now - self._link.begun > _BACKOFF_LIMIT:
            self._pause = _BACKOFF
        if asked:
            self._again_at = now
        else:
            self._say("updater-exited", how=how, status=status)
            self._start_service()
            self._try_again(now + self._pause)

    def _try_again(self, at: float) -> None:
        self._again_at = at
        self._pause = min(2 * self._pause, _BACKOFF_LIMIT)

    # -- what is asked of it -----------------------------------------------------------------------

    def ask(self, method: str, digest: str, request: Request) -> None:
        """Put a question; the request is answered when it is, or when a rollout has ended."""
        if self._wanted is None or not self._wanted.settings["fetch"]:
            raise RefusedError("no-fetcher", "nothing is fetched here; run it with --fetch")
        if not self._link.up:
            raise RefusedError("updater-gone", "the updater is being started again; try again")
        self._last_ask += 1
        self._asks[self._last_ask] = request
        self._tell(Ask(self._last_ask, method, digest))

    def __call__(self, report: Report) -> None:
        """Tell it what has become of a release."""
        if report.generation is None:
            return
        match report.name:
            case "rollout-started" | "service-starting":
                self._releases[report.generation] = self._commands.plans.release
                self._ended = None
            case "service-ready":
                self._end_trial(report.generation, "committed", "")
            case "rollout-committed" | "rollout-rolled-back" | "rollout-cancelled":
                why = str(report.facts.get("reason", ""))
                self._end_trial(report.generation, _ENDS[report.name], why)
            case "probation-failed":
                release = self._releases.get(report.generation, "")
                self._tell(Crashing(release, str(report.facts["reason"])))
            case "generation-gone":
                self._releases.pop(report.generation, None)

    def _end_trial(self, generation: int, outcome: str, why: str) -> None:
        self._ended = Ended(self._releases.get(generation, ""), outcome, why)
        self._tell(self._ended)

    def fetcher(self) -> dict[str, object] | None:
        """Return what the status says of the source; None without one."""
        known = self.standing
        if known is None or not known.url:
            return None
        return {
            "url": known.url,
            "last_checked_at": timestamp(known.last_checked_at) if known.last_checked_at else None,
            "last_error": known.last_error or None,
            "next_check_at": timestamp(known.next_check_at) if known.next_check_at else None,
        }

    # -- what it says ------------------------------------------------------------------------------

    def _on_line(self, line: bytes) -> None:
        try:
            message = proposals.said(line)
        except GarbledError as error:
            self._link.refuse(str(error))
        else:
            self._hear(message)

    def _hear(self, message: Said) -> None:
        match message:
            case Seen(digest):
                self._seen = digest
            case Changed(what):
                self._commands.restart(f"{what} changed")
            case Standing():
                self.standing = message
                self._commands.plans.release = message.release
                self._start_service()
            case Installed():
                self._on_installed(message)
            case Note(event, facts):
                self._say(event, **facts)
            case Answer(ask, result, error):
                if request := self._asks.pop(ask, None):
                    if error:
                        request.refuse(RefusedError("refused", error))
                    else:
                        request.answer(result)

    def _on_installed(self, message: Installed) -> None:
        self._commands.plans.release = message.release
        request = self._asks.pop(message.ask, None)
        if not message.restart:
            self._start_service(anyway=True)
            if request:
                found = f"release {message.release[:12]} is installed, and waits for a restart"
                request.answer({"found": found, "release": message.release})
            return
        event = RolloutRequested(message.reason, reversible=message.reversible)
        if self._first:
            event, self._first = self._first, None
        self._commands.post(event)
        if request:
            self._promises.make(request, event)

    def _tell(self, message: Told) -> None:
        """Tell it, or the next one."""
        if not self._link.say(proposals.encode(message)) and self._wanted:
            self._pending = [*self._pending, message][-_MOST_PENDING:]

    def _say(self, name: str, /, **facts: object) -> None:
        self._commands.report(Report(name, facts=facts))
