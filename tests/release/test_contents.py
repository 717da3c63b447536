"""What a file or a tree consists of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overseer_py.release.contents import digest_of
from tests.release.installing import digest, write

A, B, C, D = (letter.encode() * 100 for letter in "ABCD")


def test_the_digest_of_a_tree(tmp_path: Path) -> None:
    """Names, contents, link targets and the bit for execution count; times and owners do not."""
    root = tmp_path / "tree"
    (root / "d").mkdir(parents=True)
    write(str(root / "d" / "a"), b"a")
    (root / "link").symlink_to("/etc/passwd")
    seen = [digest_of(str(root))]

    def differs() -> bool:
        seen.append(digest_of(str(root)))
        return len(set(seen)) == len(seen)

    os.utime(root / "d" / "a", (0, 0))
    os.chmod(root / "d" / "a", 0o600)
    assert not differs()
    seen.pop()
    os.chmod(root / "d" / "a", 0o700)
    assert differs()
    write(str(root / "d" / "a"), b"b", 0o700)
    assert differs()
    (root / "d" / "a").rename(root / "a")
    assert differs()
    (root / "link").unlink()
    (root / "link").symlink_to("/etc/shadow")
    assert differs()
    os.mkfifo(root / "fifo")
    assert differs()
    (root / "e").mkdir()
    assert differs()
    (tmp_path / "shown").symlink_to("tree")
    assert digest_of(str(tmp_path / "shown")) == seen[-1]
    assert digest_of(str(root), lambda name: name in ("e", "fifo")) == seen[-3]
    assert digest_of(str(root / "a")) == digest(b"b")
    with pytest.raises(FileNotFoundError):
        digest_of(str(tmp_path / "nothing"))
