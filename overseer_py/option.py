"""How one setting is written, explained and read."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from overseer_py import address, values
from overseer_py.core.policy import OnExit
from overseer_py.dialects import DIALECTS
from overseer_py.release import places
from overseer_py.values import ReadyRule

AUTO = "auto"  # of adopt: every fixed TCP port that the program binds
LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Option:
    """How one setting is written and explained."""

    help: str
    parse: Callable[[str], object] = str
    metavar: str = ""
    short: str = ""
    repeat: bool = False
    flag: bool = False  # takes no value
    shown: str = ""  # the default as a user would say it, where its value does not


def as_written(value: object) -> str:
    """Return a default as the user would write it; empty if there is none."""
    match value:
        case None | False | () | "":
            return ""
        case float():
            return f"{value:g}s"
        case signal.Signals():
            return value.name.removeprefix("SIG")
        case ReadyRule():
            return str(value)
        case tuple():
            return ",".join(map(str, value))
    return str(value)


def an_address(text: str) -> str:
    """Return an address as it was written, once it is known to be one."""
    address.parse(text, 0)  # names need to know the others: config.py parses them all once more
    return text


def an_adopted_address(text: str) -> str:
    """Return an address that a program binds for itself, or ``auto``."""
    if text != AUTO:
        address.parse_adopted(text, 0)
    return text


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a parser that takes one of the given words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is not one of {', '.join(choices)}")
        return text

    return parse


def a_source(text: str) -> str:
    """Return where releases come from; of a plug-in's URL, the plug-in knows more."""
    scheme = values.source(text).partition(":")[0]
    places.CHECKS.get(scheme, str)(text)
    return text


def a_command(text: str) -> str:
    """Return a command line, as a shell would split it."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    if not words:
        raise ValueError(f"{text!r} is no command")
    return text


def on_exit(text: str) -> OnExit:
    """Return what an unexpected exit does."""
    return OnExit(one_of(*OnExit)(text))


def variable(text: str) -> tuple[str, str]:
    """Return a name and a value."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"{text!r} is not KEY=VALUE")
    return name, value


def dialects(text: str) -> tuple[str, ...]:
    """Return the conventions by which sockets are passed."""
    return tuple(one_of(*DIALECTS)(part.strip()) for part in text.split(","))


def a_name(text: str) -> str:
    """Return what can name an instance, and so a file."""
    if len(text) > LONGEST_NAME or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*", text):
        raise ValueError(f"{text!r} cannot be a name: up to 64 letters, digits, '.', '_', '-', '@'")
    return text


def opt(default: Any, help: str, parse: Callable[[str], object] = str, **how: Any) -> Any:  # noqa: A002, ANN401
    """Return a field of Settings: its default, what it means, and how it is written."""
    metadata = {"option": Option(help, parse, **{"shown": as_written(default), **how})}
    return field(default=default, metadata=metadata)
