"""What a file or a tree consists of, as one digest.

Two trees have the same digest if and only if they have the same names, contents, link targets and
bits for execution; owners, times and the other bits do not count.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator


def digest_of(path: str, ignored: Callable[[str], bool] = lambda _: False) -> str:
    """Return the SHA-256 of a file's content, or of a tree, in hexadecimal digits.

    ``path`` itself may be a link, and is followed; links in a tree are not: their targets count.
    What is neither file, directory nor link counts by its name alone and is never opened: fifo(7).
    ``ignored`` is asked for each name in a tree.  Raises OSError.
    """
    if not os.path.isdir(path):
        return _content(path, 0).hex()
    whole = hashlib.sha256()
    for name, entry in _entries(path, b"", ignored):
        for part in (name, *_told(entry)):
            whole.update(len(part).to_bytes(8, "big") + part)  # no two lists give the same bytes
    return whole.hexdigest()


def size_of(path: str) -> int:
    """Return the bytes of a file, or of all files in a tree; links count as nothing."""
    if not os.path.isdir(path):
        return os.lstat(path).st_size
    found = [entry.stat(follow_symlinks=False) for _, entry in _entries(path, b"", lambda _: False)]
    return sum(each.st_size for each in found if stat.S_ISREG(each.st_mode))


def _entries(
    path: str, below: bytes, ignored: Callable[[str], bool]
) -> Iterator[tuple[bytes, os.DirEntry[str]]]:
    with os.scandir(path) as found:
        entries = sorted((e for e in found if not ignored(e.name)), key=lambda e: e.name)
    for entry in entries:
        name = below + os.fsencode(entry.name)
        yield name, entry
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(entry.path, name + b"/", ignored)


def _told(entry: os.DirEntry[str]) -> tuple[bytes, ...]:
    mode = entry.stat(follow_symlinks=False).st_mode
    if stat.S_ISREG(mode):
        kind = b"program" if mode & stat.S_IXUSR else b"file"
        return kind, _content(entry.path, os.O_NOFOLLOW)
    if stat.S_ISLNK(mode):
        return b"link", os.fsencode(os.readlink(entry.path))
    return (b"directory" if stat.S_ISDIR(mode) else b"special",)


def _content(path: str, flags: int) -> bytes:
    # not to wait: it may have become a fifo since it was looked at
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags), "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
