"""``overseer logs``."""

from __future__ import annotations

import json

import click

from overseer_py.cli.sentences import clock, printable
from overseer_py.cli.target import Asking, instance
from overseer_py.client import Client, Document


@click.command(cls=Asking)
@instance
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option("-n", "--lines", type=click.IntRange(0), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def logs(name: str | None, pid: int | None, follow: bool, lines: int, as_json: bool) -> None:
    """Show what workers wrote, as far as --capture keeps it.

    That is the last 512 KiB, of all workers and both streams.
    """
    for line in Client(name, pid=pid).logs(lines, follow=follow):
        click.echo(json.dumps(line) if as_json else _line(line))


def _line(line: Document) -> str:
    if "dropped" in line:
        return f"… {line['dropped']} lines dropped: not read fast enough"
    who = f"{line['generation']}/{line['slot']}"
    colour = "yellow" if line["stream"] == "stderr" else None
    text = click.style(printable(line["line"]), fg=colour)
    return f"{click.style(clock(line), dim=True)}  {who}  {text}"
