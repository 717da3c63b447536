"""Releases to install, and a program that does it: ``python -m tests.release.installing``.

Tests have it traced by strace(1), which ends or fails it at any of its steps.  It forks for each
line ``PATH KIND``, as most of the time would be spent in starting: the child stops, its pid is
printed, and once somebody has let it go on and it has ended, how it ended.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from overseer_py.errors import OverseerError
from overseer_py.release.state import Facts
from overseer_py.release.store import Store

_PR_SET_PTRACER = 0x59616D61

OLD, NEW = b"#!/bin/sh\necho old\n" * 500, b"#!/bin/sh\necho new\n" * 500


def digest(content: bytes) -> str:
    """Return by what a release of this content is known."""
    return hashlib.sha256(content).hexdigest()


def install(store: Store, content: bytes, *, tree: bool = False, version: str = "") -> str:
    """Install a file with this content, or a tree with such a file in it; return its digest."""
    with store.stage() as staging:
        staged = os.path.join(staging.path, "release")
        if tree:
            os.makedirs(os.path.join(staged, "bin"))
            os.symlink("bin/app", os.path.join(staged, "link"))
        with staging.create("release/bin/app" if tree else "release") as file:
            file.write(content)
        name = digest(content + b"tree" * tree)
        known = {"ETag": name[:8]}
        store.install(staged, name, Facts(float(len(store.releases)), version, known))
    return name


def committed(store: Store, *contents: bytes, tree: bool = False) -> list[str]:
    """Install and commit releases, one after the other; return their digests."""
    done = []
    for content in contents:
        done.append(install(store, content, tree=tree))
        store.commit()
    return done


def write(path: str, content: bytes, mode: int = 0o644) -> None:
    """Put a file somewhere, as an operator would."""
    Path(path).write_bytes(content)
    os.chmod(path, mode)


def read(path: str) -> bytes | None:
    """Return the content of a release at a path; a tree must be whole."""
    if not os.path.lexists(path):
        return None
    if os.path.isdir(path):
        assert sorted(os.listdir(path)) == ["bin", "link"]
        path = os.path.join(path, "link")
    with open(path, "rb") as file:
        return file.read()


def perform(path: str, kind: str) -> None:
    """Install the new release, or take back the one that is committed."""
    store = Store(path)
    if kind == "restore":
        store.restore()
    elif kind == "commit":
        install(store, NEW)
        store.commit()
        store.prune()
    else:
        install(store, NEW, tree=kind == "tree")


def child(path: str, kind: str) -> NoReturn:
    """Stop, to be traced, and then perform; what went wrong is in a file beside."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1))  # strace is not our parent: ptrace(2), Yama
    os.kill(os.getpid(), signal.SIGSTOP)
    try:
        perform(path, kind)
    except (OverseerError, OSError) as error:
        Path(f"{os.path.dirname(path)}.error").write_text(f"{type(error).__name__}: {error}")
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Perform what is asked for, line by line."""
    for line in sys.stdin:
        pid = os.fork() or child(*line.split())
        os.waitpid(pid, os.WUNTRACED)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        sys.stdout.write(f"{status}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
