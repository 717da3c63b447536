"""Archives: what they may have in them, and that nothing of them gets out."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import random
import resource
import stat
import subprocess
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overseer_py.errors import OverseerError, StoreError, VetoError
from overseer_py.release.archive import unpack
from tests.release.packing import APP, MIB, Member, Pack, ending, refused, tar, unpacked, zipped

LINK = tarfile.SYMTYPE


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tar", tar(APP)),
        ("a.tar.gz", tar(APP, packed="gz")),
        ("A.TGZ", tar(APP, packed="gz")),
        ("a.tar.bz2", tar(APP, packed="bz2")),
        ("a.tar.xz", tar(APP, packed="xz")),
        ("a.tar.xz", lzma.compress(tar(APP)[:700]) + lzma.compress(tar(APP)[700:])),
        ("a.tar.xz", lzma.compress(tar(APP)) + bytes(200_000)),
        ("a.zip", zipped(APP)),
        ("a.zip", zipped(APP, method=zipfile.ZIP_STORED)),
    ],
)
def test_trees(tmp_path: Path, name: str, content: bytes) -> None:
    """By the ending of the name, however that is written."""
    root = unpacked(tmp_path, name, content)
    assert (root / "app").read_bytes() == APP.content
    assert stat.S_IMODE((root / "app").stat().st_mode) == 0o755
    assert stat.S_IMODE(root.stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("name", "content", "called", "mode"),
    [
        ("app.gz", gzip.compress(b"\x7fELF", mtime=0), "app", 0o755),
        (
            "app.txt.gz",
            gzip.compress(b"text", mtime=0) + gzip.compress(b"more", mtime=0),
            "app.txt",
            0o644,
        ),
        ("app", b"#!/bin/sh\n", "app", 0o755),
        ("app.xz", b"data", "app.xz", 0o644),
        ("app.jar", zipped(APP), "app.jar", 0o644),
    ],
)
def test_single_files(tmp_path: Path, name: str, content: bytes, called: str, mode: int) -> None:
    """A .gz is unpacked, all else stays as it is; what looks like a program may be run."""
    path = unpacked(tmp_path, name, content)
    assert path.name == called
    assert path.read_bytes() == (gzip.decompress(content) if name.endswith(".gz") else content)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_what_gnu_tar_and_zip_write(tmp_path: Path) -> None:
    """Directories, links, long names, modes: as they were, but for owners and write bits."""
    source = tmp_path / "source"
    deep = source / "bin" / ("long" * 40)
    deep.mkdir(parents=True)
    (deep / "app").write_bytes(b"app" * 1000)
    (deep / "app").chmod(0o4775)
    (source / "empty").mkdir()
    (source / "same").hardlink_to(deep / "app")
    (source / "bin" / "link").symlink_to("../same")
    subprocess.run(["tar", "-C", source, "-cJf", tmp_path / "gnu", "."], check=True)
    root = unpacked(tmp_path / "out", "app.tar.xz", (tmp_path / "gnu").read_bytes())
    assert (root / "bin" / "link").read_bytes() == b"app" * 1000
    assert stat.S_IMODE((root / deep.relative_to(source) / "app").stat().st_mode) == 0o755
    assert (root / "same").samefile(root / deep.relative_to(source) / "app")
    assert (root / "same").stat().st_uid == os.geteuid()
    assert (root / "empty").is_dir()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.gz", gzip.compress(bytes(4 * MIB))),
        ("a.tar.gz", tar(Member("x", bytes(4 * MIB)), packed="gz")),
        ("a.tar.bz2", tar(Member("x", bytes(4 * MIB)), packed="bz2")),
        ("a.tar.xz", tar(Member("x", bytes(4 * MIB)), packed="xz")),
        ("a.tar.xz", lzma.compress(tar(APP)) + lzma.compress(bytes(4 * MIB))),
        ("a.tar.gz", gzip.compress(tar(APP) + bytes(4 * MIB))),
        ("a.zip", zipped(Member("x", bytes(4 * MIB)))),
        ("a.zip", zipped(*(Member(f"x{i}", bytes(MIB // 2)) for i in range(8)))),
        ("a", bytes(4 * MIB)),
    ],
)
def test_bombs(tmp_path: Path, name: str, content: bytes) -> None:
    """What comes out is counted while it comes, and what is too much is not written."""
    assert "unpacks to more than" in refused(tmp_path, name, content)
    files = [path for path in tmp_path.rglob("staging/**/*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MIB


@pytest.mark.parametrize("name", ["a.gz", "a.tar.bz2", "a.tar.xz", "a.zip"])
def test_a_bomb_needs_no_memory(tmp_path: Path, name: str) -> None:
    """What comes out passes through a few pages."""
    zeros = Member("x", bytes(48 * MIB))
    content = gzip.compress(zeros.content) if name == "a.gz" else zipped(zeros)
    if ".tar." in name:
        content = tar(zeros, packed=name.rpartition(".")[2])
    del zeros
    tracemalloc.start()
    try:
        refused(tmp_path, name, content, 40 * MIB)
        assert tracemalloc.get_traced_memory()[1] < 12 * MIB  # the window of xz is 8 MiB
    finally:
        tracemalloc.stop()


def test_a_zip_file_that_lies_about_its_size(tmp_path: Path) -> None:
    """A size that is too small is found by the check sum, at the latest."""
    content = zipped(Member("x", bytes(4 * MIB)))
    lying = content.replace((4 * MIB).to_bytes(4, "little"), (1).to_bytes(4, "little"))
    assert lying != content
    assert "damaged" in refused(tmp_path, "a.zip", lying)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_zipfile_does_not_bound(tmp_path: Path, method: int) -> None:
    """A few bytes of bzip2 are unpacked at once, to any size."""
    assert "method" in refused(tmp_path, "a.zip", zipped(Member("x", b"x"), method=method))


def test_headers_without_end(tmp_path: Path) -> None:
    """A name of a gigabyte would be read into memory before it was looked at."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 900_000
    content = info.tobuf() + bytes(900_608) + tar(APP)
    assert "header is too long" in refused(tmp_path, "a.tar", content)


