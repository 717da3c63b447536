"""The calls that Python 3.11 has no name for: signalfd(2), pidfd_getfd(2), prctl(2) twice over."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterable

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_NO_NEW_PRIVS = 38
PR_SET_CHILD_SUBREAPER = 36

_PIDFD_GETFD = 438  # the same number on every architecture; Linux 5.6
_SIGSET_BYTES = 128  # sizeof(sigset_t), glibc and musl
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # SFD_NONBLOCK and SFD_CLOEXEC are the same bits

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, argument: int) -> None:
    """Call prctl(2) with a number; raise OSError if it fails."""
    if _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        raise _error()


def set_name(name: str) -> None:
    """Set the name that ps and top show for this thread (15 bytes, PR_SET_NAME)."""
    _libc.prctl(PR_SET_NAME, ctypes.c_char_p(name.encode()), 0, 0, 0)


def signalfd(signals: Iterable[signal.Signals | int]) -> int:
    """Return a non-blocking, close-on-exec signalfd(2) for these signals (block them first)."""
    mask = ctypes.create_string_buffer(_SIGSET_BYTES)
    _libc.sigemptyset(mask)
    for number in signals:
        _libc.sigaddset(mask, int(number))
    fd: int = _libc.signalfd(-1, mask, _FLAGS)
    if fd < 0:
        raise _error()
    return fd


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """Return a close-on-exec duplicate of a descriptor of another process; raise OSError."""
    duplicate: int = _libc.syscall(_PIDFD_GETFD, pidfd, fd, 0)
    if duplicate < 0:
        raise _error()
    return duplicate


def syscall(number: int, *arguments: object) -> int:
    """Make a system call that the C library has no name for; raise OSError if it fails."""
    words = (ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise _error()
    return result


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
