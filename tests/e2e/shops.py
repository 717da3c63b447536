"""Releases, where they are had from, and the service that takes them; the updater in a hurry."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from overseer_py import Client, RequestError
from tests.e2e.commands import TCP, overseer
from tests.e2e.documents import STATUS, TEXT, TIME, WORKER, Document, Kind, list_of, maybe, one_of
from tests.load import Load, fetch
from tests.master import HELLO, PATIENCE, ROOT, Fact, Master
from tests.release.servers import Answer, Server, conditional

DIGEST = Kind("a digest", lambda v: isinstance(v, str) and len(bytes.fromhex(v)) == 32)
SOURCE = {"url": TEXT, "last_checked_at": maybe(TIME), "last_error": maybe(TEXT)}
SOURCE |= {"next_check_at": maybe(TIME)}
RELEASE = {
    "digest": DIGEST,
    "version": TEXT,
    "state": one_of("trying", "current", "previous", "kept", "held"),
    "installed_at": one_of("", TIME),
    "size": Kind("bytes", lambda v: type(v) is int and v >= 0),
    "reason": TEXT,
}

_PROGRAM = """\
#!{python}
import os, sys, threading
sys.path.insert(0, {examples!r})
import hello

class Says(hello.Hello):
    def do_GET(self):
        body = ({label!r} + " " + os.environ.get("OVERSEER_RELEASE", "")).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

hello.Hello = Says
{before}
hello.main()
{after}
"""
BROKEN = b"import nothing_like_it\n"
# Ends as it should not, a moment after it is known to be ready; what it has in hand it finishes.
_SOON = """\
import time
from overseer_py import Client

def is_ready():
    workers = Client(pid=int(os.environ["OVERSEER_PID"])).status()["workers"]
    return any(each["pid"] == os.getpid() and each["ready_at"] for each in workers)

def end():
    while not is_ready():
        time.sleep(0.05)
    time.sleep(0.2)
    os.kill(os.getpid(), 15)

threading.Thread(target=end, daemon=True).start()
"""
# What would take minutes takes seconds; and the master starts the next updater at once.
_HURRY = """\
import sys
if "overseer_py.release" in sys.orig_argv or "overseer_py.release.reader" in sys.orig_argv:
    from overseer_py.release import candidate, hooks
    hooks.TIMEOUT = {hooks}
    candidate.Limits.__init__.__defaults__ = ({looks}, {looks}, 1 << 30)
elif "overseer_py" in sys.orig_argv and "run" in sys.orig_argv:
    from overseer_py import updates
    updates._BACKOFF = updates._BACKOFF_LIMIT = 0.01