def test_headers_of_headers(tmp_path: Path) -> None:
    """Each is read within the one before it, by tarfile."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 10
    assert "damaged" in refused(
        tmp_path, "a.tar", (info.tobuf() + bytes(512)) * 900 + tar(APP), 9 * MIB
    )


@pytest.mark.parametrize("size", [-512, -1024, -(1 << 40)])
def test_a_header_that_points_backwards(tmp_path: Path, size: int) -> None:
    """It would be read again and again: CVE-2025-8194."""
    info = tarfile.TarInfo("x")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (size % (1 << 96)).to_bytes(12, "big")
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 32 * 8 + sum(header[156:512]))
    assert refused(tmp_path, "a.tar", tar(APP)[:1024] + bytes(header) + bytes(1024))


@pytest.mark.parametrize("packed", ["", "gz", "bz2", "xz"])
def test_truncated_archives(tmp_path: Path, packed: str) -> None:
    """Also where tarfile sees nothing: between two members."""
    noise = random.Random(1).randbytes(3000)
    whole = tar(APP, Member("b", noise), Member("c", noise), packed=packed)
    name = f"a.tar.{packed}" if packed else "a.tar"
    for end in range(100, len(whole) if packed else 8704, 256):
        refused(tmp_path / str(end), name, whole[:end])


@pytest.mark.parametrize("packed", ["gz", "bz2", "xz"])
def test_damaged_archives(tmp_path: Path, packed: str) -> None:
    """The check sum is at the end, and is read although the archive has ended before."""
    whole = bytearray(tar(Member("b", random.Random(1).randbytes(3000)), packed=packed))
    at = {"gz": -6, "bz2": -3, "xz": -40}[packed]
    whole[at] ^= 0xFF
    assert refused(tmp_path, f"a.tar.{packed}", bytes(whole))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a", b""),
        ("a.gz", b""),
        ("a.gz", gzip.compress(b"", mtime=0)),
        ("a.tar", b""),
        ("a.tar", tar()),
        ("a.tar", tar(Member("d", kind=tarfile.DIRTYPE))),
        ("a.tar", tar(Member("l", b"", LINK, "d"))),
        ("a.tar.gz", gzip.compress(b"", mtime=0)),
        ("a.tar.xz", lzma.compress(b"")),
        ("a.zip", b""),
        ("a.zip", zipped()),
        ("a.zip", zipped(Member("d/"))),
    ],
)
def test_nothing_in_it(tmp_path: Path, name: str, content: bytes) -> None:
    """An empty release would be installed without an error."""
    assert refused(tmp_path, name, content)


@pytest.mark.parametrize(
    "name", ["a.tar.zst", "a.TZST", "a.7z", "", "..", ".", "a/b", "/a", "a\nb", ".gz"]
)
def test_names_of_files_that_say_nothing_good(tmp_path: Path, name: str) -> None:
    """What would be installed packed, or somewhere else."""
    assert refused(tmp_path, name, gzip.compress(b"x", mtime=0))


@pytest.mark.parametrize("name", ["a.gz", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.zip"])
def test_what_is_not_what_it_is_called(tmp_path: Path, name: str) -> None:
    """A page that says Not found, for instance."""
    assert "damaged" in refused(tmp_path, name, b"<html>Not found</html>" * 100)


def test_an_xz_file_that_wants_all_memory(tmp_path: Path) -> None:
    """A header may ask for 4 GiB."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20}]
    content = bytearray(lzma.compress(tar(APP), filters=filters))
    flags = content.index(bytes([0x21, 0x01]), 12)
    content[flags + 2] = 40  # 4 GiB - 1
    header = (content[12] + 1) * 4
    content[12 + header - 4 : 12 + header] = zlib.crc32(content[12 : 12 + header - 4]).to_bytes(
        4, "little"
    )
    assert "emory" in refused(tmp_path, "a.tar.xz", bytes(content))


