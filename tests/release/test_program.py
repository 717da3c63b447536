"""Files that could never be run."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import pytest

from overseer_py.errors import VetoError
from overseer_py.release.program import check_program

PROGRAM = Path(os.path.realpath("/bin/true")).read_bytes()


def refused(path: Path, content: bytes) -> str:
    """Return why a file is refused, an empty string if it is not."""
    path.write_bytes(content)
    try:
        check_program(str(path))
    except VetoError as veto:
        return str(veto)
    return ""


@pytest.mark.parametrize(
    "content",
    [PROGRAM, b"#!/bin/sh\necho hello\r\n", b"#!/bin/sh", b"just data\r\n", b"\x00" * 10],
)
def test_what_may_be_run(tmp_path: Path, content: bytes) -> None:
    """Programs, scripts, and what nothing can be said of."""
    assert refused(tmp_path / "app", content) == ""


def test_python_itself() -> None:
    """A program of some size."""
    check_program(os.path.realpath(sys.executable))


def test_an_empty_file(tmp_path: Path) -> None:
    """It would even start, with some shells."""
    assert refused(tmp_path / "app", b"") == "it is empty"


@pytest.mark.parametrize("part", [0.0001, 0.01, 0.5, 0.999])
def test_a_cut_program(tmp_path: Path, part: float) -> None:
    """Wherever it was cut, the headers know better."""
    cut = PROGRAM[: max(5, int(len(PROGRAM) * part))]
    assert refused(tmp_path / "app", cut).startswith("it is cut short")


def test_a_cut_program_without_sections(tmp_path: Path) -> None:
    """What sstrip(1) has left is told by what is to be loaded."""
    without = bytearray(PROGRAM)
    struct.pack_into("<Q", without, 40, 0)
    struct.pack_into("<HHH", without, 58, 0, 0, 0)
    assert refused(tmp_path / "app", bytes(without)) == ""
    assert refused(tmp_path / "app", bytes(without[: len(without) // 3])).startswith("it is cut")


def test_another_machine(tmp_path: Path) -> None:
    """It is named, and so is this one."""
    other = bytearray(PROGRAM)
    struct.pack_into("<H", other, 18, 0xF7)  # BPF
    assert refused(tmp_path / "app", bytes(other)).endswith(f"this is {os.uname().machine}")


@pytest.mark.parametrize(
    "line", [b"#!/usr/bin/env python3\r\n", b"#!/bin/sh\r", b"#!/bin/sh -e\r\n"]
)
def test_a_script_from_windows(tmp_path: Path, line: bytes) -> None:
    """The kernel would look for an interpreter whose name ends in CR: execve(2)."""
    assert "CR LF" in refused(tmp_path / "app", line + b"print(1)\r\n")


def test_garbage_behind_the_magic(tmp_path: Path) -> None:
    """Every header is answered."""
    for byte in range(256):
        content = b"\x7fELF" + bytes([byte % 4, byte % 3]) + bytes([byte]) * 300
        assert refused(tmp_path / "app", content)
