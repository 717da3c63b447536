"""``overseer unhold``."""

from __future__ import annotations

import click

from overseer_py.cli.target import Asking, name_and, pid_option
from overseer_py.client import Client


@click.command(cls=Asking)
@click.argument("words", nargs=-1, metavar="[NAME] DIGEST")
@pid_option
def unhold(words: tuple[str, ...], pid: int | None) -> None:
    """Let a release that has failed be tried again."""
    name, digest = name_and("DIGEST", words)
    Client(name, pid=pid).unhold(digest)
