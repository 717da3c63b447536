"""``overseer reload``."""

from __future__ import annotations

import click

from overseer_py.cli.progress import roll_out
from overseer_py.cli.target import Asking, Duration, instance
from overseer_py.client import Client

EXAMPLES = """\b
Examples:
  overseer check && overseer reload app
"""


@click.command(cls=Asking, epilog=EXAMPLES)
@instance
@click.option("--no-wait", is_flag=True, help="Ask for it, and do not wait.")
@click.option("--timeout", type=Duration(), metavar="D", help="Wait so long at most.  [for ever]")
@click.option("--json", "as_json", is_flag=True, help="Print how it ended as JSON.")
def reload(
    name: str | None, pid: int | None, no_wait: bool, timeout: float | None, as_json: bool
) -> None:
    """Reread the configuration, then roll out as restart does.

    A bad configuration changes nothing: status 1, and what is wrong with it.
    """
    client = Client(name, pid=pid)
    roll_out(
        lambda watch: client.reload(timeout, wait=not no_wait, on_event=watch), as_json=as_json
    )
