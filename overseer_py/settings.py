"""Everything that can be set, each option once: its key, default, meaning and how it is read.

The command line, the environment and the file are all made from these fields (config.py).
"""

# ruff: noqa: RUF009 - every default is made by _opt, which is dataclasses.field with an Option

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from overseer_py import address, values
from overseer_py.core.policy import Canary, OnExit, Policy
from overseer_py.values import ReadyRule

INTERPRETERS = (
    "python",
    "pypy",
    "node",
    "ruby",
    "perl",
    "php",
    "bash",
    "sh",
    "dash",
    "deno",
    "bun",
)
LONGEST_NAME = 64
SCRIPTS = (".py", ".pyz", ".js", ".mjs", ".cjs", ".ts", ".rb", ".pl", ".php", ".sh")
DIALECTS = ("systemd",)


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


def _address(text: str) -> str:
    address.parse(text, 0)  # names need to know the others: config.py parses them all once more
    return text


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a parser that takes one of the given words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is not one of {', '.join(choices)}")
        return text

    return parse


def _on_exit(text: str) -> OnExit:
    return OnExit(one_of(*OnExit)(text))


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"{text!r} is not KEY=VALUE")
    return name, value


def _dialects(text: str) -> tuple[str, ...]:
    return tuple(one_of(*DIALECTS)(part.strip()) for part in text.split(","))


def _name(text: str) -> str:
    if len(text) > LONGEST_NAME or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*", text):
        raise ValueError(f"{text!r} cannot be a name: up to 64 letters, digits, '.', '_', '-', '@'")
    return text


