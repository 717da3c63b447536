"""``overseer status``: what runs, for people and for scripts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import click

from overseer_py.cli.say import say
from overseer_py.cli.sentences import printable
from overseer_py.cli.target import Asking, instance
from overseer_py.client import Client, Document
from overseer_py.errors import NoInstanceError, OverseerError
from overseer_py.whereabouts import instances

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_EVERY = 1.0  # seconds between two looks with --watch
_TOP, _CLEAR, _REST_OF_LINE, _REST = "\x1b[H", "\x1b[2J", "\x1b[K", "\x1b[J"


@click.command(cls=Asking)
@instance
@click.option("--json", "as_json", is_flag=True, help="Print the whole document.")
@click.option("--watch", is_flag=True, help="Look again every second, until Ctrl-C.")
@click.option("--ready", is_flag=True, help="Does it serve?  Exit status 0, or 1 and why not.")
def status(name: str | None, pid: int | None, as_json: bool, watch: bool, ready: bool) -> None:
    """Show what runs: all instances of this user, or one.

    With --json a NAME gives one document, and no NAME a list of them; with --watch one a line.
    --ready is for probes: one instance, one line, or with --json its document.
    """
    if ready and watch:
        raise click.UsageError("--ready looks once; with --watch nobody would see its exit status")
    if ready:
        _probe(name, pid, as_json=as_json)
        return
    one = bool(name or pid)
    documents = _look(name, pid)
    if not watch:
        _print(documents, one=one, as_json=as_json)
        return
    first = True
    while True:
        if as_json:
            click.echo(json.dumps(documents[0] if one else documents))
        else:
            _redraw(documents, clear=first)
        first = False
        time.sleep(_EVERY)
        documents = _look(name, pid)


def _probe(name: str | None, pid: int | None, *, as_json: bool) -> None:
    """Return if the service serves and is to be sent more; otherwise raise why it is not."""
    document = Client(name, pid=pid).status()
    who, generation = printable(document["name"]), document["generation"]
    mine = [worker for worker in document["workers"] if worker["generation"] == generation]
    serving = sum(worker["state"] == "ready" for worker in mine)
    if as_json:
        _print([document], one=True, as_json=True)
    if document["state"] == "stopping":
        raise OverseerError(f"{who} is not ready: it is stopping")
    if document["state"] == "starting":
        raise OverseerError(f"{who} is not ready: it is starting")
    if not serving:
        how = ", ".join(sorted({worker["state"] for worker in mine})) or "none"
        raise OverseerError(f"{who} is not ready: workers of generation {generation}: {how}")
    if not as_json:
        wanted = document["workers_wanted"]
        click.echo(f"{who} is ready: generation {generation}, {serving} of {wanted} workers")


def _look(name: str | None, pid: int | None) -> list[Document]:
    """Return what each says; raise NoInstanceError if there is none."""
    if name or pid:
        return [Client(name, pid=pid).status()]
    documents: list[Document] = []
    stuck: list[OverseerError] = []
    for path in instances().values():
        try:
            documents.append(Client(path).status())
        except NoInstanceError:  # what a killed master has left
            pass
        except OverseerError as error:  # one that is stuck must not hide the others
            stuck.append(error)
    for failed in stuck:
        say(str(failed))
    if not documents:
        raise stuck[0] if stuck else NoInstanceError("no overseer of this user runs here")
    return documents


def _print(documents: Sequence[Document], *, one: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(documents[0] if one else documents, indent=2))
    else:
        click.echo("\n\n".join("\n".join(_shown(document)) for document in documents))


def _redraw(documents: Sequence[Document], *, clear: bool) -> None:
    """Write over what was written before; what was there stays when this is ended."""
    lines = [line for document in documents for line in (*_shown(document), "")]
    text = "".join(f"{line}{_REST_OF_LINE}\n" for line in lines)
    click.echo(f"{_CLEAR if clear else ''}{_TOP}{text}{_REST}", nl=False)


def _shown(document: Document) -> Iterator[str]:
    name = click.style(printable(document["name"]), bold=True)
    facts = [f"pid {document['pid']}", f"up {age(document['started_at'])}"]
    facts += [f"generation {document['generation']}", f"overseer {document['version']}"]
    yield f"{name}  {_coloured(document['state'])}  {', '.join(facts)}"
    for listener in document["listeners"]:
        why = f" ({listener['handover_reason']})" if listener.get("handover_reason") else ""
        place = f"{listener['name']}  {listener['address']}  {listener['type']}"
        fd = "adopted" if listener["fd"] is None else f"fd {listener['fd']}"
        yield f"  {place}  {fd}  {listener['handover']}{why}"
    if release := document.get("release"):
        before = document["previous_release"]
        yield f"  release {release[:12]}{f', before it {before[:12]}' if before else ''}"
    if (source := document.get("fetcher")) and source["last_error"]:
        yield f"  {printable(source['url'])}: {printable(source['last_error'])}"
    yield from _places(document["workers"])
    yield from _table(document["workers"])
    if rollout := document["rollout"]:
        yield f"  {_rolling(rollout)}"
    if last := document["last_rollout"]:
        yield f"  {_rolled(last)}"
    if last := document.get("last_reload"):
        yield f"  {_reloaded(last)}"


def _places(workers: Sequence[Document]) -> Iterator[str]:
    """Yield for each generation what it runs, and where: links are resolved."""
    places = {w["generation"]: (w.get("executable"), w.get("directory")) for w in workers}
    for generation, (executable, directory) in sorted(places.items()):
        if directory:
            yield printable(f"  {generation}: {executable or 'nothing'}, in {directory}")


def _rolling(rollout: Document) -> str:
    share = rollout.get("canary_percent")
    canary = f", {share} % of new connections" if share else ""
    since = f"{age(rollout['started_at'])} ({rollout['reason']})"
    return f"rolling out generation {rollout['generation']}: {rollout['state']}{canary}, {since}"


def _rolled(last: Document) -> str:
    colour = "green" if last["outcome"] == "committed" else "red"
    outcome = click.style(last["outcome"], fg=colour)
    took = f"{age(last['started_at'])} ago, took {last['duration_s']:.1f} s ({last['reason']})"
    why = printable(f": {last['error']}") if last["error"] else ""
    return f"last rollout: generation {last['generation']} {outcome} {took}{why}"


def _reloaded(last: Document) -> str:
    outcome = last["outcome"] or "under way"
    colour = {"committed": "green", "under way": "cyan"}.get(outcome, "red")
    changed = ", ".join(last["changed"]) or "nothing"
    what = last["error"] or f"{changed} changed"
    when = f"{age(last['at'])} ago"
    return f"last reload: {click.style(outcome, fg=colour)} {when}: {printable(what)}"


def _table(workers: Sequence[Document]) -> Iterable[str]:
    rows: list[tuple[str, ...]] = [
        ("worker", "state", "pid", "age", "memory", "cpu", "open", "crashes", "")
    ]
    rows += [_row(worker) for worker in workers]
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows as lines, their cells below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield ("  " + "  ".join(cells)).rstrip()


def _row(worker: Document) -> tuple[str, ...]:
    return (
        f"{worker['generation']}/{worker['slot']}",
        worker["state"],
        str(worker["pid"] or "-"),
        age(worker["started_at"]) if worker["started_at"] else "-",
        f"{worker['rss_bytes'] / (1 << 20):.0f} MiB",
        f"{worker['cpu_percent']:.0f} %",
        str(worker["connections"]),
        str(worker["crashes"]),
        printable(worker["status"]),
    )


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
