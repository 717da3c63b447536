"""The commands.  The only code that prints."""

from __future__ import annotations

import click

from overseer_py import __version__
from overseer_py.cli.run import run


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Documentation and recipes: README.md",
)
@click.version_option(__version__, "-V", "--version", message="overseer %(version)s")
def cli() -> None:
    """Run any server, replace it without losing a request, roll back what fails."""


cli.add_command(run)