def test_planted_files(tmp_path: Path) -> None:
    """What is there already, also as a link, is neither followed nor overwritten."""
    (tmp_path / "staging").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "staging" / "release").symlink_to("../victim")
    with (tmp_path / "artifact").open("w+b") as file:
        file.write(b"x")
        file.flush()
        with pytest.raises(StoreError, match="File exists"):
            unpack(file, "app", str(tmp_path / "staging"), MIB)
    assert os.listdir(tmp_path / "victim") == []


def test_what_was_verified_is_unpacked(tmp_path: Path) -> None:
    """The file is not opened again by its name."""
    (tmp_path / "staging").mkdir()
    with (tmp_path / "artifact").open("w+b") as file:
        file.write(b"verified")
        file.flush()
        (tmp_path / "artifact").unlink()
        (tmp_path / "artifact").write_bytes(b"planted")
        path = Path(unpack(file, "app", str(tmp_path / "staging"), MIB))
    assert path.read_bytes() == b"verified"


@settings(max_examples=150)
@given(
    pack=st.sampled_from([tar, zipped]),
    spoilt=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_any_archive_is_answered(
    tmp_path_factory: pytest.TempPathFactory, pack: Pack, spoilt: list[tuple[float, int]]
) -> None:
    """However it is damaged: it is unpacked or vetoed, and no other error gets out."""
    content = bytearray(pack(APP, Member("d/b", b"x" * 700), Member("l", b"", LINK, "app")))
    for where, byte in spoilt:
        content[int(where * len(content))] = byte
    try:
        unpacked(tmp_path_factory.mktemp("any"), ending(pack), bytes(content))
    except OverseerError as error:
        assert isinstance(error, VetoError)  # noqa: PT017 - a StoreError would be our fault


def test_a_full_disk(tmp_path: Path) -> None:
    """It is no fault of the release's."""
    (tmp_path / "staging").mkdir()
    with (tmp_path / "artifact").open("w+b") as file:
        file.write(bytes(MIB))
        file.flush()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB // 2, hard))  # EFBIG: Python ignores XFSZ
        try:
            with pytest.raises(StoreError, match="File too large"):
                unpack(file, "app", str(tmp_path / "staging"), 4 * MIB)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_zip_directory_is_bounded(tmp_path: Path) -> None:
    """It is read whole by zipfile, of whatever size the end of the file says it is."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("app", b"x")
    content = out.getvalue()
    end = bytearray(content[-22:])
    end[12:16] = (20 * MIB).to_bytes(4, "little")
    padded = bytes(21 * MIB) + bytes(end)
    assert "directory of the zip file is too long" in refused(tmp_path, "a.zip", padded, 64 * MIB)
