"""The updater, as the master sees it: started, restarted, heard, and believed in nothing more than
what proposals.py lets through.

While it is dead the service is untouched; what it must know is told to the next one.
"""  # noqa: D205 - one thought

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace

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
    Replaced,
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
KEYS |= {"pre_upgrade", "post_upgrade", "on_rollback", "self_upgrade"}
RequestOf = Callable[[KeptRequest], Request]
_ENDS = {
    "rollout-committed": "committed",
    "rollout-rolled-back": "rolled-back",
    "rollout-cancelled": "cancelled",
}
_BACKOFF, _BACKOFF_LIMIT = 1.0, 60.0  # seconds until a dead one is started again
_MOST_PENDING = 16  # messages for the next one


@dataclass(slots=True)
class Memory:
    """What outlives an updater, and an image of the master."""

    version: str = __version__  # of the package that the updater was started from
    standing: Standing | None = None
    wanted: Begin | None = None
    directory: str = ""
    pending: list[bytes] = field(default_factory=list)  # for the next one
    seen: str = ""
    since: int = 0  # when what runs was started, in ns since the epoch
    again_at: float | None = None
    pause: float = _BACKOFF
    last_ask: int = 0
    first: RolloutRequested | None = None  # the start, held back for a release
    ended: Ended | None = None  # the last rollout; None while there is another one
    releases: dict[int, str] = field(default_factory=dict)  # of each generation that is here


