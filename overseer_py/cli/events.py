"""``overseer events``."""

from __future__ import annotations

import json

import click

from overseer_py.cli.sentences import clock, sentence, tail
from overseer_py.cli.target import Asking, instance
from overseer_py.client import Client, Document


@click.command(cls=Asking)
@instance
@click.option("--since", type=click.IntRange(0), metavar="N", help="Begin with the last N kept.")
@click.option("--no-follow", is_flag=True, help="End after those that are kept.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def events(
    name: str | None, pid: int | None, since: int | None, no_follow: bool, as_json: bool
) -> None:
    """Follow what happens, until the master ends.

    The master keeps the last 512 KiB of them in memory: some thousands.
    """
    last = since if since is not None else (1 << 30 if no_follow else 0)
    for event in Client(name, pid=pid).events(last, follow=not no_follow):
        for line in [json.dumps(event)] if as_json else _lines(event):
            click.echo(line)


def _lines(event: Document) -> list[str]:
    if "dropped" in event:
        return [f"… {event['dropped']} events dropped: not read fast enough"]
    return [f"{click.style(clock(event), dim=True)}  {sentence(event)}", *tail(event, 20)]
