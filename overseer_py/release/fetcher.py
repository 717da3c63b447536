"""``--fetch``: look, fetch, verify, install, propose; then commit, or take back and hold.

In a thread of its own: a look may take minutes.  Nothing else touches the releases.
"""

from __future__ import annotations

import os
import queue
import random
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress

from overseer_py.errors import FetchError, OverseerError, StoreError, VetoError
from overseer_py.proposals import (
    Answer,
    Ask,
    Begin,
    Crashing,
    Ended,
    Installed,
    Note,
    Said,
    Standing,
)
from overseer_py.release import hooks, verify, versions
from overseer_py.release.inspection import Demands, checked, unpacked, verified
from overseer_py.release.roll import roll
from overseer_py.release.scout import Scout
from overseer_py.release.state import Facts
from overseer_py.release.store import Store

_SIGNED = "overseer.signed"  # among what is known: the version that the signature states
_LONGEST_PAUSE = 3600.0  # seconds until what was vetoed is looked at again
_UNBORN = 5.0  # seconds between two looks while there is nothing to run at all
_SHOWN = 12  # digits of a digest

Order = Ended | Crashing | Ask


class Fetcher(threading.Thread):
    """Looks when it is time to, or when it is told to."""

    def __init__(self, begin: Begin, say: Callable[[Said], None]) -> None:
        super().__init__(daemon=True, name="fetcher")
        self._settings: Mapping[str, object] = begin.settings
        self._running = begin.running
        self._say = say
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        settings = begin.settings
        self._scout = Scout(begin)
        self._store = Store(os.path.join(begin.directory, settings["to"]), settings["keep"])
        wanted = ("sha256", "minisign", "allow_downgrade", "check", "max_size")
        self._demands = Demands(self._scout.url, **{key: settings[key] for key in wanted})
        self._proposed = False  # what is tried is being rolled out
        self._leaving: tuple[str, str] | None = None  # to be held once it is left: digest, why
        self._error = ""
        self._vetoes = 0  # in a row
        self._checked_at = 0.0
        self._next_at = 0.0  # seconds since the epoch

    def order(self, order: Order) -> None:
        """Have something done, soon."""
        self._orders.put(order)

    def run(self) -> None:
        """Work for ever, or not at all: without this thread the process is of no use."""
        try:
            self._work()
        except BrokenPipeError:  # the master is gone
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the next process begins anew
            traceback.print_exc()
            os._exit(1)

    def _work(self) -> None:
        self._recover()
        self._tell_standing()
        while True:
            left = self._next_at - time.time()
            try:
                order = self._orders.get(timeout=max(left, 0.0)) if left > 0 else None
                self._follow(order or self._orders.get_nowait())
            except queue.Empty:
                if not self._proposed:
                    self._look(0)
                else:
                    self._next_at = time.time() + self._scout.interval
            self._tell_standing()

    # -- orders ------------------------------------------------------------------------------------

    def _follow(self, order: Order) -> None:
        try:
            match order:
                case Ended():
                    self._on_ended(order)
                case Crashing():
                    self._on_crashing(order)
                case Ask():
                    self._on_ask(order)
        except OverseerError as error:
            self._note("store-failed", reason=str(error))
            if isinstance(order, Ask):
                self._say(Answer(order.ask, {}, str(error)))

    def _on_ask(self, order: Ask) -> None:
        match order.method:
            case "releases":
                self._say(Answer(order.ask, roll(self._store), ""))
            case "rollback":
                self._on_rollback(order)
            case "unhold":
                digest = self._store.unhold(order.digest)
                self._scout.forget()
                self._next_at = 0.0
                self._note("release-unheld", release=digest)
                self._say(Answer(order.ask, {"release": digest}, ""))
            case "fetch":
                if self._proposed:
                    raise StoreError("a release is being rolled out already")
                self._scout.forget()
                self._look(order.ask)

    def _on_rollback(self, order: Ask) -> None:
        why = "rolled back by hand"
        waiting = self._store.trying
        if waiting and not self._proposed and not order.digest:  # it was never started
            back = self._store.restore()
            self._hold(waiting, why)
            found = f"release {waiting[:_SHOWN]} is taken back before it was started"
            self._say(Answer(order.ask, {"found": found, "release": back or ""}, ""))
        else:
            self._go_back(order.digest, why, order.ask)

    def _on_ended(self, ended: Ended) -> None:
        """Commit what is tried, or take it back, as its rollout has ended."""
        release = ended.release
        if not release or ended.outcome == "cancelled":
            return  # a cancelled one is taken back at the next start
        if release != self._store.trying:
            if ended.outcome == "rolled-back" and release != self._store.current:
                self._hold(release, ended.error)  # taken back by ``recover``, not knowing why
            return
        self._proposed = False
        if ended.outcome == "committed":
            self._commit(release)
            return
        self._leaving = None
        back = self._store.restore()
        self._note("release-restored", release=back or "", instead_of=release)
        self._hold(release, ended.error)
        self._hook("on_rollback", release, reason=ended.error)

    def _commit(self, release: str) -> None:
        self._store.commit()
        self._note("release-committed", release=release)
        if self._leaving:
            self._hold(*self._leaving)
            self._leaving = None
        with suppress(StoreError):  # the next one removes it
            self._store.prune()
        self._hook("post_upgrade", release)

    def _on_crashing(self, crashing: Crashing) -> None:
        if crashing.release == self._store.current and not self._store.trying:
            self._go_back("", crashing.reason, 0)
            self._hook("on_rollback", crashing.release, reason=crashing.reason)

    def _go_back(self, digest: str, why: str, ask: int) -> None:
        """Put a former release in place, and have it rolled out."""
        current, back = self._store.current, digest or self._store.previous
        if not back:
            raise StoreError(f"{self._store.path}: there is no release to go back to")
        back = self._store.bring_back(back)
        self._leaving = (current, why) if current else None
        self._note("release-restored", release=back, instead_of=current or "")
        self._proposed = True
        reason = f"back to release {back[:_SHOWN]}: {why}"
        self._say(Installed(back, reason, reversible=False, restart=True, ask=ask))

    def _hold(self, release: str, why: str) -> None:
        self._store.hold(release, why, time.time())
        self._note("release-held", release=release, reason=why)

    # -- looks -------------------------------------------------------------------------------------

    def _look(self, ask: int) -> None:
        """Look once, install what is new, and note how it was."""
        pause, away, found, error = self._scout.interval, 0.0, "", ""
        event = "fetch-failed"
        try:
            found = self._fetch(ask)
            self._vetoes = 0
        except FetchError as failure:
            error = str(failure)
            away = failure.retry_after or 0.0
        except VetoError as veto:
            error, event = str(veto), "release-vetoed"
            self._vetoes += 1
            pause = min(pause * 2.0 ** min(self._vetoes - 1, 16), max(pause, _LONGEST_PAUSE))
        except (OverseerError, OSError) as failure:
            error = str(failure)
        except Exception as failure:  # noqa: BLE001 - a plug-in raises what it likes
            error = f"{type(failure).__name__}: {failure}"
        if error and error != self._error:
            self._note(event, url=self._scout.shown, reason=error)
        elif self._error and not error:
            self._note("fetch-recovered", url=self._scout.shown)
        self._error = error
        self._checked_at = time.time()
        if self._store.current is None:
            pause = min(pause, _UNBORN)
        pause *= random.uniform(0.9, 1.1)  # noqa: S311 - so that not all come at once
        self._next_at = self._checked_at + max(1.0, pause, away)
        if ask and (found or error):
            result = {} if error else {"found": found}
            self._say(Answer(ask, result, error))

    def _fetch(self, ask: int) -> str:
        """Install what is new; return why there is nothing to do, empty if there was."""
        candidate = self._scout.look(self._store.known)
        if isinstance(candidate, str):
            return candidate
        with self._store.stage() as staging, staging.create("artifact") as artifact:
            self._scout.download(candidate, artifact)
            digest = verify.sha256(artifact)
            if verdict := self._known_verdict(digest):
                self._scout.judge(candidate, verdict)
                return verdict
            self._note("release-found", release=digest, name=candidate.name)
            version, signed = verified(artifact, digest, candidate, self._demands, self._scout.read)
            self._check_not_older(version, signed=signed)
            staged = unpacked(artifact, candidate, staging.path, self._demands)
            known = self._scout.known(candidate) | ({_SIGNED: version} if signed else {})
            self._install(staged, digest, Facts(time.time(), version, known), ask)
        return ""

    def _check_not_older(self, version: str, *, signed: bool) -> None:
        if self._demands.allow_downgrade:
            return
        if _SIGNED in self._store.known and not signed:  # a tag can be put on an old one
            raise VetoError(
                "its signature states no version, but that of what is installed does; "
                "--allow-downgrade"
            )
        versions.check_not_older(self._installed_version(), version)

    def _known_verdict(self, digest: str) -> str:
        """Return why a release is not installed again; empty if it is new."""
        if digest in (self._store.current, self._store.trying):
            return f"nothing new: {digest[:_SHOWN]} is installed"
        if held := self._store.held.get(digest):
            return f"{digest[:_SHOWN]} is held: {held.reason}"
        return ""

    def _install(self, staged: str, digest: str, about: Facts, ask: int) -> None:
        version = about.version
        facts = {**self._facts(digest), "version": version, "staged": staged}
        try:
            checked(staged, self._demands, facts)
        except VetoError as veto:
            self._hold(digest, str(veto))  # the same bytes would fail again
            raise
        if why := self._run("pre_upgrade", facts):
            raise VetoError(why)
        if self._store.trying and not self._store.restore():  # it waited for a restart
            self._store.commit()
        previous = self._store.current
        self._store.install(staged, digest, about)
        self._scout.forget()
        self._note("release-installed", release=digest, version=version)
        name = f"{version} " if version else ""
        self._proposed = not self._settings["no_restart_after_fetch"]
        reason = f"release {name}{digest[:_SHOWN]}"
        reversible = previous is not None
        self._say(Installed(digest, reason, reversible, self._proposed, ask))

    def _installed_version(self) -> str:
        current = self._store.current
        found = (each for each in self._store.releases if each.digest == current)
        return next((each.facts.version for each in found), "")

    # -- what is said ------------------------------------------------------------------------------

    def _recover(self) -> None:
        try:
            found = self._store.recover(self._running)
            self._proposed = self._store.trying is not None
        except OverseerError as error:
            self._note("store-failed", reason=str(error))
            return
        if found.complaint:
            self._note("store-failed", reason=found.complaint)
        if found.restored:
            self._note("release-restored", release=found.restored, reason="it was being tried")

    def _hook(self, name: str, release: str, **facts: str) -> None:
        if why := self._run(name, {**self._facts(release), **facts}):
            self._note("hook-failed", reason=why)

    def _run(self, name: str, facts: Mapping[str, str]) -> str:
        command = str(self._settings[name])
        return hooks.run(name.replace("_", "-"), command, facts) if command else ""

    def _facts(self, release: str) -> dict[str, str]:
        return {
            "name": str(self._settings["name"]),
            "path": self._store.path,
            "release": release,
            "previous_release": self._store.previous or "",
        }

    def _tell_standing(self) -> None:
        store = self._store
        self._say(
            Standing(
                store.current or "",
                store.previous or "",
                tuple(store.held)[-100:],
                self._scout.shown,
                self._checked_at,
                self._next_at,
                self._error,
            )
        )

    def _note(self, event: str, **facts: str) -> None:
        self._say(Note(event, facts))
