"""Why a command ends."""

from __future__ import annotations

from contextlib import suppress

import click


def say(message: str) -> None:
    """Say it in one line on stderr, if anybody still listens."""
    with suppress(OSError):
        click.echo(f"overseer: {message}", err=True)
