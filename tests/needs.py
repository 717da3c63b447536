"""Programs of the system that a test cannot do without."""

from __future__ import annotations

import os
import shutil

import pytest

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # where servers are, and users' PATH is not


def need(program: str) -> str:
    """Return the path of a program; without it skip the test, but under CI fail it."""
    path = shutil.which(program) or shutil.which(program, path=_SBIN)
    if path is None:
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say(f"{program} is not installed")
    return path
