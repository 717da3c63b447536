"""Which file a program is, and by what name it is executed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from overseer_py.executable import look_up
from overseer_py.system.launch import Identity
from tests.needs import cannot

SOMEBODY = Identity(12345, 12346, (12346, 12347))


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Give a directory that everybody can come to."""
    if os.geteuid() != 0:
        cannot("files of others can only be made by root")
    with TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        if any(not parent.stat().st_mode & 1 for parent in Path(directory).parents):
            cannot(f"{directory} is closed to other users")
        yield Path(directory)


def program(path: Path, mode: int = 0o755) -> Path:
    """Make a file that can be executed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_links_of_directories_are_resolved_in_its_name(tmp_path: Path) -> None:
    """The last part stays, as that of a virtual environment must; what is executed is the file."""
    real = program(tmp_path / "usr" / "python3.11")
    python = tmp_path / "releases" / "1" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(real)
    (tmp_path / "current").symlink_to("releases/1")
    asked = tmp_path / "current" / "bin" / "python"
    expected = (str(asked), str(python), str(real))
    assert look_up(str(asked), "", "/", None) == expected
    assert look_up("bin/python", "", str(tmp_path / "current"), None) == expected
    assert look_up("python", f"/nowhere:{asked.parent}", "/", None) == expected
    assert look_up("python", "bin:/nowhere", str(tmp_path / "current"), None) == expected
    assert look_up("python", ":/nowhere", str(asked.parent), None) == expected  # execvp(3)


def test_what_cannot_be_executed_is_passed_over(tmp_path: Path) -> None:
    """In PATH the next one is taken, as execvp(3) does; there may be none."""
    program(tmp_path / "a" / "app", 0o644)
    (tmp_path / "b" / "app").mkdir(parents=True)
    good = program(tmp_path / "c" / "app")
    found = look_up("app", ":".join(f"{tmp_path}/{name}" for name in "abc"), "/", None)
    assert found == (str(good), str(good), str(good))
    for name in ("app", "a/app", "b/app", "d/app", f"{tmp_path}/d/app"):
        assert look_up(name, f"{tmp_path}/a:{tmp_path}/b", str(tmp_path), None) is None


@pytest.mark.parametrize(
    ("mode", "owner", "group", "may"),
    [
        (0o755, 0, 0, True),
        (0o754, 0, 0, False),
        (0o750, 0, 12347, True),
        (0o705, 0, 12347, False),
        (0o700, 12345, 0, True),
        (0o655, 12345, 12346, False),
    ],
)
def test_of_two_the_one_that_the_user_may_execute(
    open_directory: Path, mode: int, owner: int, group: int, may: bool
) -> None:
    """Root's own PATH may begin where a worker's user cannot come."""
    first = program(open_directory / "root" / "bin" / "app")
    second = program(open_directory / "usr" / "bin" / "app")
    os.chown(open_directory / "root", owner, group)
    (open_directory / "root").chmod(mode)
    search = f"{first.parent}:{second.parent}"

    def path(name: str, identity: Identity | None) -> str | None:
        found = look_up(name, search, "/", identity)
        return found and found.path

    assert path("app", None) == str(first)
    assert path("app", SOMEBODY) == str(first if may else second)
    assert path(str(first), SOMEBODY) == str(first)  # the kernel will say why not
