"""``overseer rollback``."""

from __future__ import annotations

import re

import click

from overseer_py.cli.progress import roll_out
from overseer_py.cli.target import Asking, Duration, pid_option
from overseer_py.client import Client


@click.command(cls=Asking)
@click.argument("words", nargs=-1, metavar="[NAME] [DIGEST]")
@pid_option
@click.option("--timeout", type=Duration(), metavar="D", help="Wait so long at most.  [for ever]")
@click.option("--json", "as_json", is_flag=True, help="Print how it ended as JSON.")
def rollback(words: tuple[str, ...], pid: int | None, timeout: float | None, as_json: bool) -> None:
    """Go back to the previous release, and wait for the rollout.

    Or to that of DIGEST, six digits of it or more.  What is left is held: it is not fetched again
    before it is released by unhold.
    """
    name, digest = name_and_digest(words)
    client = Client(name, pid=pid)
    roll_out(lambda watch: client.rollback(digest, timeout, on_event=watch), as_json=as_json)


def name_and_digest(words: tuple[str, ...]) -> tuple[str | None, str]:
    """Tell a digest from a name: it is of six hexadecimal digits or more."""
    match words:
        case ():
            return None, ""
        case (word,) if re.fullmatch("[0-9a-f]{6,64}", word):
            return None, word
        case (word,):
            return word, ""
        case (name, digest):
            return name, digest
    raise click.UsageError("write: [NAME] [DIGEST]")
