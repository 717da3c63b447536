"""Archives and compressed files are unpacked, within bounds.

How a file is packed is told by its ending, never guessed.  No size that a header states is
believed: what comes out is counted while it comes.  What cannot be right is a VetoError; what the
file system refuses is a StoreError.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from itertools import chain
from typing import Any, BinaryIO, cast

from overseer_py.errors import StoreError, VetoError
from overseer_py.release.stream import CHUNK, MOST_HEADER, Bounded, Readable, Xz
from overseer_py.release.tree import MOST_MEMBERS, Tree, make_directory, parts, write_file

_MOST_DIRECTORY = 1 << 24  # bytes of a zip file's directory: it is read at once
_PROGRAM = (b"\x7fELF", b"#!")
_RELEASE = "release"  # where it is unpacked: the tree itself, or a directory with the one file

# Besides their own errors, tarfile and zipfile let through what their parsing runs into.
_BROKEN = (
    EOFError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    ValueError,
    LookupError,
    ArithmeticError,
    RuntimeError,  # and NotImplementedError, RecursionError
)
# To install such a file as it is would be a mistake; ".gz" alone is not one.
_UNKNOWN = (".tar.zst", ".tzst", ".tar.lz", ".tar.lz4", ".tar.lzma", ".tar.z", ".tar.br", ".7z")


def unpack(artifact: BinaryIO, name: str, into: str, most: int) -> str:
    """Unpack an open file as its name says, below ``into``; return the path of what has come out.

    ``.tar``, ``.tar.gz``, ``.tgz``, ``.tar.bz2``, ``.tar.xz`` and ``.zip`` become a directory, a
    ``.gz`` becomes the file in it, and anything else is a file as it is.  ``into`` is a directory
    that nobody else can write to.  ``most`` bytes may come out.  The file is read from its
    beginning, and is not opened again: what was verified is what is unpacked.

    Raises VetoError, StoreError.
    """
    try:
        artifact.seek(0)
        return _unpack(artifact, name, into, most)
    except VetoError as veto:
        raise VetoError(f"{name}: {veto}") from veto
    except _BROKEN as error:
        raise VetoError(f"{name}: it is damaged: {error or type(error).__name__}") from error
    except OSError as error:
        if error.errno is None:  # gzip's and bz2's
            raise VetoError(f"{name}: it is damaged: {error}") from error
        raise StoreError(f"{error.filename or into}: {error.strerror}") from error


def _unpack(artifact: BinaryIO, name: str, into: str, most: int) -> str:
    if not os.fstat(artifact.fileno()).st_size:
        raise VetoError("it is empty")
    root = os.path.join(into, _RELEASE)
    make_directory(root)
    lower = name.lower()
    opened = next((_TARS[ending] for ending in _TARS if lower.endswith(ending)), None)
    if opened or lower.endswith(".zip"):
        tree = Tree(root)
        if opened:
            _untar(Bounded(opened(artifact), most), tree)
        else:
            _unzip(artifact, tree, most)
        tree.finish()
        return root
    if lower.endswith(_UNKNOWN):
        raise VetoError("this packing is not known; pack it as .tar.gz, .tar.xz or .zip")
    if lower.endswith(".gz"):
        return _single(Bounded(_gzip(artifact), most), name[: -len(".gz")], root)
    return _single(Bounded(artifact, most), name, root)


def _gzip(file: BinaryIO) -> Readable:
    return gzip.GzipFile(fileobj=file, mode="rb")


_TARS: dict[str, Callable[[BinaryIO], Readable]] = {
    ".tar": lambda file: file,
    ".tar.gz": _gzip,
    ".tgz": _gzip,
    ".tar.bz2": bz2.BZ2File,
    ".tbz2": bz2.BZ2File,
    ".tar.xz": Xz,
    ".txz": Xz,
}


def _single(stream: Bounded, name: str, root: str) -> str:
    """Write one file, which may be executed if it looks as if it was meant to be."""
    place = parts(name)
    if len(place) != 1 or "/" in name:
        raise VetoError("it is not named as a file is")
    first = stream.read(CHUNK)
    if not first:
        raise VetoError("it is empty")
    path = os.path.join(root, name)
    chunks = chain([first], stream.chunks())
    write_file(path, chunks, executable=first.startswith(_PROGRAM))
    return path


def _untar(stream: Bounded, tree: Tree) -> None:
    archive: Any = tarfile.TarFile(
        fileobj=cast("BinaryIO", stream), encoding="utf-8", errors="surrogateescape"
    )
    while member := archive.next():
        archive.members.clear()  # it would keep them all
        if member.size < 0 or member.issparse():
            raise VetoError(f"{member.name!r}: a file with holes")
        if member.isdir():
            tree.directory(member.name)
        elif member.issym():
            tree.link(member.name, member.linkname)
        elif member.islnk():
            tree.hard_link(member.name, member.linkname)
        elif member.isreg():
            stream.seek(member.offset_data)
            runs = bool(member.mode & stat.S_IXUSR)
            tree.file(member.name, stream.chunks(member.size), executable=runs)
        else:
            raise VetoError(f"{member.name!r}: neither a file, nor a directory, nor a link")
    # tarfile takes a header that it cannot read for the end, and the end of the file as well.
    if len(stream.last) != tarfile.BLOCKSIZE or any(stream.last):
        raise VetoError("it is cut short or damaged")
    for _ in stream.chunks():  # to the end: only there is the check sum of what it is packed with
        pass


class _Directory(io.BufferedReader):
    """A zip file of which no more than a directory's worth is read at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size > _MOST_DIRECTORY:
            raise VetoError("the directory of the zip file is too long")
        return super().read(size)

    def seek(self, position: int, whence: int = os.SEEK_SET, /) -> int:
        if position < 0 and whence == os.SEEK_SET:
            raise VetoError("it is damaged: a header points backwards")
        return super().seek(position, whence)


def _unzip(artifact: BinaryIO, tree: Tree, most: int) -> None:
    with (
        open(artifact.fileno(), "rb", buffering=0, closefd=False) as raw,
        zipfile.ZipFile(_Directory(raw)) as archive,
    ):
        members = archive.infolist()
        if len(members) > MOST_MEMBERS:
            raise VetoError(f"the archive has more than {MOST_MEMBERS} members")
        for member in members:
            most -= _unzip_member(archive, member, tree, most)


def _unzip_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, tree: Tree, most: int) -> int:
    name, mode = member.orig_filename, member.external_attr >> 16  # orig_filename: NUL and all
    if member.flag_bits & 1 or member.compress_type not in (
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
    ):
        # zipfile unpacks the others without a bound
        raise VetoError(f"{name!r}: encrypted, or packed by another method than deflate")
    if "\\" in name:
        raise VetoError(f"{name!r}: a backslash in a name")
    if name.endswith("/"):
        tree.directory(name)
        return 0
    with archive.open(member) as file:
        stream = Bounded(file, most)
        match stat.S_IFMT(mode):
            case 0 | stat.S_IFREG:
                tree.file(name, stream.chunks(), executable=bool(mode & stat.S_IXUSR))
            case stat.S_IFLNK:
                tree.link(name, stream.read(MOST_HEADER).decode())
            case _:
                raise VetoError(f"{name!r}: neither a file, nor a directory, nor a link")
        return stream.tell()
