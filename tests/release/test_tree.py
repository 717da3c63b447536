"""Members of archives: nothing of them gets out of the directory, whatever they are called."""

from __future__ import annotations

import os
import re
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overseer_py.errors import VetoError
from overseer_py.release import tree
from tests.release.packing import APP, BOTH, Member, Pack, ending, refused, tar, unpacked, zipped

LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE


@BOTH
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../escaped", r"\.\. in a path"),
        ("a/../../escaped", r"\.\. in a path"),
        ("a/..", r"\.\. in a path"),
        ("/tmp/escaped", "not a relative path"),
        ("//escaped", "not a relative path"),
        ("a\nb", "control characters"),
        ("a\x1bb", "control characters"),
        ("a/\x7f", "control characters"),
        ("x" * 256, "too long"),
        ("d/" * 70 + "x", "too long"),
        ("d123456789/" * 200 + "x", "too long"),
    ],
)
def test_names_that_lead_out(tmp_path: Path, pack: Pack, name: str, why: str) -> None:
    """Neither up nor to the root, nor what a terminal would obey."""
    assert re.search(why, refused(tmp_path, ending(pack), pack(APP, Member(name, b"x"))))


def test_a_nul_in_a_name(tmp_path: Path) -> None:
    """The name would be cut there by zipfile, and be another one."""
    content = zipped(Member("app#x", b"x")).replace(b"app#x", b"app\0x")
    assert "control characters" in refused(tmp_path, "a.zip", content)


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    """What cannot be shown or written down is not installed."""
    content = tar(Member("app#x", b"x"), form=tarfile.USTAR_FORMAT)
    info = bytearray(content)
    info[:5] = b"app\xffx"
    checksum = sum(info[:148]) + 32 * 8 + sum(info[156:512])
    info[148:156] = b"%06o\0 " % checksum
    assert "UTF-8" in refused(tmp_path, "a.tar", bytes(info))


@BOTH
@pytest.mark.parametrize(
    "links",
    [
        [("out", "/etc/passwd")],
        [("out", "..")],
        [("out", "d/../..")],
        [("d/e/up", "../.."), ("out", "d/e/up/..")],  # inside by its text, but not in truth
        [("d/e/up", "../.."), ("two", "d/e/up/d/e/up"), ("out", "two/../x")],
        [("out", "out")],
        [("a", "b"), ("b", "a")],
        [("d/out", "/")],
        [("out", "../staging/release/../../../../../../../etc/passwd")],
    ],
)
def test_links_that_lead_out(tmp_path: Path, pack: Pack, links: list[tuple[str, str]]) -> None:
    """Not even through one another, and whatever their text looks like."""
    members = [Member(name, b"", LINK, target) for name, target in links]
    assert "outside" in refused(tmp_path, ending(pack), pack(APP, *members))


@BOTH
def test_links_within(tmp_path: Path, pack: Pack) -> None:
    """As node_modules and versioned libraries have them; also to what is not there yet."""
    links = [
        ("lib/so", "so.1"),
        ("lib/so.1", "../app"),
        ("etc", "missing/dir"),
        ("d/e/up", "../.."),
    ]
    members = [Member(name, b"", LINK, target) for name, target in links]
    root = unpacked(tmp_path, ending(pack), pack(*members, APP))
    assert (root / "lib" / "so").read_bytes() == APP.content
    assert os.readlink(root / "etc") == "missing/dir"


@BOTH
@pytest.mark.parametrize("target", ["..", "d", "/tmp"])
def test_nothing_is_written_through_a_link(tmp_path: Path, pack: Pack, target: str) -> None:
    """The classic: first a link, then a file in it."""
    link, file = Member("a", b"", LINK, target), Member("a/escaped", b"x")
    assert "not a directory" in refused(tmp_path, ending(pack), pack(APP, link, file))
    other = tmp_path / "other"
    assert "twice" in refused(other, ending(pack), pack(file, link))


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../artifact", "missing", "later", "link", "d"]
)
def test_hard_links_to_elsewhere(tmp_path: Path, target: str) -> None:
    """Only to a file that came before, so never to what somebody else has."""
    members = [
        APP,
        Member("d", kind=tarfile.DIRTYPE),
        Member("link", b"", LINK, "app"),
        Member("out", b"", HARD, target),
        Member("later", b"x"),
    ]
    assert refused(tmp_path, "a.tar", tar(*members))


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_devices(tmp_path: Path, kind: bytes) -> None:
    """A pipe would block who reads it, and a device is worse."""
    assert "neither a file" in refused(tmp_path, "a.tar", tar(APP, Member("x", kind=kind)))


def test_a_pipe_in_a_zip_file(tmp_path: Path) -> None:
    """Its kind hides in the attributes."""
    fifo = Member("x", b"x", kind=tarfile.FIFOTYPE)
    assert "neither a file" in refused(tmp_path, "a.zip", zipped(APP, fifo))


@BOTH
@pytest.mark.parametrize("mode", [0o6777, 0o4755, 0o2711, 0o1777, 0o000])
def test_modes(tmp_path: Path, pack: Pack, mode: int) -> None:
    """Readable by all, writable by the owner; what the owner could run, all can run."""
    old = os.umask(0o077)
    try:
        root = unpacked(tmp_path, ending(pack), pack(Member("d/app", b"x", mode=mode)))
    finally:
        os.umask(old)
    wanted = 0o755 if mode & 0o100 else 0o644
    assert stat.S_IMODE((root / "d" / "app").stat().st_mode) == wanted
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o755


@BOTH
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "names", [("app", "app"), ("d/app", "d/./app"), ("d", "d/app"), ("d/app", "d")]
)
def test_the_same_name_twice(tmp_path: Path, pack: Pack, names: tuple[str, str]) -> None:
    """One of them could be looked at, and the other one run."""
    why = refused(tmp_path, ending(pack), pack(*(Member(name, b"x") for name in names)))
    assert "twice" in why or "not a directory" in why


@BOTH
def test_too_many_members(tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted with the directories that they imply."""
    monkeypatch.setattr(tree, "MOST_MEMBERS", 30)
    unpacked(tmp_path / "few", ending(pack), pack(*(Member(f"d{i}/x", b"x") for i in range(15))))
    members = [Member(f"d{i}/x", b"x") for i in range(16)]
    assert "30 members" in refused(tmp_path / "many", ending(pack), pack(*members))


NAMES = st.lists(st.sampled_from(["a", "b", "..", ".", "", "c\0", "é"]), min_size=1, max_size=5)
LINKS = st.dictionaries(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join),
    st.lists(st.sampled_from(["a", "b", "c", "..", "."]), min_size=1, max_size=6).map("/".join),
    min_size=1,
    max_size=5,
)


@given(NAMES.map("/".join))
def test_any_name_stays_inside(name: str) -> None:
    """What is accepted is below the root, also for the system."""
    try:
        place = tree.parts(name)
    except VetoError:
        return
    joined = os.path.normpath(os.path.join("/root", *place))
    assert joined == "/root" or joined.startswith("/root/")


@settings(max_examples=150)
@given(links=LINKS)
def test_any_links_stay_inside(
    tmp_path_factory: pytest.TempPathFactory, links: dict[str, str]
) -> None:
    """If links are accepted, the kernel agrees that they lead nowhere else."""
    root = tmp_path_factory.mktemp("links")
    made = tree.Tree(str(root))
    try:
        made.file("z", [b"x"], executable=False)
        for name, target in links.items():
            made.link(name, target)
        made.finish()
    except VetoError:
        return
    for name in links:
        real = os.path.realpath(root / name)
        assert real == str(root) or real.startswith(f"{root}/")
