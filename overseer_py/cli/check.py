"""``overseer check``: what is wrong with a service's description, without running it."""

from __future__ import annotations

from dataclasses import replace

import click

from overseer_py.address import Address, Kind
from overseer_py.cli.options import SERVICE, service_options
from overseer_py.cli.say import say
from overseer_py.config import Config, Sources
from overseer_py.errors import ConfigError, OverseerError
from overseer_py.handover import PLACEHOLDER, Inherited
from overseer_py.option import AUTO
from overseer_py.plans import is_to_be_fetched
from overseer_py.readiness import check as check_rule
from overseer_py.recipe import Resolved, logical_directory, resolve
from overseer_py.release import verify
from overseer_py.release.sources import check_url
from overseer_py.settings import Settings

EXAMPLES = """\b
Examples:
  overseer check                                    # overseer.toml in this directory
  overseer check --config /etc/overseer/app.toml
  overseer check --listen :8000 -- uvicorn --fd {fd} app:app
"""


@click.command(epilog=EXAMPLES, context_settings=SERVICE)
@service_options
def check(sources: Sources) -> None:
    """Check a service's configuration without running it.

    The file, the variables and the flags are read as run does; nothing is bound.  Every name is
    looked up: the program, the directory, users, files, the listeners that the command and the
    readiness rule name.  Ends with 2 if anything is wrong.
    """
    try:
        config = sources.load()
        found = examine(config, sources)
    except OverseerError as error:
        say(str(error))
        raise SystemExit(error.exit_status) from error
    for warning in config.warnings:
        say(f"warning: {warning}")
    settings = config.settings
    places = [*map(str, (*config.addresses, *config.loose))]
    if AUTO in settings.adopt:
        places.append("whatever port it binds")
    where = ", ".join(places) or "nothing"
    click.echo(f"{settings.name}: good")
    click.echo(f"  runs {' '.join(settings.command)}")
    click.echo(f"  in {found.directory}, {settings.workers} worker(s), listening at {where}")


def examine(config: Config, sources: Sources) -> Resolved:
    """Look up every name that the settings use; raise ConfigError for what is not there."""
    settings = config.settings
    inherited = [_as_inherited(address) for address in config.addresses if not address.adopted]
    adopted = [address for address in (*config.addresses, *config.loose) if address.adopted]
    if not inherited and PLACEHOLDER.search(" ".join(settings.command)):
        say("warning: no listener: the command needs one of systemd's (LISTEN_FDS), or --listen")
        inherited = [Inherited("listener-0", "(systemd's)", 0)]
    if AUTO not in settings.adopt:  # else names are made as the program binds
        check_rule(settings.ready, [*inherited, *adopted])
    _check_source(settings)
    directory = logical_directory(sources.environ)
    fetched = is_to_be_fetched(settings, directory)
    if fetched:
        say(f"warning: {settings.to}: not there yet; the service begins with the first release")
        settings = replace(settings, chdir="")
    found = resolve(settings, inherited, sources.environ, directory)
    if not fetched:
        found.require_program()
    return found


def _check_source(settings: Settings) -> None:
    """Look closer at where releases come from than run does, which loads nothing for it."""
    try:
        if settings.fetch:
            check_url(settings.fetch)
        if ":" in settings.sha256:
            check_url(settings.sha256)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if settings.minisign:
        verify.require_cryptography()
        verify.public_key(settings.minisign)


def _as_inherited(address: Address) -> Inherited:
    if address.kind in (Kind.UNIX, Kind.ADOPTED):
        return Inherited(address.name, address.path, None)
    return Inherited(address.name, f"{address.host}:{address.port}", address.port)
