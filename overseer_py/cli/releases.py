"""``overseer releases``."""

from __future__ import annotations

import json

import click

from overseer_py.cli.sentences import printable
from overseer_py.cli.status import age, columns
from overseer_py.cli.target import Asking, instance
from overseer_py.client import Client, Document


@click.command(cls=Asking)
@instance
@click.option("--json", "as_json", is_flag=True, help="Print the whole document.")
def releases(name: str | None, pid: int | None, as_json: bool) -> None:
    """Show which releases are installed, and which are held.

    A held one has failed and is not tried again: see unhold.
    """
    found = Client(name, pid=pid).releases()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows: list[tuple[str, ...]] = [("release", "version", "state", "installed", "size", "")]
    rows += [_row(release) for release in found["releases"]]
    for line in columns(rows):
        click.echo(line)


def _size(count: int) -> str:
    """Return bytes in the largest unit of which there is one."""
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / (1 << 10 * power):.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def _row(release: Document) -> tuple[str, ...]:
    size, at = release["size"], release["installed_at"]
    return (
        release["digest"][:12],
        printable(release["version"]) or "-",
        release["state"],
        f"{age(at)} ago" if at else "-",
        _size(size) if size else "-",
        printable(release["reason"]),
    )
