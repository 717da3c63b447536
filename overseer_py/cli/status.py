"""``overseer status``: what runs, for people and for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import click

from overseer_py.cli.say import say
from overseer_py.client import Client, Document, find, instances
from overseer_py.errors import NoInstanceError, OverseerError

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the whole document.")
def status(name: str | None, as_json: bool) -> None:
    """Show what runs: all instances of this user, or the one named NAME.

    With --json a NAME gives one document, and no NAME a list of them.
    """
    failed: list[OverseerError] = []
    documents = list(_ask(name, failed))
    for error in failed:
        say(str(error))
    if as_json and documents:
        click.echo(json.dumps(documents[0] if name else documents, indent=2))
    elif documents:
        click.echo("\n\n".join("\n".join(_shown(document)) for document in documents))
    if failed:
        raise SystemExit(failed[0].exit_status)
    if not documents:
        say("no overseer of this user runs here")
        raise SystemExit(NoInstanceError.exit_status)


def _ask(name: str | None, failed: list[OverseerError]) -> Iterator[Document]:
    """Yield what each says; one that is stuck must not hide the others."""
    for known in [name] if name else instances():
        try:
            with Client(find(known)) as client:
                yield client.status()
        except OverseerError as error:
            # Without a name: a socket that a killed master has left is none.
            if name or not isinstance(error, NoInstanceError):
                failed.append(error)


def _shown(document: Document) -> Iterable[str]:
    name, pid, state = document["name"], document["pid"], document["state"]
    up, generation = age(document["started_at"]), document["generation"]
    yield f"{click.style(name, bold=True)}  {_coloured(state)}  pid {pid}, up {up}, generation {generation}"  # noqa: E501
    for listener in document["listeners"]:
        why = f" ({listener['handover_reason']})" if listener["handover_reason"] else ""
        facts = f"{listener['type']}  fd {listener['fd']}  {listener['handover']}{why}"
        yield f"  {listener['name']}  {listener['address']}  {facts}"
    yield from _table(document["workers"])
    if rollout := document["rollout"]:
        share = rollout["canary_percent"]
        canary = f", {share} % of new connections" if share else ""
        since = age(rollout["started_at"])
        yield f"  rolling out generation {rollout['generation']}: {rollout['state']}{canary}, {since} ({rollout['reason']})"  # noqa: E501
    if last := document["last_rollout"]:
        ago = age(last["started_at"])
        why = f": {last['error']}" if last["error"] else ""
        yield f"  last rollout: generation {last['generation']} {last['outcome']} {ago} ago, took {last['duration_s']:.1f} s ({last['reason']}){why}"  # noqa: E501


def _table(workers: Sequence[Document]) -> Iterable[str]:
    rows = [("worker", "state", "pid", "age", "memory", "cpu", "open", "crashes", "")]
    for worker in workers:
        rows.append(  # noqa: PERF401 - a comprehension of nine columns is harder to read
            (
                f"{worker['generation']}/{worker['slot']}",
                worker["state"],
                str(worker["pid"] or "-"),
                age(worker["started_at"]) if worker["started_at"] else "-",
                f"{worker['rss_bytes'] / (1 << 20):.0f} MiB",
                f"{worker['cpu_percent']:.0f} %",
                str(worker["connections"]),
                str(worker["crashes"]),
                "".join(c if c.isprintable() else "?" for c in worker["status"]),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield ("  " + "  ".join(cells)).rstrip()


def _coloured(state: str) -> str:
    colours = {"running": "green", "degraded": "red", "stopping": "yellow"}
    return click.style(state, fg=colours.get(state, "cyan"))


def age(timestamp: str) -> str:
    """Return how long ago that was, in its two largest units: ``3h 5m``."""
    left = max(0, int((datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds()))
    parts: list[str] = []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