"""


def release(label: str, *, before: str = "", after: str = "") -> bytes:
    """Return a program that answers with the label, and with the release that it is told it is."""
    examples = str(Path(HELLO[1]).parent)
    python = sys.executable
    return _PROGRAM.format(
        python=python, examples=examples, label=label, before=before, after=after
    ).encode()


def dying(label: str) -> bytes:
    """Return one that gets ready every time, and ends with status 3 every time."""
    return release(label, before=_SOON, after="sys.exit(3)")


def digest(content: bytes) -> str:
    """Return by what a release of these bytes is known."""
    return hashlib.sha256(content).hexdigest()


def hurry(directory: Path, *, looks: float = 30.0, hooks: float = 30.0) -> dict[str, str]:
    """Return the variables with which looks, downloads and hooks have only so many seconds."""
    place = directory / "hurry"
    place.mkdir()
    (place / "sitecustomize.py").write_text(_HURRY.format(looks=looks, hooks=hooks))
    return {"PYTHONPATH": f"{place}:{ROOT}"}  # the code of this checkout


class Shop:
    """One place on a web server, and what is to be had there."""

    def __init__(self, server: Server, path: str = "/app.py") -> None:
        self._server, self._path = server, path
        self.url = server.url + path

    def offer(self, content: bytes, name: str = "") -> bytes:
        """From now on it is this; return it."""
        if name:
            self.answer(named(content, name))
        else:
            self.answer(conditional(content, f'"{digest(content)[:9]}"'))
        return content

    def answer(self, *answers: Answer) -> None:
        """Answer so from now on."""
        self._server.at(self._path, *answers)

    @property
    def looks(self) -> int:
        """How often it was asked for, whatever came of it."""
        return sum(seen.path == self._path for seen in list(self._server.seen))

    @property
    def downloads(self) -> int:
        """How often it was fetched rather than looked at, once something is installed."""
        seen = [each for each in list(self._server.seen) if each.path == self._path]
        return sum("If-None-Match" not in each.headers for each in seen)


def plug_in(directory: Path, text: str) -> dict[str, str]:
    """Install a source ``ours:`` of this text; return the variables with which it is found."""
    site = directory / "site"
    about = site / "ours-1.dist-info"
    about.mkdir(parents=True)
    (site / "ours_source.py").write_text(text)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[overseer_py.fetchers]\nours = ours_source:Source\n")
    return {"PYTHONPATH": str(site)}


def named(content: bytes, name: str) -> Answer:
    """Return the answer of a server that says what the file is called."""
    disposition = f'attachment; filename="{name}"'

    def answer(to: Any) -> None:
        headers = {"Content-Length": str(len(content)), "Content-Disposition": disposition}
        to.head(200, headers)
        to.wfile.write(content)

    return answer


class Service:
    """A master that fetches, its users, and its clients; from ``with`` to its end."""

    def __init__(  # noqa: PLR0913 - what is rarely wanted has a name
        self,
        place: Path,
        url: str,
        *options: str,
        to: str = "srv/app.py",
        command: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        interval: str = "1s",
    ) -> None:
        self.place, self.path = place, place / to
        self.path.parent.mkdir(exist_ok=True)
        self._arguments = [*TCP, "--name", "app", "--fetch", url, "--to", str(self.path)]
        self._arguments += ["--interval", interval, *options, "--"]
        self._arguments += command or (sys.executable, str(self.path))
        self._env = env
        self._stack = ExitStack()
        self.load: Load | None = None

    def __enter__(self) -> Self:
        self._stack.__enter__()
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def start(self) -> Master:
        """Run a master, also a second one after the first."""
        self.master = Master(self.place, *self._arguments, env=self._env)
        return self._stack.enter_context(self.master)

    def crowd(self, clients: int = 2) -> Load:
        """Have users from now on."""
        self.load = self._stack.enter_context(Load(self.master.ready().port(), clients))
        return self.load

    # -- what happens --------------------------------------------------------------------------

    def committed(self, content: bytes, after: int = 0) -> Fact:
        """Wait until a release stays."""
        return self.master.saw("release-committed", release=digest(content), after=after)

    def held(self, content: bytes, after: int = 0) -> Fact:
        """Wait until a release is held."""
        return self.master.saw("release-held", release=digest(content), after=after)

    def says(self) -> str:
        """Return the label that is answered now, once it is the release that it says."""
        label, _, told = fetch(self.master.port()).partition(" ")
        assert self.path.is_dir() or told in ("", digest(self.path.read_bytes()))
        return label

    def served_all(self) -> None:
        """Assert that users go on to be served, and that nobody was not."""
        assert self.load
        self.load.more()
        failed = self.load.failures
        assert not failed, f"{failed[:9]}\n{self.master.transcript()}"

    def says_still(self) -> str:
        """Return the label that is answered, whatever is at the path by now."""
        return fetch(self.master.port()).partition(" ")[0]

    # -- what is asked -------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """Somebody who asks the master."""
        return Client(pid=self.master.pid)

    def status(self) -> Document:
        """Return ``status --json`` after a look at every field of it."""
        done = overseer(self.place, "status", "app", "--json")
        assert done.returncode == 0, done.stderr
        found: Document = json.loads(done.stdout)
        releases = {"release": maybe(DIGEST), "previous_release": maybe(DIGEST)}
        wanted = STATUS | releases | {"held": list_of(DIGEST), "fetcher": SOURCE}
        amiss = {key: value for key, value in found.items() if value != wanted.get(key)}
        assert not amiss, f"{amiss}"
        assert found.keys() == wanted.keys()
        assert found["workers"] == list_of(WORKER)
        return found

    def looked(self, before: str | None) -> Document:
        """Wait until the source was looked at after ``before``; return what status says of it."""
        while (found := self.client.status()["fetcher"])["last_checked_at"] == before:
            os.sched_yield()
        return dict(found)

    def refused(self, reason: str, event: str = "release-vetoed") -> Document:
        """Look now, and see that what there is is refused, and nothing has happened."""
        files, checked = self.on_disk(), self.client.status()["fetcher"]["last_checked_at"]
        rollouts = len(self.master.all("rollout-started"))
        with pytest.raises(RequestError, match=reason):
            self.client.fetch(PATIENCE)
        found = self.looked(checked)
        assert re.search(reason, found["last_error"])
        self.master.saw(event, reason=found["last_error"])
        assert self.on_disk() == files
        assert len(self.master.all("rollout-started")) == rollouts
        self.served_all()
        return found

    def releases(self) -> dict[str, str]:
        """Return the state of each release, from a document of which every field was seen."""
        done = overseer(self.place, "releases", "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found == {"releases": list_of(RELEASE)}
        return {each["digest"]: each["state"] for each in found["releases"]}

    def updater(self) -> int:
        """Return the pid of the updater that was started last."""
        return int(self.master.all("updater-started")[-1]["pid"])

    # -- what there is -------------------------------------------------------------------------

    def on_disk(self) -> dict[str, object]:
        """Return all that lies at the path and beside it, but for what is remembered."""
        found: dict[str, object] = {}
        for folder, _, files in os.walk(self.path.parent):
            for name in files:
                file = Path(folder, name)
                stat = file.lstat()
                if name != "state.json":
                    found[str(file)] = (stat.st_mode, stat.st_uid, stat.st_ino, file.read_bytes())
        return found


def uss(pid: int) -> int:
    """Return the bytes that a process alone has, smaps_rollup of proc(5)."""
    return int(psutil.Process(pid).memory_full_info().uss)


class Maker:
    """Who makes releases, and has a key of minisign's."""

    def __init__(self) -> None:
        self._id, self._key = os.urandom(8), Ed25519PrivateKey.generate()

    @property
    def public(self) -> str:
        """The key as minisign writes it."""
        raw = b"Ed" + self._id + self._key.public_key().public_bytes_raw()
        return base64.b64encode(raw).decode()

    def sign(self, content: bytes, comment: str) -> bytes:
        """Return what is in the .minisig of these bytes."""
        made = self._key.sign(hashlib.blake2b(content).digest())
        first = base64.b64encode(b"ED" + self._id + made).decode()
        second = base64.b64encode(self._key.sign(made + comment.encode())).decode()
        return f"untrusted comment: x\n{first}\ntrusted comment: {comment}\n{second}\n".encode()
