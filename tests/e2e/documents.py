"""What documents for scripts are made of: each field with what it may be, and no other one."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

Document = dict[str, Any]


class Kind:
    """Equal to whatever it may be, so that a document is compared with its description."""

    def __init__(self, name: str, holds: Callable[[object], bool]) -> None:
        self._name = name
        self._holds = holds

    def __eq__(self, other: object) -> bool:
        return self._holds(other)

    def __hash__(self) -> int:
        return hash(self._name)

    def __repr__(self) -> str:
        return f"<{self._name}>"


def a(kind: type) -> Kind:
    """Any value of this very type: a bool is no int."""
    return Kind(kind.__name__, lambda value: type(value) is kind)


def one_of(*values: object) -> Kind:
    """One of these."""
    return Kind(f"one of {values}", lambda value: value in values)


def list_of(item: object) -> Kind:
    """Any number of such."""
    return Kind(
        f"list of {item}", lambda value: isinstance(value, list) and all(v == item for v in value)
    )


def maybe(kind: object) -> Kind:
    """Such a one, or null."""
    return Kind(f"{kind} or None", lambda value: value is None or value == kind)


def _is_recent(value: object) -> bool:
    form = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00"
    if not isinstance(value, str) or not re.fullmatch(form, value):
        return False
    at = datetime.fromisoformat(value)
    return abs(datetime.now(at.tzinfo) - at) < timedelta(hours=1)


TIME = Kind("recent time, RFC 3339 in UTC", _is_recent)
TEXT, NUMBER = a(str), a(int)

LISTENER = {
    "name": TEXT,
    "address": TEXT,
    "fd": maybe(NUMBER),
    "type": one_of("tcp", "udp", "unix"),
    "handover": one_of("steered", "shared"),
    "handover_reason": maybe(TEXT),
}
WORKER = {
    "pid": maybe(NUMBER),
    "slot": NUMBER,
    "generation": NUMBER,
    "state": one_of("starting", "ready", "quieting", "draining", "killed", "backoff"),
    "started_at": maybe(TIME),
    "ready_at": maybe(TIME),
    "rss_bytes": NUMBER,
    "cpu_percent": a(float),
    "connections": NUMBER,
    "crashes": NUMBER,
    "status": TEXT,
    "executable": maybe(TEXT),
    "directory": maybe(TEXT),
}
ROLLOUT = {
    "generation": NUMBER,
    "reason": TEXT,
    "started_at": TIME,
    "state": one_of("starting", "settling", "canary"),
    "canary_percent": maybe(NUMBER),
}
LAST_ROLLOUT = {
    "generation": NUMBER,
    "outcome": one_of("committed", "rolled-back", "superseded", "cancelled"),
    "reason": TEXT,
    "error": maybe(TEXT),
    "exit": maybe(NUMBER),
    "stderr_tail": list_of(TEXT),
    "started_at": TIME,
    "duration_s": a(float),
}
LAST_RELOAD = {
    "at": TIME,
    "outcome": maybe(one_of("refused", "committed", "rolled-back", "cancelled")),
    "error": maybe(TEXT),
    "generation": maybe(NUMBER),
    "changed": list_of(TEXT),
    "ignored": list_of(TEXT),
}
STATUS: Document = {
    "name": TEXT,
    "pid": NUMBER,
    "version": TEXT,
    "state": one_of("starting", "running", "rolling", "stopping", "degraded"),
    "started_at": TIME,
    "generation": maybe(NUMBER),
    "workers_wanted": NUMBER,
    "listeners": list_of(LISTENER),
    "workers": list_of(WORKER),
    "rollout": maybe(ROLLOUT),
    "last_rollout": maybe(LAST_ROLLOUT),
    "last_reload": maybe(LAST_RELOAD),
    "release": None,
    "previous_release": None,
    "held": [],
    "fetcher": None,
    "command": list_of(TEXT),
    "chdir": TEXT,
}
EVENT = {"timestamp": TIME, "event": TEXT}  # and the facts
LINE = {
    "timestamp": TIME,
    "generation": NUMBER,
    "slot": NUMBER,
    "pid": NUMBER,
    "stream": one_of("stdout", "stderr"),
    "line": TEXT,
}


def check_status(found: Document) -> None:
    """Assert that every field is there, each is what it may be, and there is no other one."""
    for worker in found["workers"]:
        assert worker == WORKER
    assert found == STATUS
