"""Real servers as workers, restarted under load.

Not here: granian, which cannot be handed a socket (it binds for itself, with SO_REUSEPORT).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.handovers import (
    CLIENTS,
    check_answers,
    check_losses,
    check_order,
    check_stop,
    hand_over,
)
from tests.load import Load
from tests.master import PROGRAMS, Master
from tests.needs import need

PYTHONPATH = ["--env", f"PYTHONPATH={PROGRAMS}"]
UVICORN = [sys.executable, "-m", "uvicorn", "--fd", "{fd}", "--log-level", "warning"]
GUNICORN = [sys.executable, "-m", "gunicorn", "--log-level", "warning"]
HYPERCORN = [sys.executable, "-m", "hypercorn", "-b", "fd://{fd}", "--log-level", "warning"]


def serves_through_restarts(
    tmp_path: Path,
    options: list[str],
    command: list[str],
    *,
    listen: str = "127.0.0.1:0",
    losers: int = 0,
) -> None:
    """Restart the server five times under load: all that every server must keep.

    ``losers`` are the processes of a generation that close what they have accepted and not read:
    with one socket for all generations that is a request of each client at most, by each.
    """
    with Master(tmp_path, "--listen", listen, *options, "--", *command) as master:
        master.ready()
        with Load(master.port(), CLIENTS) as load:
            handovers = hand_over(master, load)
        check_losses(load, handovers, losers)
        check_answers(master, load, handovers)
        check_order(master, handovers)
        check_stop(master)


@pytest.mark.parametrize("workers", [1, 2])
def test_uvicorn(tmp_path: Path, workers: int) -> None:
    """Uvicorn goes on; at TERM it closes what it has accepted and not read, and loses only that."""
    command = [*UVICORN, *(["--workers", "2"] if workers > 1 else []), "asgi_app:app"]
    serves_through_restarts(tmp_path, PYTHONPATH, command, losers=workers)


@pytest.mark.parametrize("kind", ["sync", "gthread"])
def test_gunicorn(tmp_path: Path, kind: str) -> None:
    """Gunicorn, which finds its socket by LISTEN_FDS, loses nothing."""
    command = [*GUNICORN, "--worker-class", kind, "wsgi_app:app"]
    serves_through_restarts(tmp_path, PYTHONPATH, command)


def test_hypercorn(tmp_path: Path) -> None:
    """Hypercorn goes on; at TERM it closes what it has accepted and not read: only that is lost."""
    command = [*HYPERCORN, "asgi_app:app"]
    serves_through_restarts(tmp_path, PYTHONPATH, command, losers=1)


def test_node(tmp_path: Path) -> None:
    """Node's http server, with close() on TERM, loses nothing."""
    serves_through_restarts(tmp_path, [], [need("node"), str(PROGRAMS / "server.js")])


def test_program_in_c(tmp_path: Path) -> None:
    """A program that knows nothing but sd_listen_fds(3) and SIGTERM loses nothing."""
    binary = tmp_path / "server"
    compiler = [need("cc"), "-Wall", "-Werror", "-O1", "-o", str(binary)]
    subprocess.run([*compiler, str(PROGRAMS / "server.c")], check=True)
    serves_through_restarts(tmp_path, [], [str(binary)])


def test_nginx(tmp_path: Path) -> None:
    """Nginx, with the socket in NGINX and QUIT as its drain signal, loses nothing.

    It takes the socket for non-blocking and does not make it so: on a blocking one two generations
    can hold each other up in accept.
    """
    fill_in = "s/@GENERATION@/$OVERSEER_GENERATION/; s/@PORT@/{port:listener-0}/"
    config = "nginx-$OVERSEER_GENERATION.conf"
    script = f'sed "{fill_in}" "$1" >"{config}" && exec "$0" -p . -e stderr -c "{config}"'
    command = ["sh", "-c", script, need("nginx"), str(PROGRAMS / "nginx.conf")]
    options = ["--env", "NGINX=3;", "--drain-signal", "QUIT", "--chdir", str(tmp_path)]
    serves_through_restarts(tmp_path, options, command, listen="127.0.0.1:0?nonblock=1")
