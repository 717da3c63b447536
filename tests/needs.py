"""What a test cannot do without, such as programs of the system."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # where servers are, and users' PATH is not


def need(program: str) -> str:
    """Return the path of a program; without it skip the test, but under CI fail it."""
    path = shutil.which(program) or shutil.which(program, path=_SBIN)
    if path is None:
        cannot(f"{program} is not installed")
    return path


def cannot(reason: str) -> NoReturn:
    """Skip the test, but under CI fail it: this machine has not what it needs."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
