"""``overseer signal``."""

from __future__ import annotations

import click

from overseer_py.cli.target import Asking, name_and, pid_option
from overseer_py.client import Client
from overseer_py.values import signal_number


@click.command(cls=Asking)
@click.argument("words", nargs=-1, metavar="[NAME] SIG")
@pid_option
def signal(words: tuple[str, ...], pid: int | None) -> None:
    """Do what a signal to the master means, by name.

    USR1, WINCH and others that the master has no use for go on to the current workers.
    """
    name, wanted = name_and("SIG", words)
    try:
        number = signal_number(wanted)
    except ValueError as error:
        raise click.UsageError(f"SIG: {error}") from None
    Client(name, pid=pid).signal(number.name)
