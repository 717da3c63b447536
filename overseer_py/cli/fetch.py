"""``overseer fetch``."""

from __future__ import annotations

import json

import click

from overseer_py.cli.progress import roll_out
from overseer_py.cli.sentences import printable
from overseer_py.cli.target import Asking, Duration, instance
from overseer_py.client import Client


@click.command(cls=Asking)
@instance
@click.option("--now", is_flag=True, help="Look at the source now.")
@click.option("--timeout", type=Duration(), metavar="D", help="Wait so long at most.  [for ever]")
@click.option("--json", "as_json", is_flag=True, help="Print the document.")
def fetch(
    name: str | None, pid: int | None, now: bool, timeout: float | None, as_json: bool
) -> None:
    """Look for a new release now, or show when it is looked for.

    With --now it waits for the rollout of what is new; ends with 1 if that is rolled back, or if
    the source cannot be read or what it has is refused.
    """
    client = Client(name, pid=pid)
    if now:
        roll_out(lambda watch: client.fetch(timeout, on_event=watch), as_json=as_json)
        return
    source = client.status()["fetcher"]
    if as_json:
        click.echo(json.dumps(source, indent=2))
    elif source is None:
        click.echo("nothing is fetched: the service runs without --fetch")
    else:
        click.echo(printable(source["url"]))
        click.echo(f"  looked at: {source['last_checked_at'] or 'not yet'}")
        click.echo(f"  next look: {source['next_check_at'] or 'now'}")
        if source["last_error"]:
            click.echo(f"  {printable(source['last_error'])}")
