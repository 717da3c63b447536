"""Real servers, and how each is run under overseer: for the tests and for benchmarks/handover.py.

Not here: granian, which cannot be handed a socket (it binds for itself, with SO_REUSEPORT).
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.load import Load
from tests.master import HELLO, PROGRAMS, Master, program

SBIN = "/usr/local/sbin:/usr/sbin"  # where servers are, and users' PATH is not


@dataclass(frozen=True)
class Server:
    """A server and what it needs; it runs in an empty directory of its own."""

    name: str
    command: list[str]
    module: str = ""  # of Python, that must be installed
    program: str = ""  # that must be installed
    source: str = ""  # in C, compiled to ./server
    options: tuple[str, ...] = ()
    listen: str = "127.0.0.1:0"
    losers: int = 0  # processes of it that at TERM close what they have accepted and not read

    @property
    def missing(self) -> str:
        """Why it cannot run on this machine; empty if it can."""
        if self.module and not importlib.util.find_spec(self.module):
            return f"no module {self.module}; pip install -e '.[test]'"
        if self.program and not (
            shutil.which(self.program) or shutil.which(self.program, path=SBIN)
        ):
            return f"{self.program} is not installed"
        return ""


@dataclass(frozen=True)
class Demand:
    """What clients ask for, over and over."""

    name: str
    path: str = "/"
    size: int = 0  # bytes that are uploaded
    between: int = 40  # requests between two restarts: more than are under way at once
    servers: tuple[str, ...] = ()  # that are asked for it; empty: all


# One that drains and one that does not of each kind: many requests at once, and one at a time.
_FOUR = ("uvicorn", "gunicorn sync", "node without a handler", "C without a handler")
QUICK = Demand("quick answers")
SLOW = Demand("answers take 200 ms", "/slow", between=6, servers=_FOUR)
UPLOADS = Demand("uploads of 5 MB", "/upload", 5_000_000, between=12, servers=_FOUR)


@contextmanager
def running(server: Server, directory: Path, *options: str) -> Iterator[Master]:
    """Run it under overseer, with these options besides its own, and wait until it is ready."""
    if server.source:
        compiler = ["cc", "-Wall", "-Werror", "-O1", "-o", "server"]
        subprocess.run([*compiler, str(PROGRAMS / server.source)], cwd=directory, check=True)
    place = ["--listen", server.listen, "--chdir", str(directory)]
    settings = [*place, "--env", f"PYTHONPATH={PROGRAMS}", *server.options, *options]
    with Master(directory, *settings, "--", *server.command) as master:
        yield master.ready()


def asking(master: Master, demand: Demand, clients: int) -> Load:
    """Return so many clients who demand this."""
    return Load(master.port(), clients, demand.path, demand.size)


def named(name: str) -> Server:
    """Return the server of that name."""
    return next(server for server in SERVERS if server.name == name)


def asked_for(demand: Demand) -> list[Server]:
    """Return the servers that are tried with it."""
    return [server for server in SERVERS if not demand.servers or server.name in demand.servers]


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def _gunicorn(kind: str, app: str, module: str = "gunicorn") -> Server:
    name = f"gunicorn {kind.rpartition('.')[2]}"
    command = _module("gunicorn", "--log-level", "warning", "--worker-class", kind, app)
    return Server(name, command, module)


def _nginx() -> Server:
    """Return nginx, with the socket in NGINX and QUIT as its drain signal.

    It takes the socket for non-blocking and does not make it so: on a blocking one two of its
    processes can hold each other up in accept.
    """
    fill_in = "s/@GENERATION@/$OVERSEER_GENERATION/; s/@PORT@/{port:listener-0}/"
    config = "nginx-$OVERSEER_GENERATION.conf"
    start = f'PATH="$PATH:{SBIN}" && exec nginx -p . -e stderr -c "{config}"'
    command = ["sh", "-c", f'sed "{fill_in}" "$0" >"{config}" && {start}']
    return Server(
        "nginx",
        [*command, str(PROGRAMS / "nginx.conf")],
        program="nginx",
        options=("--env", "NGINX=3;", "--drain-signal", "QUIT"),
        listen="127.0.0.1:0?nonblock=1",
    )


_UVICORN = _module("uvicorn", "--fd", "{fd}", "--log-level", "warning", "asgi_app:app")
_HYPERCORN = _module("hypercorn", "-b", "fd://{fd}", "--log-level", "warning", "asgi_app:app")
_FLASK = ("--env", "WERKZEUG_RUN_MAIN=true", "--env", "WERKZEUG_SERVER_FD=3")
_NODE = ["node", str(PROGRAMS / "server.js")]

SERVERS = [
    Server("hello.py", HELLO),
    Server("uvicorn", _UVICORN, "uvicorn", losers=1),
    Server(
        "uvicorn --workers 2",
        [*_UVICORN, "--workers", "2"],
        "uvicorn",
        # Its own master kills a process that has not answered it for 5 s.
        options=("--env", "UVICORN_TIMEOUT_WORKER_HEALTHCHECK=60"),
        losers=2,
    ),
    _gunicorn("sync", "wsgi_app:app"),
    _gunicorn("gthread", "wsgi_app:app"),
    _gunicorn("uvicorn_worker.UvicornWorker", "asgi_app:app", "uvicorn_worker"),
    Server("hypercorn", _HYPERCORN, "hypercorn", losers=1),
    Server("waitress", program("waitress_server"), "waitress"),
    Server("aiohttp", program("aiohttp_server"), "aiohttp"),
    # From here on, but for nginx, TERM ends the server at once, whatever it has in hand.
    Server("Flask's own", _module("flask", "--app", "flask_app", "run"), "flask", options=_FLASK),
    Server("http.server", program("stdlib_server")),
    Server("node with a handler", _NODE, program="node"),
    Server("node without a handler", [*_NODE, "abrupt"], program="node"),
    Server("C with a handler", ["./server"], program="cc", source="server.c"),
    Server("C without a handler", ["./server", "abrupt"], program="cc", source="server.c"),
    _nginx(),
]
