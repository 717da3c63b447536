"""Events as people like to read them: one sentence each."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

Event = dict[str, Any]


def sentence(event: Event) -> str:
    """Return an event as a sentence; one that is not known here, as its name and facts."""
    write = _SENTENCES.get(event.get("event", ""))
    try:
        return printable(write(_Facts(event)) if write else _plain(event))
    except (KeyError, TypeError):  # of a master that is newer or older than this
        return printable(_plain(event))


def clock(event: Event) -> str:
    """Return the local time of an event, to the millisecond."""
    at = datetime.fromisoformat(event["timestamp"]).astimezone()
    return at.strftime("%H:%M:%S.") + f"{at.microsecond // 1000:03}"


def tail(event: Event, most: int = 100) -> list[str]:
    """Return the last lines of a worker's stderr that came with an event, set out."""
    return [f"  │ {printable(line)}" for line in event.get("stderr_tail", [])[-most:]]


def printable(text: str) -> str:
    """Return a text that does nothing to a terminal but stand there."""
    return "".join(c if c.isprintable() or c == "\t" else "�" for c in text)


class _Facts(Event):
    """The facts of an event, and the ways to speak of them."""

    @property
    def who(self) -> str:
        """The worker, without the number of its launch."""
        return str(self["worker"]).partition("#")[0]

    @property
    def sender(self) -> str:
        """Who sent it."""
        if "pid" not in self:
            return "the kernel"
        return f"pid {self['pid']} ({self.get('command', '')})"


def _waits(e: _Facts) -> str:
    count = e["connections"]
    oldest = f", oldest {e['oldest']:.0f} s" if count else ""
    return f"{e['state']} {e.who}: {count} connection{'' if count == 1 else 's'}{oldest}"


def _stopping(e: _Facts) -> str:
    if not e["drain"]:
        return "stopping at once"
    return f"stopping in {e['delay']:g} s" if e["delay"] else "stopping"


def _plain(event: Event) -> str:
    facts = [
        f"{key}={value}"
        for key, value in event.items()
        if key not in ("timestamp", "event", "stderr_tail")
    ]
    return " ".join([str(event.get("event")), *facts])


_SENTENCES: dict[str, Callable[[_Facts], str]] = {
    "service-starting": lambda e: f"generation {e['generation']} starts",
    "service-ready": lambda e: f"service ready after {e['took']:.2f} s",
    "rollout-started": lambda e: f"generation {e['generation']} rolls out ({e['reason']})",
    "rollout-queued": lambda e: f"rollout queued behind the present one ({e['reason']})",
    "rollout-superseded": lambda e: f"queued rollout ({e['reason']}) superseded by {e['by']}",
    "rollout-refused": lambda e: f"rollout refused: {e['reason']}",
    "rollout-committed": lambda e: (
        f"generation {e['generation']} committed after {e['took']:.2f} s"
    ),
    "rollout-rolled-back": lambda e: f"generation {e['generation']} rolled back: {e['reason']}",
    "rollout-cancelled": lambda e: f"generation {e['generation']} cancelled: {e['reason']}",
    "generation-gone": lambda e: f"generation {e['generation']} gone",
    "generation-crowded-out": lambda e: (
        f"generation {e['generation']} killed: no more than {e['limit']} at a time"
    ),
    "batch-opened": lambda e: f"generation {e['generation']} goes on to {e['slots']} slots",
    "canary-started": lambda e: (
        f"generation {e['generation']} gets {e['percent']} % of new connections"
        f" for {e['seconds']:g} s"
    ),
    "worker-started": lambda e: f"{e.who} spawned, pid {e['pid']}",
    "worker-ready": lambda e: f"{e.who} ready",
    "worker-quieting": lambda e: f"{e.who} finishes what it has",
    "worker-draining": lambda e: f"{e.who} draining",
    "drain-waits": _waits,
    "quiet-timed-out": lambda e: f"{e.who} not quiet in time: {e.get('hint', '')}",
    "drain-timed-out": lambda e: f"{e.who} not drained in time, killed",
    "worker-late": lambda e: f"{e.who} {e['how']}: {e.get('hint', '')}".rstrip(": "),
    "worker-exited": lambda e: f"{e.who} {e['how']}",
    "worker-backoff": lambda e: (
        f"{e.who} starts again in {e['delay']:.1f} s, crash {e['crashes']} in a row"
    ),
    "scaled": lambda e: f"scaled to {e['workers']}",
    "signal": lambda e: f"signal {e['signal']} from {e.sender}",
    "command": lambda e: f"{e['method']} asked by {e.sender}",
    "stopping": _stopping,
    "gave-up": lambda e: f"gave up: {e['reason']}",
    "service-exited": lambda e: f"service exited: {e['reason']}",
    "probation-failed": lambda e: f"new release fails: {e['reason']}",
    "watching": lambda e: f"watching {e['paths']} ({e['files']} files)",
    "watch-polls": lambda e: f"looking at what is watched every second: {e['reason']}",
    "fetch-failed": lambda e: f"cannot fetch: {e['reason']}",
    "fetch-recovered": lambda e: f"{e['url']} can be read again",
    "release-found": lambda e: f"release {e['release'][:12]} found: {e['name']}",
    "release-vetoed": lambda e: f"release refused: {e['reason']}",
    "release-installed": lambda e: f"release {e['release'][:12]} {e['version']} installed",
    "release-committed": lambda e: f"release {e['release'][:12]} stays",
    "release-restored": lambda e: f"release {e['release'][:12]} is in place again",
    "release-held": lambda e: f"release {e['release'][:12]} held: {e['reason']}",
    "release-unheld": lambda e: f"release {e['release'][:12]} may be tried again",
    "hook-failed": lambda e: f"hook failed: {e['reason']}",
    "store-failed": lambda e: f"releases: {e['reason']}",
    "updater-started": lambda e: f"updater started, pid {e['pid']}",
    "updater-exited": lambda e: f"updater {e['how']}; it is started again",
    "reload-begun": lambda _: "configuration read anew",
    "reload-failed": lambda e: f"configuration refused: {e['reason']}",
    "reload-refused": lambda e: f"reload refused: {e['reason']}",
    "reloaded": lambda e: f"configuration changed: {', '.join(e['changed']) or 'nothing'}",
}
