"""``overseer restart``."""

from __future__ import annotations

import click

from overseer_py.cli.progress import roll_out
from overseer_py.cli.target import Asking, Duration, instance
from overseer_py.client import Client

EXAMPLES = """\b
Examples:
  overseer restart app && echo deployed
  overseer restart --pid $MAINPID           # ExecReload= of a systemd unit
  overseer restart app --timeout 2m --json
"""


@click.command(cls=Asking, epilog=EXAMPLES)
@instance
@click.option("--no-wait", is_flag=True, help="Ask for it, and do not wait.")
@click.option("--timeout", type=Duration(), metavar="D", help="Wait so long at most.  [for ever]")
@click.option("--json", "as_json", is_flag=True, help="Print how it ended as JSON.")
def restart(
    name: str | None, pid: int | None, no_wait: bool, timeout: float | None, as_json: bool
) -> None:
    """Roll out a new generation, and wait for the end.

    Ends with 0 once it is committed and the old one has gone; with 1 if it was rolled back, and
    says why, with the last lines of the worker that failed: the old generation serves on.  What
    was asked for goes on if this command is ended.
    """
    client = Client(name, pid=pid)
    roll_out(
        lambda watch: client.restart(timeout, wait=not no_wait, on_event=watch), as_json=as_json
    )
