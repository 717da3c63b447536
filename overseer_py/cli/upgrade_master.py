"""``overseer upgrade-master``."""

from __future__ import annotations

import json

import click

from overseer_py.cli.target import Asking, Duration, instance
from overseer_py.client import Client

EXAMPLES = """\b
Examples:
  pip install --upgrade overseer-py && overseer upgrade-master app
"""


@click.command(cls=Asking, epilog=EXAMPLES)
@instance
@click.option("--timeout", type=Duration(), metavar="D", help="Wait so long at most.  [2m]")
@click.option("--json", "as_json", is_flag=True, help="Print the versions as JSON.")
def upgrade_master(name: str | None, pid: int | None, timeout: float | None, as_json: bool) -> None:
    """Have the master become the version that is installed now.

    Its pid, its workers, its sockets and all that waits for it stay; workers notice nothing.  A
    version that cannot start, or cannot go on from here, changes nothing: status 1, and why.
    """
    result = Client(name, pid=pid).upgrade_master(120.0 if timeout is None else timeout)
    if as_json:
        click.echo(json.dumps(result))
    else:
        before, now = result["previous"], result["version"]
        versions = now if before == now else f"{before} → {now}"
        click.echo(f"pid {result['pid']}: overseer {versions}")
