"""All releases that are known, as people and scripts ask for them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from overseer_py.release.state import Release
from overseer_py.release.store import Store

_MOST, _LONGEST = 60, 200  # releases, and characters of a reason: a message has 64 KiB


def roll(store: Store) -> dict[str, Any]:
    """Return the releases that are installed, and those that are held, newest first."""
    kept = [_entry(store, release) for release in store.releases]
    there = {entry["digest"] for entry in kept}
    gone = [
        _line(digest, "held", reason=held.reason)
        for digest, held in reversed(list(store.held.items()))
        if digest not in there
    ]
    return {"releases": [*kept, *gone][:_MOST]}


def _entry(store: Store, release: Release) -> dict[str, Any]:
    facts = release.facts
    at = datetime.fromtimestamp(facts.installed_at, UTC).isoformat(timespec="milliseconds")
    version, reason = facts.version, release.held or ""
    return {
        **_line(release.digest, _state(store, release), version, reason),
        "installed_at": at,
        "size": facts.size,
    }


def _state(store: Store, release: Release) -> str:
    if release.digest == store.trying:
        return "trying"
    if release.digest == store.current:
        return "current"
    if release.held is not None:
        return "held"
    return "previous" if release.digest == store.previous else "kept"


def _line(digest: str, state: str, version: str = "", reason: str = "") -> dict[str, Any]:
    return {
        "digest": digest,
        "version": version,
        "state": state,
        "installed_at": "",
        "size": 0,
        "reason": reason[:_LONGEST],
    }
