"""Real servers, each as it is and with what overseer_py.worker has for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.master import PROGRAMS, Master, program

# Clients that never pause keep an old worker from being quiet; what it does then is under test.
_SOON = ["--quiet-timeout", "200ms"]


@dataclass(frozen=True)
class Pair:
    """A server without and with the library."""

    name: str
    plain: list[str]
    polite: list[str]
    module: str = ""  # that must be installed
    keeps: bool = True  # it keeps connections alive

    @property
    def missing(self) -> str:
        """Why it cannot run on this machine; empty if it can."""
        if self.module and not find_spec(self.module):
            return f"no module {self.module}; pip install -e '.[test]'"
        return ""


@contextmanager
def running(command: list[str], directory: Path, *options: str) -> Iterator[Master]:
    """Run it under overseer, at a free port or where the options say, until it is ready."""
    place = [] if "--listen" in options else ["--listen", "127.0.0.1:0"]
    settings = [*place, "--chdir", str(directory), *_SOON]
    environ = ["--env", f"PYTHONPATH={PROGRAMS}"]
    # uvicorn's own master kills a process that has not answered it for 5 s.
    environ += ["--env", "UVICORN_TIMEOUT_WORKER_HEALTHCHECK=60"]
    with Master(directory, *settings, *environ, *options, "--", *command) as master:
        yield master.ready()


def _module(name: str, *arguments: str) -> tuple[list[str], list[str], str]:
    """Return how to run a server without and with the middleware; ``?sgi:app`` is said last."""
    *more, app = arguments
    command = [sys.executable, "-m", name, *more]
    return [*command, f"{app}_app:app"], [*command, f"worker_{app}:app"], name


def _gunicorn(kind: str, app: str = "wsgi") -> tuple[list[str], list[str], str]:
    return _module("gunicorn", "--log-level", "warning", "--worker-class", kind, app)


_UVICORN = ("uvicorn", "--fd", "{fd}", "--log-level", "warning")
_HYPERCORN = ("hypercorn", "-b", "fd://{fd}", "--log-level", "warning")
_PLAIN_STREAMS = program("worker_streams", "plain")

PAIRS = [
    Pair("uvicorn", *_module(*_UVICORN, "asgi")),
    Pair("uvicorn --workers 2", *_module(*_UVICORN, "--workers", "2", "asgi")),
    Pair("hypercorn -w 0", *_module(*_HYPERCORN, "-w", "0", "asgi")),
    Pair("gunicorn sync", *_gunicorn("sync"), keeps=False),
    Pair("gunicorn gthread", *_gunicorn("gthread")),
    Pair("gunicorn UvicornWorker", *_gunicorn("uvicorn_worker.UvicornWorker", "asgi")),
    Pair("waitress", program("waitress_server"), program("worker_waitress"), "waitress"),
    Pair("aiohttp", program("aiohttp_server"), program("worker_aiohttp"), "aiohttp"),
    Pair("http.server", program("worker_threads", "plain"), program("worker_threads")),
    Pair("asyncio streams", _PLAIN_STREAMS, program("worker_streams")),
    Pair("asyncio protocol", _PLAIN_STREAMS, program("worker_streams", "protocol")),
]

# Its own workers hear of the signal when they close already, and not before.
BEYOND = [Pair("hypercorn -w 1", *_module(*_HYPERCORN, "-w", "1", "asgi"))]


def named(name: str) -> Pair:
    """Return the pair of that name."""
    return next(pair for pair in PAIRS if pair.name == name)