def _opt(default: Any, help: str, parse: Callable[[str], object] = str, **how: Any) -> Any:  # noqa: A002, ANN401
    metadata = {"option": Option(help, parse, **{"shown": as_written(default), **how})}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Settings:
    """One service as the user described it; times in seconds."""

    name: str = _opt("", "Names the instance.", _name, short="n", shown="the program's stem")
    listen: tuple[str, ...] = _opt(
        (),
        "A listener; the i-th is fd 3+i in the worker.  HOST:PORT, :PORT, [V6]:PORT, "
        "unix:/path, udp:HOST:PORT, fd:NAME.",
        _address,
        metavar="[NAME=]ADDR",
        short="l",
        repeat=True,
    )
    workers: int = _opt(
        1, "Workers in the current generation.", values.workers, metavar="N", short="w"
    )
    ready: ReadyRule = _opt(
        ReadyRule("auto"),
        "When a worker is ready: auto, accept[:NAME,…], notify, fd, http:[NAME]/path, "
        "exec:COMMAND or delay:D.",
        values.ready_rule,
        metavar="RULE",
    )
    ready_timeout: float = _opt(
        60.0, "Not ready by then: it has failed.", values.duration, metavar="D"
    )
    settle: float = _opt(
        0.0, "A new generation must stay ready this long.", values.duration, metavar="D"
    )
    surge: int | None = _opt(
        None,
        "Extra workers that a rollout may run at once: all, a number (in batches), or "
        "exclusive (the old go first while connections wait).",
        values.surge,
        metavar="all|N|exclusive",
        shown="all",
    )
    handover: str = _opt(
        "steered",
        "steered: each generation has sockets of its own, and new connections go to a new one "
        "once it is proven; shared: all generations accept from the same.",
        one_of("steered", "shared"),
        metavar="steered|shared",
        shown="steered where possible",
    )
    canary: tuple[int, float] | None = _opt(
        None,
        "Let this share of new connections try the new generation for so long.",
        values.canary,
        metavar="PERCENT:D",
    )
    quiet_timeout: float = _opt(
        5.0,
        "Steered: how long an old worker may finish what it has before it is asked to drain.",
        values.duration,
        metavar="D",
    )
    close_idle: bool = _opt(
        False, "Steered: close an old worker's idle kept-alive connections for it.", flag=True
    )
    drain_signal: signal.Signals = _opt(
        signal.SIGTERM, "Asks a worker to drain.", values.signal_number, metavar="SIG"
    )
    drain_timeout: float = _opt(30.0, "Then SIGKILL to its group.", values.duration, metavar="D")
    stop_delay: float = _opt(
        0.0, "At stop: keep serving this long, then drain.", values.duration, metavar="D"
    )
    on_exit: OnExit = _opt(
        OnExit.RESTART,
        "What an unexpected exit of a worker does.",
        _on_exit,
        metavar="restart|exit",
    )
    backoff: float = _opt(
        0.5, "First delay before a crashed worker's respawn.", values.duration, metavar="D"
    )
    backoff_limit: float = _opt(30.0, "The delay doubles up to this.", values.duration, metavar="D")
    max_crashes: int = _opt(
        0, "Give up after so many in a row; 0: never.", values.count, metavar="N"
    )
    restart_signal: signal.Signals = _opt(
        signal.SIGUSR2, "Asks the master for a rollout.", values.signal_number, metavar="SIG"
    )
    chdir: str = _opt(
        "",
        "Run workers here; links are resolved anew for every generation.",
        metavar="DIR",
        shown="$PWD",
    )
    env: tuple[tuple[str, str], ...] = _opt(
        (), "A variable for the workers.", _variable, metavar="K=V", repeat=True
    )
    env_file: tuple[str, ...] = _opt(
        (),
        "Variables for the workers, read anew for every generation.",
        metavar="FILE",
        repeat=True,
    )
    user: str = _opt("", "Run workers as this user.", metavar="USER")
    group: str = _opt("", "Run workers as this group.", metavar="GROUP")
    umask: int | None = _opt(None, "File mode mask of the workers.", values.mode, metavar="MODE")
    inherit: tuple[str, ...] = _opt(
        ("systemd",), "Socket-passing conventions for the workers.", _dialects, metavar="DIALECT,…"
    )
    pid_file: str = _opt("", "Write the master's pid here.", metavar="FILE")
    control: str = _opt(
        "", "Where this instance is known by its name, or none.", metavar="PATH|none"
    )
    log_format: str = _opt(
        "auto",
        "auto, console, logfmt or json.",
        one_of("auto", "console", "logfmt", "json"),
        metavar="FORMAT",
    )
    log_level: str = _opt(
        "info",
        "debug, info, warning or error.",
        one_of("debug", "info", "warning", "error"),
        metavar="LEVEL",
    )
    capture: bool = _opt(False, "Read workers' output line by line and tag it.", flag=True)
    no_relay: bool = _opt(False, "Hand stderr over untouched; no last lines are kept.", flag=True)
    command: tuple[str, ...] = ()

    def policy(self, *, steered: bool, parked: bool) -> Policy:
        """Return what the core needs to know, of these settings and of the listeners."""
        return Policy(
            steered=steered,
            parked=parked,
            canary=Canary(*self.canary) if self.canary else None,
            quiet_timeout=self.quiet_timeout,
            ready_timeout=self.ready_timeout,
            settle=self.settle,
            drain_timeout=self.drain_timeout,
            stop_delay=self.stop_delay,
            surge=self.surge,
            backoff=self.backoff,
            backoff_limit=self.backoff_limit,
            max_crashes=self.max_crashes,
            on_exit=self.on_exit,
        )


def stem(command: tuple[str, ...]) -> str:
    """Return the name of the program: ``python app.py`` → app, ``python -m x.y`` → x.y."""
    program, *rest = command
    name = PurePath(program).name
    if name.rstrip("0123456789.") in INTERPRETERS:
        name = _script(rest) or name
    name = PurePath(name).stem if name.endswith(SCRIPTS) else name
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:LONGEST_NAME] or "app"


def _script(words: list[str]) -> str:
    """Return the script or module that an interpreter is given; empty for code on the spot."""
    for index, word in enumerate(words):
        if word == "-m":
            return "".join(words[index + 1 : index + 2])
        if re.fullmatch(r"-[A-Za-z]*[ce]|--eval|--print", word):  # also ``bash -lc``
            return ""
        if not word.startswith("-"):
            return PurePath(word).name
    return ""