@dataclass(frozen=True, slots=True)
class KeptUpdates:
    """All of it, for the master's next image."""

    link: KeptLink
    memory: Memory
    asks: dict[int, KeptRequest]


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
        self._link = Link(loop, children, environ, self._on_line, self._on_exit)
        self._commands, self._promises = commands, promises
        self._upgrade: Callable[[str], None] | None = None
        self._image = time.time_ns()  # when the master became what it is
        self._memo = Memory(since=self._image)
        self._asks: dict[int, Request] = {}

    def watch_over(self, upgrade: Callable[[str], None]) -> None:
        """Say how the master becomes another version, with --self-upgrade."""
        self._upgrade = upgrade

    # -- its life --------------------------------------------------------------------------------

    def follow(self, settings: Settings, directory: str, guard: Guard | None) -> None:
        """Have an updater for these settings from now on, or none if they ask for none."""
        self._link.guard, self._memo.directory = guard, directory
        # As JSON has it, so that it is the same after it was read from there.
        known = {key: to_plain(each) for key, each in asdict(settings).items() if key in KEYS}
        needed = settings.watch or settings.fetch or settings.self_upgrade
        wanted = Begin(known, directory, "", 0) if needed else None
        if wanted == self._memo.wanted:
            return
        before, self._memo.wanted = self._memo.wanted, wanted
        if before and wanted and before.settings["watch"] != known["watch"]:
            self._memo.seen = ""  # of other paths
        self._memo.since = time.time_ns() if self._link.running else self._memo.since
        self._memo.pause = _BACKOFF
        self.end()
        if wanted is None:
            self._memo.standing = None
        elif not self._link.running:
            self._memo.again_at = time.monotonic()

    def before(self, start: RolloutRequested) -> None:
        """Start the service once it is known what was left in place, or something is.

        A release that was being tried when the last master ended is taken back first; and if there
        is none at all yet, one is fetched.  Without an updater nobody waits for it.
        """
        if self._memo.again_at is None or not self._fetches:
            self._commands.post(start)
        else:
            self._memo.first = start

    def end(self) -> None:
        """End it, without waiting for its end."""
        self._memo.again_at = None
        self._link.end()

    def stop(self) -> None:
        """Have none any more: the service is on its way out."""
        self._memo.wanted = None
        self.end()

    def kept(self) -> KeptUpdates:
        """Return what the master's next image must know."""
        waiting = {n: request.kept() for n, request in self._asks.items() if not request.over}
        return KeptUpdates(self._link.kept(), self._memo, waiting)

    def resume(self, kept: KeptUpdates, guard: Guard | None, request_of: RequestOf) -> None:
        """Go on with the updater of an earlier image."""
        self._memo, self._link.guard = kept.memory, guard
        self._link.resume(kept.link)
        self._asks = {number: request_of(each) for number, each in kept.asks.items()}

    def begin_anew(self) -> None:
        """Start an updater of our own: the one that another master had has died with it."""
        self._memo.again_at = time.monotonic() if self._memo.wanted else None

    @property
    def standing(self) -> Standing | None:
        """Which releases there are; None before it is known."""
        return self._memo.standing

    def due(self) -> float | None:
        """Return when one is to be started."""
        return self._memo.again_at

    def tick(self, now: float) -> None:
        """Start one if it is time to; let one of another version go when it is not needed."""
        memo, busy = self._memo, self._asks or self._commands.fleet.rolling
        if memo.version != __version__ and not busy:
            memo.version = __version__
            self._link.end()
        if memo.again_at is not None and memo.again_at <= now and not self._link.running:
            memo.again_at = None
            try:
                self._start(now)
            except (OSError, OverseerError) as error:
                self._say("updater-failed", reason=str(error))
                self._start_service()
                self._try_again(now)

    def _start(self, now: float) -> None:
        memo = self._memo
        assert memo.wanted
        pid = self._link.start(memo.directory, now)
        memo.version = __version__
        self._say("updater-started", pid=pid)
        running = tuple(sorted(set(memo.releases.values()) - {""}))
        begin = replace(memo.wanted, seen=memo.seen, since=memo.since, image=self._image)
        pending, memo.pending = memo.pending, []
        if memo.ended:  # the one before may have died before it had heard, or done, all of it
            ended = proposals.encode(memo.ended)
            pending = [ended, *(each for each in pending if each != ended)]
        for message in (proposals.encode(replace(begin, running=running)), *pending):
            self._pass_on(message)

    @property
    def _fetches(self) -> str:
        """Where releases are installed; empty if none are fetched."""
        settings = self._memo.wanted.settings if self._memo.wanted else {}
        return os.path.join(self._memo.directory, settings["to"]) if settings.get("fetch") else ""

    def _start_service(self, *, anyway: bool = False) -> None:
        """Let the service begin if there is something to run."""
        start = self._memo.first
        if start and (anyway or os.path.lexists(self._fetches)):
            self._memo.first = None
            self._commands.post(start)

    def _on_exit(self, how: str, status: int, asked: bool) -> None:
        if why := self._link.garbled():
            self._say("updater-garbled", reason=why)
        for request in self._asks.values():
            request.refuse(RefusedError("updater-gone", f"the updater {how}"))
        self._asks.clear()
        if self._memo.wanted is None:
            return
        now = time.monotonic()
        if now - self._link.begun > _BACKOFF_LIMIT:
            self._memo.pause = _BACKOFF
        if asked:
            self._memo.again_at = now
        else:
            self._say("updater-exited", how=how, status=status)
            self._start_service()
            self._try_again(now + self._memo.pause)

    def _try_again(self, at: float) -> None:
        self._memo.again_at = at
        self._memo.pause = min(2 * self._memo.pause, _BACKOFF_LIMIT)

    # -- what is asked of it -----------------------------------------------------------------------

    def ask(self, method: str, digest: str, request: Request) -> None:
        """Put a question; the request is answered when it is, or when a rollout has ended."""
        if self._memo.wanted is None or not self._memo.wanted.settings["fetch"]:
            raise RefusedError("no-fetcher", "nothing is fetched here; run it with --fetch")
        if not self._link.up:
            raise RefusedError("updater-gone", "the updater is being started again; try again")
        self._memo.last_ask += 1
        self._asks[self._memo.last_ask] = request
        self._tell(Ask(self._memo.last_ask, method, digest))

    def __call__(self, report: Report) -> None:
        """Tell it what has become of a release."""
        if report.generation is None:
            return
        match report.name:
            case "rollout-started" | "service-starting":
                self._memo.releases[report.generation] = self._commands.plans.release
                self._memo.ended = None
            case "service-ready":
                self._end_trial(report.generation, "committed", "")
            case "rollout-committed" | "rollout-rolled-back" | "rollout-cancelled":
                why = str(report.facts.get("reason", ""))
                self._end_trial(report.generation, _ENDS[report.name], why)
            case "probation-failed":
                release = self._memo.releases.get(report.generation, "")
                self._tell(Crashing(release, str(report.facts["reason"])))
            case "generation-gone":
                self._memo.releases.pop(report.generation, None)

    def _end_trial(self, generation: int, outcome: str, why: str) -> None:
        self._memo.ended = Ended(self._memo.releases.get(generation, ""), outcome, why)
        self._tell(self._memo.ended)

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
                self._memo.seen = digest
            case Changed(what):
                self._commands.restart(f"{what} changed")
            case Replaced(what):
                if self._upgrade and not self._commands.fleet.stopping:
                    self._upgrade(f"{what} changed")
            case Standing():
                self._memo.standing = message
                self._commands.plans.release = message.release
                self._start_service()
            case Installed():
                self._on_installed(message)
            case Note(event, facts):
                self._say(event, **facts)
            case Answer():
                self._on_answer(message)

    def _on_answer(self, answer: Answer) -> None:
        if request := self._asks.pop(answer.ask, None):
            if answer.error:
                request.refuse(RefusedError("refused", answer.error))
            else:
                request.answer(answer.result)

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
        if self._memo.first:
            event, self._memo.first = self._memo.first, None
        self._commands.post(event)
        if request:
            self._promises.make(request, event)

    def _tell(self, message: Told) -> None:
        self._pass_on(proposals.encode(message))

    def _pass_on(self, message: bytes) -> None:
        """Tell it, or the next one."""
        if not self._link.say(message) and self._memo.wanted:
            self._memo.pending = [*self._memo.pending, message][-_MOST_PENDING:]

    def _say(self, name: str, /, **facts: object) -> None:
        self._commands.report(Report(name, facts=facts))
