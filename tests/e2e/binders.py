"""Servers that bind for themselves, unchanged, and how each is run under overseer."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.servers import SBIN
from tests.load import free_port
from tests.master import PROGRAMS, Master


@dataclass(frozen=True)
class Binder:
    """A server and what it needs; PORT in its words is the port that it binds."""

    name: str
    command: tuple[str, ...]
    module: str = ""  # of Python, that must be installed
    program: str = ""  # that must be installed
    source: str = ""  # in C, compiled to ./server
    options: tuple[str, ...] = ()
    adopt: str = "127.0.0.1:PORT"
    soak: bool = False  # in long runs only: another one shows much the same

    def __str__(self) -> str:
        return self.name

    @property
    def missing(self) -> str:
        """Why it cannot run on this machine; empty if it can."""
        if self.module and not importlib.util.find_spec(self.module):
            return f"no module {self.module}; pip install -e '.[test]'"
        where = shutil.which(self.program) or shutil.which(self.program, path=SBIN)
        return "" if not self.program or where else f"{self.program} is not installed"


def compiled(source: str, directory: Path) -> None:
    """Make ./server of a program in C, static: nothing in it can be replaced."""
    compiler = ["cc", "-Wall", "-Werror", "-O1", "-static", "-o", "server"]
    subprocess.run([*compiler, str(PROGRAMS / source)], cwd=directory, check=True)


@contextmanager
def binding(
    server: Binder, directory: Path, *options: str, port: int = 0
) -> Iterator[tuple[Master, int]]:
    """Run it under overseer, wait until it is ready, and give the master and its port."""
    if server.source:
        compiled(server.source, directory)
    port = port or free_port()
    command = [word.replace("PORT", str(port)) for word in server.command]
    place = ["--adopt", server.adopt.replace("PORT", str(port)), "--chdir", str(directory)]
    settings = [*place, "--env", f"PYTHONPATH={PROGRAMS}", *server.options, *options]
    with Master(directory, *settings, "--", *command) as master:
        yield master.ready(), port


def named(name: str) -> Binder:
    """Return the server of that name."""
    return next(server for server in BINDERS if server.name == name)


def _python(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *words)


def _files(*words: str) -> tuple[str, ...]:
    """Return a command that serves files: that of its generation has its number."""
    script = (
        'mkdir -p "$OVERSEER_GENERATION" && cd "$OVERSEER_GENERATION" &&'
        ' echo "$OVERSEER_GENERATION 0 0" >index.html && exec "$@"'
    )
    return ("sh", "-c", script, "-", *words)


def _nginx(listen: str) -> tuple[str, ...]:
    fill_in = f"s/@GENERATION@/$OVERSEER_GENERATION/; s/@LISTEN@/{listen}/"
    config = "nginx-$OVERSEER_GENERATION.conf"
    start = f'PATH="$PATH:{SBIN}" && exec nginx -p . -e stderr -c "{config}"'
    script = f'sed "{fill_in}" "$0" >"{config}" && {start}'
    return ("sh", "-c", script, str(PROGRAMS / "nginx_binds.conf"))


_QUIT = ("--drain-signal", "QUIT")
_HTTP_SERVER = _python("http.server", "PORT", "--bind", "127.0.0.1")
_UVICORN = _python("uvicorn", "--port", "PORT", "--log-level", "warning", "asgi_app:app")
_GUNICORN = _python("gunicorn", "-b", "127.0.0.1:PORT", "--log-level", "warning", "wsgi_app:app")
_PHP = ("php", "-q", "-S", "127.0.0.1:PORT", str(PROGRAMS / "binds.php"))
_NODE = ("node", str(PROGRAMS / "binds.js"), "PORT")

BINDERS = [
    Binder("http.server", _files(*_HTTP_SERVER)),
    Binder("http.server everywhere", _files(*_python("http.server", "PORT")), soak=True),
    Binder("http.server auto", _files(*_HTTP_SERVER), adopt="auto"),
    Binder("flask run", _python("flask", "--app", "flask_app", "run", "--port", "PORT"), "flask"),
    Binder("uvicorn", _UVICORN, "uvicorn"),
    Binder(
        "uvicorn --workers 2", (*_UVICORN, "--workers", "2"), "uvicorn", adopt="auto", soak=True
    ),
    Binder("gunicorn -w 2", (*_GUNICORN, "-w", "2"), "gunicorn"),
    Binder(
        "hypercorn",
        _python("hypercorn", "-b", "127.0.0.1:PORT", "asgi_app:app"),
        "hypercorn",
        soak=True,
    ),
    Binder(
        "waitress",
        _python("waitress", "--listen", "127.0.0.1:PORT", "wsgi_app:app"),
        "waitress",
        soak=True,
    ),
    Binder("php -S", _PHP, program="php"),
    Binder("node", (*_NODE, "127.0.0.1"), program="node"),
    Binder("node everywhere", _NODE, program="node", adopt=":PORT", soak=True),
    Binder("nginx", _nginx("127.0.0.1:PORT"), program="nginx", options=_QUIT),
    Binder("nginx reuseport", _nginx("127.0.0.1:PORT reuseport"), program="nginx", options=_QUIT),
    Binder("static C", ("./server", "PORT"), program="cc", source="binds.c"),
    Binder("C, epoll first", ("./server", "PORT", "epoll"), program="cc", source="binds.c"),
    Binder("C, signals", ("./server", "PORT", "signals"), program="cc", source="binds.c"),
    Binder("sh -c exec", ("sh", "-c", "exec ./server PORT"), program="cc", source="binds.c"),
    Binder("sh -c true", ("sh", "-c", "./server PORT; true"), program="cc", source="binds.c"),
]
