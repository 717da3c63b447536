"""Whether a file could be run at all: what is cheap to see before anything depends on it.

Only what is certainly wrong is refused; a file that is neither ELF nor a script is not judged.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import BinaryIO

from overseer_py.errors import VetoError

# elf(5), e_machine: what a kernel of this uname(2) machine runs; of others nothing is said.
_MACHINES = {
    "x86_64": {62, 3},  # and i386
    "i686": {3},
    "i386": {3},
    "aarch64": {183, 40},  # and arm
    "armv7l": {40},
    "armv6l": {40},
    "ppc64le": {21},
    "ppc64": {21, 20},
    "s390x": {22},
    "riscv64": {243},
    "loongarch64": {258},
}
_SHEBANG_MOST = 256  # bytes; BINPRM_BUF_SIZE, execve(2)
_MANY = 0xFFFF  # PN_XNUM: the number does not fit, and is elsewhere
_LOADED = 1  # PT_LOAD


def check_program(path: str) -> None:
    """Raise VetoError with the reason if this file cannot be what it looks like.

    It is empty; an ELF file for another machine, or one that ends before what its headers promise;
    or a script whose ``#!`` line ends in CR LF, so that no such interpreter is found.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with open(fd, "rb") as file:
        size = os.fstat(fd).st_size
        beginning = file.read(_SHEBANG_MOST)
        if not size:
            raise VetoError("it is empty")
        if beginning.startswith(b"\x7fELF"):
            _check_elf(file, beginning, size)
        elif beginning.startswith(b"#!") and b"\r" in beginning.partition(b"\n")[0]:
            raise VetoError("its #! line ends in CR LF; write it with LF alone")


def _check_elf(file: BinaryIO, beginning: bytes, size: int) -> None:
    """Read the header, and the table of what is to be loaded: elf(5)."""
    wide, order = beginning[4:5] == b"\x02", ">" if beginning[5:6] == b"\x02" else "<"
    header = struct.Struct(f"{order}16xHHI{'QQQ' if wide else 'III'}IHHHHHH")
    if len(beginning) < header.size:
        raise VetoError(_cut(size, header.size))
    (_, machine, _, _, segments, sections, *_, each, number, section, count, _) = (
        header.unpack_from(beginning)
    )
    mine = os.uname().machine
    native = "<" if sys.byteorder == "little" else ">"
    if mine in _MACHINES and (machine not in _MACHINES[mine] or order != native):
        raise VetoError(f"it is a program for another machine (ELF {machine}), this is {mine}")
    number = 0 if number == _MANY else number
    end = max(segments + number * each, sections + count * section)
    if end > size:
        raise VetoError(_cut(size, end))
    # One that is stripped of its sections has these alone to tell how long it is.
    entry = struct.Struct(f"{order}I4xQ16xQ" if wide else f"{order}II8xI")
    if each >= entry.size:
        file.seek(segments)
        table = file.read(number * each)
        for at in range(0, len(table), each):
            kind, offset, length = entry.unpack_from(table, at)
            if kind == _LOADED and offset + length > size:
                raise VetoError(_cut(size, offset + length))


def _cut(size: int, wanted: int) -> str:
    return f"it is cut short: an ELF file of {size} bytes, whose headers speak of {wanted}"
