"""What is written stays written: fsync(2), and rename(2) as the only moment of change.

A name and what it names are made durable apart: the file, and then the directory it is in.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import suppress

from overseer_py.errors import VetoError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# What passes by itself: a program is just being started, a mount is busy, a server is away.
_PASSING = {errno.ETXTBSY, errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ESTALE}
_PAUSES = (0.01, 0.03, 0.1, 0.3)  # seconds


def open_directory(path: str, *, follow: bool = False) -> int:
    """Return a descriptor of a directory, which is not a link."""
    return os.open(path, _DIRECTORY & ~os.O_NOFOLLOW if follow else _DIRECTORY)


def sync(path: str, flags: int = 0) -> None:
    """Make one file or directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(path: str) -> None:
    """Make a file, or a directory with all that is in it, durable.

    Raises VetoError for what no release may have, however it got there: devices, pipes, sockets,
    and files that run as somebody else.
    """
    mode = os.lstat(path).st_mode
    if stat.S_ISREG(mode):
        if mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
            raise VetoError(f"{path}: has a set-user-ID, set-group-ID or sticky bit")
        sync(path)
    elif stat.S_ISDIR(mode):
        for name in os.listdir(path):
            sync_tree(os.path.join(path, name))
        sync(path, os.O_DIRECTORY)  # last: it promises what is in it
    elif not stat.S_ISLNK(mode):
        raise VetoError(f"{path}: neither a file, nor a directory, nor a link")


def replace(source: str, target: str, source_fd: int, target_fd: int) -> None:
    """Give a file in one open directory a name in another, in place of what is there.

    What passes by itself is tried again, for less than a second.
    """
    for pause in (*_PAUSES, None):
        try:
            os.replace(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd)
        except OSError as error:
            if error.errno not in _PASSING or pause is None:
                raise
            time.sleep(pause)
        else:
            return


def write(name: str, beside: str, content: bytes, directory: int) -> None:
    """Replace a file in an open directory: its readers see the old content or the new one.

    It is written as ``beside`` first, which is removed if that fails.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(beside, flags, 0o644, dir_fd=directory)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        replace(beside, name, directory, directory)
    except OSError:
        with suppress(OSError):
            os.unlink(beside, dir_fd=directory)
        raise
    os.fsync(directory)
