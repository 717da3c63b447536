"""The variables of a service: files, directories, what is stronger than what."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from overseer_py.environment import changes, of_service, read_directory
from overseer_py.errors import ConfigError
from overseer_py.settings import Settings

SETTINGS = Settings(command=("app",))


def written(directory: Path, **files: bytes) -> Path:
    """Write files into a new directory."""
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"blue", "blue"),
        (b"blue\n", "blue"),
        (b"blue \t \n", "blue"),
        (b"  blue  sky \nand more\n", "  blue  sky"),
        (b"a\0b\0\n", "a\nb\n"),
        (b"\n", ""),
        (b" \n", ""),
        (b"\nsecond\n", ""),
        (b"\xff=\xe9\n", os.fsdecode(b"\xff=\xe9")),
        (b"x" * (1 << 17) + b"\n", "x" * (1 << 17)),
        (b"", None),
    ],
)
def test_a_file_of_a_directory(tmp_path: Path, content: bytes, value: str | None) -> None:
    """As envdir(8) has it: the first line, its end trimmed; nothing at all takes it away."""
    written(tmp_path / "env", COLOUR=content)
    assert list(read_directory("env", str(tmp_path))) == [("COLOUR", value)]


def test_links_and_what_a_cluster_mounts(tmp_path: Path) -> None:
    """Links are followed; what begins with a dot is no variable, nor looked at."""
    directory = written(tmp_path / "env")
    os.mkfifo(directory / ".pipe")
    (directory / "..data").symlink_to(written(tmp_path / "data", COLOUR=b"blue"))
    (directory / "COLOUR").symlink_to("..data/COLOUR")
    assert list(read_directory(str(directory), "/nowhere")) == [("COLOUR", "blue")]


def test_what_is_no_variable(tmp_path: Path) -> None:
    """The file is named, and nobody waits for who may write into a FIFO."""
    directory = written(tmp_path / "env", SIZE=b"1")
    for name, make, reason in (
        ("PIPE", os.mkfifo, "not a file"),
        ("DIRECTORY", os.mkdir, "not a file"),
        ("LOST", lambda path: path.symlink_to("nowhere"), "No such file or directory"),
        ("A=B", lambda path: path.touch(), "a variable's name has no '='"),
        ("LONG", lambda path: path.write_bytes(bytes(1 << 18)), "a line of more than 128 KiB"),
    ):
        make(directory / name)
        with pytest.raises(ConfigError) as refused:
            list(read_directory("env", str(tmp_path)))
        assert str(refused.value) == f"env_dir: env/{name}: {reason}"
        os.rename(directory / name, tmp_path / name)
    with pytest.raises(ConfigError, match=r"^env_dir: no: No such file or directory$"):
        list(read_directory("no", str(tmp_path)))


def test_what_is_stronger_than_what(tmp_path: Path) -> None:
    """The base is the weakest, then files, directories, and what is given by itself."""
    names = "ABCD"
    base = dict.fromkeys(names, "base") | {"NOTIFY_SOCKET": "/s", "OVERSEER_WORKERS": "2"}
    (tmp_path / "1.env").write_text("B=file\nC=first\nD=file\nNEW=file\n")
    (tmp_path / "2.env").write_text("C=file\n")
    written(tmp_path / "1", C=b"first", D=b"directory", NEW=b"")
    written(tmp_path / "2", C=b"directory")
    settings = replace(
        SETTINGS, env_file=("1.env", "2.env"), env_dir=("1", "2"), env=(("D", "itself"),)
    )
    found = of_service(settings, base, str(tmp_path))
    assert found == {"A": "base", "B": "file", "C": "directory", "D": "itself"}
    (tmp_path / "2" / "D").touch()
    assert of_service(settings, base, str(tmp_path)) == found  # given by itself, it comes back
    (tmp_path / "2" / "A").touch()
    assert "A" not in of_service(settings, base, str(tmp_path))


def test_changes_are_told_by_name() -> None:
    """What came, what went, what has another value; not what the master itself sets."""
    before = {"SAME": "1", "GONE": "1", "OTHER": "1", "LISTEN_FDS": "1", "EINHORN_FDS": "3"}
    after = {"SAME": "1", "OTHER": "2", "NEW": "1", "PWD": "/", "OVERSEER_SLOT": "0"}
    assert list(changes(before, after)) == ["GONE", "NEW", "OTHER"]
    assert list(changes(after, after)) == []
