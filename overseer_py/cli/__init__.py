"""The commands.  The only code that prints.

Each is imported when it is asked for: what only reads a status needs none of the master.
"""

from __future__ import annotations

from importlib import import_module

import click

from overseer_py import __version__

COMMANDS = (
    "run",
    "status",
    "restart",
    "reload",
    "stop",
    "scale",
    "signal",
    "upgrade-master",
    "events",
    "logs",
    "releases",
    "rollback",
    "unhold",
    "fetch",
    "check",
    "init",
)


class Commands(click.Group):
    """The command NAME is the function NAME of the module NAME; a dash is an underscore there."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order in which they are shown."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"{__name__}.{name}"), name)
        return command


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Documentation and recipes: README.md",
)
@click.version_option(__version__, "-V", "--version", message="overseer %(version)s")
def cli() -> None:
    """Run any server, replace it without losing a request, roll back what fails."""
