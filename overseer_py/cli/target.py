"""Which instance a command is for, and how commands that ask a master end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from overseer_py.cli.say import say
from overseer_py.errors import OverseerError
from overseer_py.values import duration
from overseer_py.whereabouts import instances

Command = Callable[..., Any]


class Asking(click.Command):
    """A command that asks a master: what is wrong is said in a line, and the status tells what."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as click has it
        """Run it."""
        for number in (signal.SIGINT, signal.SIGPIPE):  # ends as other programs do, quietly
            signal.signal(number, signal.SIG_DFL)
        try:
            return super().invoke(ctx)
        except OverseerError as error:
            say(str(error))
            raise SystemExit(error.exit_status) from error


class Duration(click.ParamType[float]):
    """``500ms``, ``1.5s``, ``2m``, ``1h`` or seconds."""

    name = "duration"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        try:
            return duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def pid_option(command: Command) -> Command:
    """Add --pid, which stands for a NAME."""
    text = "The instance whose master has this pid, instead of NAME."
    return click.option("--pid", type=click.IntRange(1), metavar="PID", help=text)(command)


def instance(command: Command) -> Command:
    """Add NAME, and --pid instead of it; without either the only instance is meant."""
    return click.argument("name", required=False, shell_complete=complete)(pid_option(command))


def name_and(word: str, words: tuple[str, ...]) -> tuple[str | None, str]:
    """Split the words of a command with ``[NAME] WORD``."""
    match words:
        case (only,):
            return None, only
        case (name, last):
            return name, last
    raise click.UsageError(f"write: [NAME] {word}")


def complete(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """Offer the instances that there are to the shell."""
    return [CompletionItem(name) for name in instances() if name.startswith(begun)]
