"""Where a guard waits for the next master."""

from __future__ import annotations

import os
import subprocess
import sys

from overseer_py.system import custody
from tests.master import ROOT
from tests.needs import cannot, need

SHOWS = "from overseer_py.system import custody; print(custody.address_of('/run/app.sock')[1:])"


def address(*wrapper: str) -> str:
    """Return the address as a process behind this command has it."""
    command = [*wrapper, sys.executable, "-c", SHOWS]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_it_is_one_for_all_of_a_user() -> None:
    """The next master finds it."""
    assert address() == custody.address_of("/run/app.sock")[1:] + "\n"
    assert custody.address_of("/run/other.sock") != custody.address_of("/run/app.sock")


def test_another_container_has_another_one() -> None:
    """Though it has the same network, the same user and the same path."""
    if os.geteuid() != 0:
        cannot("only root can make a namespace of processes")
    apart = [need("unshare"), "--pid", "--fork", "--kill-child", "--mount-proc"]
    assert address(*apart) != address()
