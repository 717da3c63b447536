"""``overseer run``: from the command line to a running master."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

from overseer_py import instance
from overseer_py.cli.say import say
from overseer_py.config import OPTIONS, Sources
from overseer_py.errors import OverseerError
from overseer_py.recipe import logical_directory
from overseer_py.settings import Option
from overseer_py.supervisor import Supervisor

EXAMPLES = """\b
Examples:
  overseer run --listen :8000 -- uvicorn --fd {fd} app:app
  overseer run --listen :8000 --workers 2 --ready http:/health -- node server.js
  overseer run --listen unix:/run/app.sock?mode=0660 -- gunicorn app:app
  overseer run --listen :80 --drain-signal QUIT --env 'NGINX=3;' -- nginx -g 'daemon off;'

\b
Then, to replace the program without losing a request:
  kill -USR2 PID-OF-THE-MASTER

Every option is also a key of overseer.toml and a variable OVERSEER_<OPTION>.  Durations are
written 500ms, 1.5s, 2m, 1h or a bare number of seconds.
"""

Command = Callable[..., Any]


def _options(command: Command) -> Command:
    """Give the command an option for each setting; what they mean is config.py's business."""
    for key, option in reversed(OPTIONS.items()):
        command = _option(key, option)(command)
    return command


def _option(key: str, option: Option) -> Callable[[Command], Command]:
    names = [f"-{option.short}"] * bool(option.short) + ["--" + key.replace("_", "-")]
    if option.flag:
        return click.option(*names, key, is_flag=True, help=option.help)
    metavar = option.metavar or key.upper()
    text = f"{option.help}  [{option.shown}]" if option.shown else option.help
    return click.option(*names, key, multiple=option.repeat, metavar=metavar, help=text)


@click.command(
    epilog=EXAMPLES,
    options_metavar="[OPTIONS]",
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
)
@click.option(
    "--config", metavar="FILE", default="", help="Read this file.  [overseer.toml, if there]"
)
@_options
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] COMMAND [ARG …]")
def run(config: str, command: tuple[str, ...], **flags: Any) -> None:  # noqa: ANN401 - by OPTIONS
    """Run COMMAND, keep it running, and replace it on request without losing a connection.

    The master binds the listeners and keeps its PID; workers inherit them as fds 3, 4, …
    """
    given = {key: value for key, value in flags.items() if value not in (None, False, ())}
    environ = dict(os.environ)
    raise SystemExit(start(Sources(given, command, environ, config)))


def start(sources: Sources) -> int:
    """Start a master from these sources and return its exit status, once it has ended."""
    keep_descriptors_private()
    claim = None
    pid_file = ""
    try:
        config = sources.load()
        settings = config.settings
        for warning in config.warnings:
            click.echo(f"overseer: warning: {warning}", err=True)
        directory = logical_directory(sources.environ)
        claim = instance.claim(settings.name, settings.control, sources.environ)
        supervisor = Supervisor(sources, config, directory)
        try:
            if settings.pid_file:
                instance.write_pid_file(settings.pid_file)
                pid_file = settings.pid_file
            status = supervisor.run(claim)
        finally:
            supervisor.close()
    except OverseerError as error:
        say(str(error))
        status = error.exit_status
    except OSError as error:
        say(f"{error.filename or 'the system'}: {error.strerror}")
        status = 1
    finally:
        if pid_file:
            instance.remove_pid_file(pid_file)
        if claim:
            claim.give_up()
    return status


def keep_descriptors_private() -> None:
    """Make every inherited descriptor but stdio close-on-exec: a worker gets what it is given."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:  # noqa: PLR2004
            with suppress(OSError):
                os.set_inheritable(int(name), False)
