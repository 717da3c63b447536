"""``overseer scale``."""

from __future__ import annotations

import click

from overseer_py.cli.target import Asking, name_and, pid_option
from overseer_py.client import Client
from overseer_py.values import workers


@click.command(cls=Asking)
@click.argument("words", nargs=-1, metavar="[NAME] N")
@pid_option
def scale(words: tuple[str, ...], pid: int | None) -> None:
    """Change the number of workers.

    It holds until a reload changes it.  Returns at once; status shows when they are ready.
    """
    name, number = name_and("N", words)
    try:
        wanted = workers(number)
    except ValueError as error:
        raise click.UsageError(f"N: {error}") from None
    Client(name, pid=pid).scale(wanted)
