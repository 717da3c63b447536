"""What a person sees while a command waits: a line for each event, on a terminal only."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import click

from overseer_py.cli.say import say
from overseer_py.cli.sentences import printable, sentence, tail
from overseer_py.client import Document, Listener
from overseer_py.errors import RolloutError


class Progress:
    """Writes events to stderr as they come, with the seconds since the command began."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def __call__(self, event: Document) -> None:
        """Write one line."""
        took = click.style(f"{time.monotonic() - self._begun:6.1f} s", dim=True)
        click.echo(f"{took}  {sentence(event)}", err=True)


def on_terminal() -> Listener | None:
    """Return what shows the progress; None where nobody watches."""
    return Progress() if sys.stderr.isatty() else None


def roll_out(ask: Callable[[Listener | None], Document], *, as_json: bool) -> None:
    """Ask for a rollout and say how it ended; on failure with the worker's last words."""
    try:
        rollout = ask(on_terminal())
    except RolloutError as error:
        if as_json:
            click.echo(json.dumps(error.rollout, indent=2))
        say(str(error))
        for line in tail(dict(error.rollout)):
            click.echo(line, err=True)
        raise SystemExit(error.exit_status) from error
    if as_json:
        click.echo(json.dumps(rollout, indent=2))
    elif "generation" in rollout:
        took = rollout["duration_s"]
        click.echo(printable(f"generation {rollout['generation']} committed after {took:.2f} s"))
    elif "found" in rollout:
        click.echo(printable(rollout["found"]))
