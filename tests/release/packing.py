"""Archives for tests, also those that no honest program writes."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from typing import NamedTuple


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
