"""File systems with little room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.needs import cannot, need


@contextmanager
def tmpfs(place: Path, options: str) -> Iterator[Path]:
    """Give an empty one there, with these options (tmpfs(5)); it needs root."""
    if os.geteuid() != 0:
        cannot("only root can mount a file system")
    place.mkdir()
    mount = [need("mount"), "-t", "tmpfs", "-o", options, "none", str(place)]
    if subprocess.run(mount, check=False).returncode:
        cannot("a file system cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run([need("umount"), str(place)], check=True)


def fill(filler: Path) -> int:
    """Take all the space that is left, and return the size of what takes it."""
    with filler.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return file.tell()
