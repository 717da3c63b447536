"""The master's log: one fact a line, on stderr, and never waiting for whoever reads it.

``console`` is for people (last lines of a failed worker are set out below the fact), ``logfmt``
and ``json`` for machines.  Event names and keys are stable.
"""

from __future__ import annotations

import logging
import os
from collections.abc import MutableMapping
from typing import Any

import structlog

from overseer_py.system.outlet import Outlet

Log = structlog.typing.FilteringBoundLogger
EventDict = MutableMapping[str, Any]

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_TAIL = "stderr_tail"
_SHOWN = 20  # last lines that are set out on a console; status and json have them all


class _Writer:
    """What structlog writes its rendered lines to."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def msg(self, message: str) -> None:
        if self._outlet.dropped and not self._outlet.stuck:
            dropped, self._outlet.dropped = self._outlet.dropped, 0
            structlog.get_logger().warning("log-dropped", pieces=dropped)
        self._outlet.write(f"{message}\n".encode(errors="replace"))

    debug = info = warning = warn = error = critical = msg


def open_log(outlet: Outlet, form: str, level: str) -> Log:
    """Return the log in this form (see ``form_of``)."""
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *_renderer(form_of(form)),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: _Writer(outlet),
        cache_logger_on_first_use=True,
    )
    log: Log = structlog.get_logger()
    return log.bind()


def form_of(log_format: str) -> str:
    """Return the form itself; ``auto`` is ``console`` on a terminal and ``logfmt`` elsewhere."""
    if log_format != "auto":
        return log_format
    return "console" if os.isatty(2) else "logfmt"


def is_shown(level: str, of: str = "info") -> bool:
    """Whether facts of a level are written at the chosen one."""
    return LEVELS[level] <= LEVELS[of]


def _renderer(form: str) -> list[structlog.typing.Processor]:
    match form:
        case "json":
            render = structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
            return [_in_order, render]
        case "logfmt":
            first = ["timestamp", "level", "event"]
            return [_plain, structlog.processors.LogfmtRenderer(key_order=first)]
    return [
        _for_people,
        structlog.dev.ConsoleRenderer(colors=os.isatty(2), sort_keys=False),
    ]


def _in_order(_: object, __: str, event: EventDict) -> EventDict:
    """Put first what a reader looks for first."""
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return {**first, **event}


def _plain(_: object, __: str, event: EventDict) -> EventDict:
    """Make each value one that logfmt can hold."""
    return {key: _one_line(value) for key, value in event.items()}


def _one_line(value: object) -> object:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case list() | tuple():
            return "\n".join(map(str, value))  # the renderer escapes what ends a line
    return str(value)


def _for_people(_: object, __: str, event: EventDict) -> EventDict:
    """Set out the last lines of a worker below the fact, indented."""
    event["timestamp"] = str(event.get("timestamp", ""))[11:23]
    if lines := event.pop(_TAIL, None):
        event["exception"] = "\n".join(f"    │ {line}" for line in lines[-_SHOWN:])
    return event
