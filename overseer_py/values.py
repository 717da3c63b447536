"""How values are written: durations, signals, sizes of a surge, file modes, readiness rules.

Pure.  Each parser takes the text as the user wrote it and raises ``ValueError`` with what would
have been right; the caller adds the name of the key.
"""

from __future__ import annotations

import re
import shlex
import signal
from typing import NamedTuple

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|s|m|h|)")
_LONGEST = 366 * 24 * 3600.0  # a year: longer ones are typing errors, and overflow timers

_SIZE = re.compile(r"(\d{1,15})\s*([KMGTkmgt]?)(?:i?B)?")
UNCATCHABLE = {signal.SIGKILL, signal.SIGSTOP}
READY_RULES = ("auto", "accept", "notify", "fd", "http", "exec", "delay")


def duration(text: str) -> float:
    """Return seconds: ``500ms``, ``1.5s``, ``2m``, ``1h`` or a bare number of seconds."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write 500ms, 1.5s, 2m, 1h or seconds")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > _LONGEST:
        raise ValueError(f"{text!r} is more than a year")
    return seconds


def interval(text: str) -> float:
    """Return seconds between two looks; a source is not looked at more than once a second."""
    seconds = duration(text)
    if seconds < 1:
        raise ValueError(f"{text!r} is under 1s")
    return seconds


def size(text: str) -> int:
    """Return bytes: ``1GiB``, ``500M`` (both of 1024), or a bare number."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write 500MiB, 1GiB or bytes")
    return int(match[1]) << 10 * (" KMGT".find(match[2].upper() or " "))


def source(text: str) -> str:
    """Return a URL: ``SCHEME:…``; what the scheme means, only the updater knows."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+._-]*:\S+", text):
        raise ValueError(f"{text!r} is not a source; write https://…, github:OWNER/REPO#ASSET …")
    return text


def count(text: str, least: int = 0, most: int = 1_000_000) -> int:
    """Return a whole number within bounds."""
    if not re.fullmatch(r"\d{1,9}", text.strip()) or not least <= int(text) <= most:
        raise ValueError(f"{text!r} is not a whole number from {least} to {most}")
    return int(text)


def workers(text: str) -> int:
    """Return a number of workers."""
    return count(text, 1, 1024)


def signal_number(text: str) -> signal.Signals:
    """Return a signal by its name (``TERM``, ``SIGTERM``) or number."""
    name = text.strip().upper()
    try:
        number = (
            signal.Signals(int(name))
            if name.isdigit()
            else signal.Signals["SIG" + name.removeprefix("SIG")]
        )
    except (KeyError, ValueError):
        raise ValueError(f"{text!r} is not a signal; write TERM, QUIT, INT, USR1 …") from None
    if number in UNCATCHABLE:
        raise ValueError(f"{number.name} cannot be caught; choose another signal")
    return number


def surge(text: str) -> int | None:
    """Return the extra workers of a rollout: None for ``all``, 0 for ``exclusive``, or N."""
    match text.strip():
        case "all":
            return None
        case "exclusive":
            return 0
        case number:
            try:
                return count(number, 1, 1024)
            except ValueError:
                raise ValueError(f"{text!r} is not a surge; write all, exclusive or 1 …") from None


def canary(text: str) -> tuple[int, float]:
    """Return a share in per cent and seconds: ``10%:30s``, ``10:30s``."""
    percent, colon, seconds = text.strip().partition(":")
    if not colon:
        raise ValueError(f"{text!r} is no canary; write PERCENT:DURATION, such as 10%:30s")
    return count(percent.removesuffix("%"), 1, 99), duration(seconds)


def mode(text: str) -> int:
    """Return permission bits written in octal: ``0660``, ``660`` or ``0o660``."""
    digits = text.strip().removeprefix("0o")
    if not re.fullmatch(r"[0-7]{1,4}", digits):
        raise ValueError(f"{text!r} is not an octal mode such as 0660")
    return int(digits, 8)


class ReadyRule(NamedTuple):
    """A readiness rule: its kind and what was written behind the colon."""

    kind: str
    argument: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.argument}" if self.argument else self.kind


def ready_rule(text: str) -> ReadyRule:
    """Return the readiness rule that the text names."""
    kind, colon, argument = text.strip().partition(":")
    if kind not in READY_RULES:
        rules = "auto, accept[:NAME,…], notify, fd, http:[NAME]/path, exec:COMMAND, delay:D"
        raise ValueError(f"{text!r} is not a readiness rule; write one of {rules}")
    if kind in ("auto", "notify", "fd") and colon:
        raise ValueError(f"{kind} takes no argument")
    if kind == "http" and "/" not in argument:
        raise ValueError(f"{text!r} names no path; write http:/health or http:NAME/health")
    if kind == "exec" and not shlex.split(argument):  # ValueError: a quotation is not closed
        raise ValueError("exec names no command; write exec:COMMAND")
    if kind == "delay":
        duration(argument)
    return ReadyRule(kind, argument)
