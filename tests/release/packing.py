"""Archives for tests, also those that no honest program writes."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from overseer_py.errors import VetoError
from overseer_py.release.archive import unpack

MIB = 1 << 20


class Member(NamedTuple):
    """Something in an archive; what is not given is a plain file."""

    name: str
    content: bytes = b""
    kind: bytes = tarfile.REGTYPE
    target: str = ""
    mode: int = 0o644


def tar(*members: Member, form: int = tarfile.PAX_FORMAT, packed: str = "") -> bytes:
    """Return a tar file, packed by ``gz``, ``bz2`` or ``xz`` if asked for."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{packed}", format=form) as archive:  # type: ignore[call-overload]
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.type, info.linkname, info.mode = member.kind, member.target, member.mode
            info.size = len(member.content)
            info.uid = info.gid = 12345
            archive.addfile(info, io.BytesIO(member.content))
    return out.getvalue()


def zipped(*members: Member, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for member in members:
            info = zipfile.ZipInfo(member.name)
            kind = stat.S_IFLNK if member.kind == tarfile.SYMTYPE else stat.S_IFREG
            kind = stat.S_IFIFO if member.kind == tarfile.FIFOTYPE else kind
            info.external_attr = (kind | member.mode) << 16
            info.compress_type = method
            archive.writestr(info, member.target.encode() or member.content)
    return out.getvalue()


APP = Member("app", b"#!/bin/sh\n", mode=0o755)
BOTH = pytest.mark.parametrize("pack", [tar, zipped])
Pack = Callable[..., bytes]


def unpacked(into: Path, name: str, content: bytes, most: int = MIB) -> Path:
    """Return what comes out of a file in a directory of its own."""
    staging = into / "staging"
    staging.mkdir(parents=True)
    with (into / "artifact").open("w+b") as file:
        file.write(content)
        file.flush()
        return Path(unpack(file, name, str(staging), most))


def refused(into: Path, name: str, content: bytes, most: int = MIB) -> str:
    """Return why a file is refused; nothing of it is outside of the staging directory."""
    with pytest.raises(VetoError) as veto:
        unpacked(into / "inner" / "most", name, content, most)
    assert sorted(os.listdir(into)) == ["inner"]
    assert sorted(os.listdir(into / "inner")) == ["most"]
    assert sorted(os.listdir(into / "inner" / "most")) == ["artifact", "staging"]
    return str(veto.value)


def ending(pack: Pack) -> str:
    """Return the name of a file that was packed so."""
    return "app.tar" if pack is tar else "app.zip"
