"""``overseer init``: the service at hand, as a systemd unit or a section for supervisord."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator

import click

from overseer_py.cli.check import examine
from overseer_py.cli.options import SERVICE, service_options
from overseer_py.cli.say import say
from overseer_py.config import OPTIONS, VARIABLES, Config, Sources
from overseer_py.errors import OverseerError
from overseer_py.recipe import Resolved, logical_directory
from overseer_py.settings import Settings

_PRIVILEGED = 1024  # ports below need a capability
_MARGIN = 15  # seconds that the supervisor above waits beyond what the master itself allows
_LEAST_STORE = 8  # room for listeners that a reload adds
_BEFORE = 5  # seconds before it that a command gives up, so that it can say so
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Relative to where we are now.
_PATHS = ("env_file", "env_dir", "pid_file", "control", "to", "watch")
_PLAIN = re.compile(r"[A-Za-z0-9_@:,./=+{}-]+")

EXAMPLES = """\b
Examples:
  overseer init systemd --listen :8000 -- uvicorn --fd {fd} app:app >app.service
  overseer init supervisor --config /etc/overseer/app.toml
"""


@click.group(epilog=EXAMPLES)
def init() -> None:
    """Print a unit for systemd, or a section for supervisord.

    Takes what run takes, and looks every name up: paths are made absolute, and time-outs follow
    from those of the service.
    """


@init.command(context_settings=SERVICE)
@service_options
def systemd(sources: Sources) -> None:
    """Print a unit for systemd."""
    _print(sources, unit)


@init.command(context_settings=SERVICE)
@service_options
def supervisor(sources: Sources) -> None:
    """Print a program section for supervisord."""
    _print(sources, section)


def _print(sources: Sources, write: Callable[[Config, list[str], Resolved], str]) -> None:
    try:
        pinned = sources.pinned(logical_directory(sources.environ))
        config = pinned.load()
        found = examine(config, pinned)
        click.echo(write(config, list(_words(pinned, config.settings, found)), found), nl=False)
    except OverseerError as error:
        say(str(error))
        raise SystemExit(error.exit_status) from error


def unit(config: Config, words: list[str], found: Resolved) -> str:
    """Return a unit for systemd.service(5)."""
    settings = config.settings
    start = [_systemd(word) for word in words]
    start_timeout = _longest_start(settings)
    lines = [
        f"# {settings.name}.service, written by: overseer init systemd",
        "",
        "[Unit]",
        f"Description={settings.name}, run by overseer".replace("%", "%%"),
        "After=network.target",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "# Active when the first generation is ready; nobody but the master speaks to systemd.",
        "Type=notify",
        "NotifyAccess=main",
        *_identity(config),
        *[f'Environment="PATH={path}"'.replace("%", "%%") for path in _search_path(words, found)],
        "ExecStart=" + " \\\n    ".join(_lines(start)),
        *_reload(settings, start_timeout - _BEFORE),
        *_kill_mode(settings),
        "# Also of a reload, which waits for the drain.",
        f"TimeoutStartSec={start_timeout:g}s",
        f"TimeoutStopSec={settings.stop_delay + settings.drain_timeout + _MARGIN:g}s",
        "WatchdogSec=30s",
        "Restart=on-failure",
        "# 2: the configuration is wrong.  4: another overseer of that name runs.",
        "RestartPreventExitStatus=2 4",
        "RestartSec=1s",
        *_store(config),
        "OOMPolicy=continue",
        "# Where the instance can be talked to: overseer status",
        f"RuntimeDirectory=overseer/{settings.name}",
        "RuntimeDirectoryPreserve=restart",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "".join(f"{line}\n" for line in lines)


def section(config: Config, words: list[str], found: Resolved) -> str:
    """Return a program section for supervisord."""
    settings = config.settings
    lines = [
        f"; {settings.name}.conf, written by: overseer init supervisor",
        f";   supervisorctl signal SIGUSR2 {settings.name}    a new generation takes over",
        "",
        f"[program:{settings.name}]",
        f"command={_supervisor(words)}",
        *[f'environment=PATH="{path}"'.replace("%", "%%") for path in _search_path(words, found)],
        "numprocs=1",
        "autostart=true",
        "autorestart=unexpected",
        "; 2: the configuration is wrong.  4: another overseer of that name runs.  These are not",
        "; tried again, but for startsecs=0 they would be: an exit before it is always a failure.",
        "exitcodes=0,2,4",
        "startsecs=0",
        "stopsignal=TERM",
        f"stopwaitsecs={round(settings.stop_delay + settings.drain_timeout + _MARGIN)}",
        "; The group is the master: its workers have groups of their own, and end with it.",
        "stopasgroup=false",
        "killasgroup=true",
        "; The master's log and the workers' stderr.  Named, it outlives supervisord:",
        f"; stderr_logfile=/var/log/{settings.name}.log",
        "redirect_stderr=false",
    ]
    if os.geteuid() and "%" not in (user := _user()):
        lines.append(f"user={user}")
    return "".join(f"{line}\n" for line in lines)


def _longest_start(settings: Settings) -> float:
    """Return the seconds after which a start or a reload is stuck; the master gives up before."""
    canary = settings.canary[1] if settings.canary else 0.0
    return settings.ready_timeout + settings.settle + canary + 2 * _MARGIN


def _kill_mode(settings: Settings) -> Iterator[str]:
    yield "# TERM goes to the master alone, which drains the workers and exits last."
    if settings.orphans == "adopt":
        yield "# And if it dies they serve on, for the next one."
    yield "KillMode=" + ("mixed" if settings.orphans == "drain" else "process")


def _reload(settings: Settings, patience: float) -> Iterator[str]:
    if settings.control == "none":
        yield "# Returns at once: without a control socket nobody can be asked how it has ended."
        yield "ExecReload=/bin/kill -USR2 $MAINPID"
        return
    restart = " ".join(map(_systemd, [*_overseer(), "restart"]))
    yield "# Returns when the rollout has ended: 1 if it was rolled back; the old one serves on."
    yield "# At once, and 0 whatever comes of it:  ExecReload=/bin/kill -USR2 $MAINPID"
    yield f"ExecReload={restart} --pid $MAINPID --timeout {patience:g}s"


def _store(config: Config) -> Iterator[str]:
    if config.settings.fdstore:
        yield "# --fdstore: one more than listeners; a cut-over stores the new before the old goes."
        yield f"FileDescriptorStoreMax={max(_LEAST_STORE, 2 * len(config.addresses))}"


def _words(sources: Sources, settings: Settings, found: Resolved) -> Iterator[str]:
    """Yield the command line that runs this service from anywhere."""
    yield from _overseer()
    yield "run"
    if sources.file:
        yield from ("--config", os.path.normpath(sources.file))
    yield from ("--name", settings.name)
    for key, value in _given(sources, settings).items():
        if key not in ("name", "chdir"):
            yield from _flag(key, value)
    # Not WorkingDirectory=: a link in it is resolved anew for every generation.
    start = logical_directory(sources.environ)
    yield from ("--chdir", os.path.normpath(os.path.join(start, settings.chdir)))
    if sources.command:
        name, *arguments = sources.command
        yield from ("--", name if "/" in name else _program(found), *arguments)


def _given(sources: Sources, settings: Settings) -> dict[str, object]:
    """Return what flags and variables say, as flags: the service will not have the variables."""
    found: dict[str, object] = {}
    for variable, key in VARIABLES.items():
        if text := sources.environ.get(variable):
            option = OPTIONS[key]
            one = getattr(settings, key) if option.flag else text
            found[key] = tuple(shlex.split(text)) if option.repeat else one
    return found | dict(sources.flags)


def _program(found: Resolved) -> str:
    """Return where the program is, with its links; empty if there is none yet."""
    return found.program.path if found.program else ""


def _flag(key: str, value: object) -> Iterator[str]:
    flag = "--" + key.replace("_", "-")
    if isinstance(value, bool):
        if value:
            yield flag
        return
    for each in value if isinstance(value, tuple) else (value,):
        path = key in _PATHS and each != "none"
        yield from (flag, os.path.abspath(str(each)) if path else str(each))


def _overseer() -> list[str]:
    """Return how this very command is called, from anywhere."""
    if os.path.basename(sys.argv[0]) == "__main__.py":
        return [sys.executable, "-m", "overseer_py"]
    return [os.path.abspath(shutil.which(sys.argv[0]) or sys.argv[0])]


def _search_path(words: list[str], found: Resolved) -> Iterator[str]:
    """Yield a PATH if the file names a program that is found by one no supervisor has."""
    where = os.path.dirname(_program(found))
    if "--" not in words and "/" not in found.argv[0] and where not in _PATH.split(":"):
        yield f"{where}:{_PATH}"


def _identity(config: Config) -> Iterator[str]:
    if os.geteuid() == 0:
        yield "# As root.  Better: User=, of whom the program's files are."
        return
    yield f"User={_user()}"
    if any(0 < address.port < _PRIVILEGED for address in config.addresses):
        yield "AmbientCapabilities=CAP_NET_BIND_SERVICE"


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _lines(words: list[str]) -> Iterator[str]:
    """Yield the words of a command line, an option with its value on one line."""
    line: list[str] = []
    for index, word in enumerate(words):
        if word == "--":
            yield " ".join(line)
            yield " ".join(words[index:])
            return
        if word.startswith("--") and line:
            yield " ".join(line)
            line = []
        line.append(word)
    yield " ".join(line)


def _systemd(word: str) -> str:
    """Return a word as systemd.service(5), Command lines, has it."""
    safe = word.replace("%", "%%").replace("$", "$$")
    if _PLAIN.fullmatch(word):
        return safe
    quoted = safe.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{quoted}"'


def _supervisor(words: list[str]) -> str:
    """Return a command line as supervisord has it: a comment begins at `` ;`` in quotes, too."""
    return re.sub(r"(?<=\s)(?=[;#])", "''", shlex.join(words)).replace("%", "%%")
