"""Releases to install, and a program that does it: ``python -m tests.release.installing PATH KIND``.

Tests run it under strace(1), which ends or fails it at any of its steps.  It uses no more modules
than it must, as most of its time is spent in starting.
"""

from __future__ import annotations

import hashlib
import os
import sys

from overseer_py.errors import OverseerError
from overseer_py.release.state import Facts
from overseer_py.release.store import Store

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


def read(path: str) -> bytes | None:
    """Return the content of a release at a path; a tree must be whole."""
    if not os.path.lexists(path):
        return None
    if os.path.isdir(path):
        assert sorted(os.listdir(path)) == ["bin", "link"]
        path = os.path.join(path, "link")
    with open(path, "rb") as file:
        return file.read()


def main(path: str, kind: str) -> None:
    """Install the new release, or take back the one that is committed."""
    try:
        store = Store(path)
        if kind == "restore":
            store.restore()
        elif kind == "commit":
            install(store, NEW)
            store.commit()
            store.prune()
        else:
            install(store, NEW, tree=kind == "tree")
    except OverseerError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])

