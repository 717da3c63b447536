"""Everything that can be set, each option once: its key, default, meaning and how it is read.

The command line, the environment and the file are all made from these fields (config.py).
"""

# ruff: noqa: RUF009 - every default is made by option.opt, which is dataclasses.field with an Option

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import PurePath

from overseer_py import dialects, option, values
from overseer_py.core.policy import Canary, OnExit, Policy
from overseer_py.option import LONGEST_NAME
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
SCRIPTS = (".py", ".pyz", ".js", ".mjs", ".cjs", ".ts", ".rb", ".pl", ".php", ".sh")


@dataclass(frozen=True, slots=True)
class Settings:
    """One service as the user described it; times in seconds."""

    name: str = option.opt(
        "", "Names the instance.", option.a_name, short="n", shown="the program's stem"
    )
    listen: tuple[str, ...] = option.opt(
        (),
        "A listener; the i-th is fd 3+i in the worker.  HOST:PORT, :PORT, [V6]:PORT, "
        "unix:/path, udp:HOST:PORT, fd:NAME.",
        option.an_address,
        metavar="[NAME=]ADDR",
        short="l",
        repeat=True,
    )
    adopt: tuple[str, ...] = option.opt(
        (),
        "A listener that the program binds for itself: HOST:PORT, :PORT, [V6]:PORT, unix:/path, or "
        "auto for every fixed TCP port that it binds.",
        option.an_adopted_address,
        metavar="[NAME=]ADDR|auto",
        repeat=True,
    )
    workers: int = option.opt(
        1, "Workers in the current generation.", values.workers, metavar="N", short="w"
    )
    ready: ReadyRule = option.opt(
        ReadyRule("auto"),
        "When a worker is ready: auto, accept[:NAME,…], notify, fd, http:[NAME]/path, "
        "exec:COMMAND or delay:D.",
        values.ready_rule,
        metavar="RULE",
    )
    ready_timeout: float = option.opt(
        60.0, "Not ready by then: it has failed.", values.duration, metavar="D"
    )
    settle: float = option.opt(
        0.0, "A new generation must stay ready this long.", values.duration, metavar="D"
    )
    surge: int | None = option.opt(
        None,
        "Extra workers that a rollout may run at once: all, a number (in batches), or "
        "exclusive (the old go first while connections wait).",
        values.surge,
        metavar="all|N|exclusive",
        shown="all",
    )
    handover: str = option.opt(
        "steered",
        "steered: each generation has sockets of its own, and new connections go to a new one "
        "once it is proven; shared: all generations accept from the same.",
        option.one_of("steered", "shared"),
        metavar="steered|shared",
        shown="steered where possible",
    )
    canary: tuple[int, float] | None = option.opt(
        None,
        "Let this share of new connections try the new generation for so long.",
        values.canary,
        metavar="PERCENT:D",
    )
    quiet_timeout: float = option.opt(
        5.0,
        "Steered: how long an old worker may finish what it has before it is asked to drain.",
        values.duration,
        metavar="D",
    )
    close_idle: bool = option.opt(
        False, "Steered: close an old worker's idle kept-alive connections for it.", flag=True
    )
    drain_signal: signal.Signals | None = option.opt(
        None,
        "Asks a worker to drain.",
        values.signal_number,
        metavar="SIG",
        shown="TERM; what --inherit says",
    )
    drain_timeout: float = option.opt(
        30.0, "Then SIGKILL to its group.", values.duration, metavar="D"
    )
    stop_delay: float = option.opt(
        0.0, "At stop: keep serving this long, then drain.", values.duration, metavar="D"
    )
    on_exit: OnExit = option.opt(
        OnExit.RESTART,
        "What an unexpected exit of a worker does.",
        option.on_exit,
        metavar="restart|exit",
    )
    backoff: float = option.opt(
        0.5, "First delay before a crashed worker's respawn.", values.duration, metavar="D"
    )
    backoff_limit: float = option.opt(
        30.0, "The delay doubles up to this.", values.duration, metavar="D"
    )
    max_crashes: int = option.opt(
        0, "Give up after so many in a row; 0: never.", values.count, metavar="N"
    )
    restart_signal: signal.Signals = option.opt(
        signal.SIGUSR2, "Asks the master for a rollout.", values.signal_number, metavar="SIG"
    )
    chdir: str = option.opt(
        "",
        "Run workers here; links are resolved anew for every generation.",
        metavar="DIR",
        shown="$PWD",
    )
    env: tuple[tuple[str, str], ...] = option.opt(
        (), "A variable for the workers.", option.variable, metavar="K=V", repeat=True
    )
    env_file: tuple[str, ...] = option.opt(
        (),
        "Variables for the workers, read anew for every generation.",
        metavar="FILE",
        repeat=True,
    )
    env_dir: tuple[str, ...] = option.opt(
        (),
        "Variables for the workers, a file each (envdir), read anew for every generation.",
        metavar="DIR",
        repeat=True,
    )
    user: str = option.opt("", "Run workers as this user.", metavar="USER")
    group: str = option.opt("", "Run workers as this group.", metavar="GROUP")
    umask: int | None = option.opt(
        None, "File mode mask of the workers.", values.mode, metavar="MODE"
    )
    inherit: tuple[str, ...] = option.opt(
        ("systemd",),
        "Conventions that the program is written for, beside systemd's: "
        + ", ".join(dialects.DIALECTS[1:])
        + ".",
        option.dialects,
        metavar="DIALECT,…",
    )
    probation: float = option.opt(
        30.0,
        "A crash loop so soon after a new release brings the previous one back.",
        values.duration,
        metavar="D",
    )
    watch: tuple[str, ...] = option.opt(
        (), "Roll out when this file, directory or glob changes.", metavar="PATH", repeat=True
    )
    debounce: float = option.opt(
        0.25, "What is watched must be still so long.", values.duration, metavar="D", shown="250ms"
    )
    fetch: str = option.opt(
        "",
        "Look here for new releases: file:/path, https://…, github:OWNER/REPO#ASSET, "
        "s3://BUCKET/KEY, or a plug-in's NAME:….",
        option.a_source,
        metavar="URL",
    )
    to: str = option.opt("", "Where a release is installed.", metavar="PATH")
    interval: float | None = option.opt(
        None, "Between two looks.", values.interval, metavar="D", shown="5m; file: 1s"
    )
    max_size: int = option.opt(
        1 << 30, "Of a release, as fetched and unpacked.", values.size, shown="1GiB"
    )
    sha256: str = option.opt(
        "", "What the bytes must be: a digest, or where a list of them is.", metavar="HEX|URL"
    )
    minisign: str = option.opt(
        "", "Who must have signed them (URL.minisig): a public key.", metavar="PUBKEY"
    )
    allow_downgrade: bool = option.opt(False, "Take a lower version, too.", flag=True)
    check: str = option.opt(
        "",
        "Run it with the path of a staged release; a failure vetoes.",
        option.a_command,
        metavar="COMMAND",
    )
    keep: int = option.opt(3, "Previous releases that stay.", values.count, metavar="N")
    min_age: float = option.opt(
        0.0, "Take no release that is younger.", values.duration, metavar="D"
    )
    no_restart_after_fetch: bool = option.opt(False, "Install, and wait to be asked.", flag=True)
    fetch_user: str = option.opt(
        "", "Read the source as this user, who owns nothing.", metavar="USER"
    )
    pre_upgrade: str = option.opt(
        "", "Run before an install; can veto.", option.a_command, metavar="COMMAND"
    )
    post_upgrade: str = option.opt("", "Run after a commit.", option.a_command, metavar="COMMAND")
    on_rollback: str = option.opt(
        "", "Run after a release was taken back.", option.a_command, metavar="COMMAND"
    )
    fdstore: bool = option.opt(
        False,
        "Keep listeners with systemd (FileDescriptorStoreMax=): while the master is restarted, "
        "or after a crash, connections wait for the next one.",
        flag=True,
    )
    orphans: str = option.opt(
        "drain",
        "What becomes of the workers when the master dies a sudden death: drain them, or adopt: "
        "they serve on, and the next master of this name takes them over.",
        option.one_of("drain", "adopt"),
        metavar="drain|adopt",
    )
    self_upgrade: bool = option.opt(
        False,
        "The master becomes the new version of overseer when another one is installed.",
        flag=True,
    )
    literal: bool = option.opt(
        False, "Leave {fd} and its like in the command as they are.", flag=True
    )
    pid_file: str = option.opt("", "Write the master's pid here.", metavar="FILE")
    control: str = option.opt(
        "", "Where this instance is known by its name, or none.", metavar="PATH|none"
    )
    log_format: str = option.opt(
        "auto",
        "auto, console, logfmt or json.",
        option.one_of("auto", "console", "logfmt", "json"),
        metavar="FORMAT",
    )
    log_level: str = option.opt(
        "info",
        "debug, info, warning or error.",
        option.one_of("debug", "info", "warning", "error"),
        metavar="LEVEL",
    )
    capture: bool = option.opt(False, "Read workers' output line by line and tag it.", flag=True)
    no_relay: bool = option.opt(
        False, "Hand stderr over untouched; no last lines are kept.", flag=True
    )
    command: tuple[str, ...] = ()

    @property
    def drains_at(self) -> signal.Signals:
        """What asks a worker to drain, be it chosen or what the program's convention has."""
        return self.drain_signal or dialects.drain_signal(self.inherit)

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
            probation=self.probation,
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
        if words[index - 1 : index] in (["-X"], ["-W"]):  # Python's options with a word of its own
            continue
        if word == "-m":
            return "".join(words[index + 1 : index + 2])
        if re.fullmatch(r"-[A-Za-z]*[ce]|--eval|--print", word):  # also ``bash -lc``
            return ""
        if not word.startswith("-"):
            return PurePath(word).name
    return ""
