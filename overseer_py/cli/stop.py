"""``overseer stop``."""

from __future__ import annotations

import click

from overseer_py.cli.progress import on_terminal
from overseer_py.cli.target import Asking, Duration, instance
from overseer_py.client import Client


@click.command(cls=Asking)
@instance
@click.option("--no-wait", is_flag=True, help="Ask for it, and do not wait.")
@click.option("--now", is_flag=True, help="Do not let the workers finish: kill them.")
@click.option("--timeout", type=Duration(), metavar="D", help="Wait so long at most.  [for ever]")
def stop(
    name: str | None, pid: int | None, no_wait: bool, now: bool, timeout: float | None
) -> None:
    """Drain all workers, and wait until the master has ended."""
    client = Client(name, pid=pid)
    client.stop(timeout, wait=not no_wait, drain=not now, on_event=on_terminal())
