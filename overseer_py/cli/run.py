"""``overseer run``: from the command line to a running master."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace

import click

from overseer_py import instance, snapshot
from overseer_py.cli.options import SERVICE, service_options
from overseer_py.cli.say import say
from overseer_py.config import Sources
from overseer_py.errors import OverseerError
from overseer_py.recipe import logical_directory
from overseer_py.snapshot import Snapshot
from overseer_py.supervisor import Supervisor
from overseer_py.system import reexec
from overseer_py.system.custody import Legacy

EXAMPLES = """\b
Examples:
  overseer run --listen :8000 -- uvicorn --fd {fd} app:app
  overseer run --listen :8000 --workers 2 --ready http:/health -- node server.js
  overseer run --listen unix:/run/app.sock?mode=0660 -- gunicorn app:app
  overseer run --adopt 127.0.0.1:8000 -- python3 -m http.server 8000
  overseer run --listen :80 --drain-signal QUIT --env 'NGINX=3;' -- nginx -g 'daemon off;'

\b
Then, to replace the program without losing a request:
  overseer restart        # or: kill -USR2 PID-OF-THE-MASTER

Every option is also a key of overseer.toml and a variable OVERSEER_<OPTION>.  Durations are
written 500ms, 1.5s, 2m, 1h or a bare number of seconds.
"""


@click.command(epilog=EXAMPLES, context_settings=SERVICE)
@service_options
def run(sources: Sources) -> None:
    """Run a program, keep it running, replace it without loss.

    The master binds the listeners and keeps its PID; workers inherit them as fds 3, 4, …
    """
    raise SystemExit(start(sources))


def start(sources: Sources) -> int:
    """Start a master from these sources and return its exit status, once it has ended."""
    keep_descriptors_private()
    environ = {k: v for k, v in sources.environ.items() if k not in reexec.VARIABLES}
    own = replace(sources, environ=environ)
    try:
        if state := sources.environ.get(reexec.STATE):
            return go_on(own, int(state), rehearsal=reexec.REHEARSAL in sources.environ)
        return begin(own)
    except OverseerError as error:
        say(str(error))
        return error.exit_status
    except OSError as error:
        say(f"{error.filename or 'the system'}: {error.strerror}")
        return 1


def begin(sources: Sources) -> int:
    """Open everything, and run the service."""
    config = sources.load()
    settings = config.settings
    for warning in config.warnings:
        click.echo(f"overseer: warning: {warning}", err=True)
    directory = logical_directory(sources.environ)
    claim = instance.claim(settings.name, settings.control, sources.environ)
    pid_file = ""
    try:
        left = instance.left_behind(claim, settings.orphans)
        kept = accept(left, claim) if left and claim else None
        supervisor = Supervisor(sources, settings, directory, kept)
        try:
            if kept:
                supervisor.resume(kept)
            else:
                supervisor.open(config)
            if settings.pid_file:
                instance.write_pid_file(settings.pid_file)
                pid_file = settings.pid_file
            if kept and left:
                supervisor.adopt(kept, config)
                left.settle()
            else:
                supervisor.start(claim)
            return supervisor.run()
        finally:
            supervisor.close()
    finally:
        leave(claim, pid_file)


def accept(left: Legacy, claim: instance.Claim) -> Snapshot | None:
    """Return the state that a dead master has left; None if it cannot be gone on with: it ends."""
    try:
        kept = snapshot.decode(left.state)
        why = "the service was stopping" if kept.fleet.is_stopping else ""
    except OverseerError as error:
        why = str(error)
    if why:
        click.echo(f"overseer: warning: what a dead master has left is ended: {why}", err=True)
        left.refuse()
        return None
    left.accept()
    return kept.inherited(claim)


def go_on(sources: Sources, state: int, *, rehearsal: bool) -> int:
    """Go on as an earlier image of this master; in a rehearsal, only as far as nobody notices."""
    kept = snapshot.decode(reexec.read_back(state))
    settings = kept.plans.plans[kept.plans.plan].settings
    supervisor = Supervisor(sources, settings, kept.start_directory, kept)
    supervisor.resume(kept)
    if rehearsal:
        os._exit(0)  # nothing is closed, for all of it is another's
    try:
        supervisor.go_on(kept)
        return supervisor.run()
    finally:
        supervisor.close()
        leave(kept.claim.claim() if kept.claim else None, settings.pid_file)


def leave(claim: instance.Claim | None, pid_file: str) -> None:
    """Give up what others know this master by."""
    if pid_file:
        instance.remove_pid_file(pid_file)
    if claim:
        claim.give_up()


def keep_descriptors_private() -> None:
    """Make every inherited descriptor but stdio close-on-exec: a worker gets what it is given."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:  # noqa: PLR2004
            with suppress(OSError):
                os.set_inheritable(int(name), False)
