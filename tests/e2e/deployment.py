"""Releases as deploy tools lay them out: ``releases/N``, what they share, and the link ``current``.

Each release has a virtual environment of its own, in which the program finds its version.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.load import Place, fetch
from tests.master import PROGRAMS

Told = dict[str, Any]


class Deployment:
    """A service's directory on a server, as somebody who deploys sees it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.current = root / "current"
        self.shared = root / "shared"
        self.shared.mkdir(parents=True)
        (self.shared / "app.env").touch()

    def release(self, name: str) -> Path:
        """Return where a release lies."""
        return self.root / "releases" / name

    def build(self, name: str, program: Path = PROGRAMS / "tells_release.py") -> Path:
        """Put a release in place, with an environment of its own; nobody uses it yet."""
        where = self.release(name)
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", where / "venv"],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        (package,) = (where / "venv").glob("lib/python*/site-packages")
        (package / "version_of_app.py").write_text(f"VERSION = {name!r}\n")
        shutil.copy(program, where / "app.py")
        script = where / "run"
        script.write_text(f"#!/bin/sh\nexec {where}/venv/bin/python {where}/app.py\n")
        script.chmod(0o755)
        (where / "app.env").symlink_to("../../shared/app.env")
        return where

    def flip(self, name: str) -> None:
        """Let ``current`` be this release, in one step: rename(2) over the link."""
        new = self.root / "current.new"
        new.symlink_to(os.path.relpath(self.release(name), self.root))
        new.rename(self.current)

    def deploy(self, name: str) -> None:
        """Build a release, and flip."""
        self.build(name)
        self.flip(name)

    def prune(self, keep: int) -> None:
        """Remove all releases but the newest."""
        releases = sorted(self.root.glob("releases/*"), key=lambda path: path.stat().st_mtime_ns)
        for old in releases[:-keep]:
            shutil.rmtree(old)


def asked(place: Place) -> Told:
    """Return what a worker tells of itself (programs/tells_release.py)."""
    told: Told = json.loads(fetch(place))
    return told
