"""Signals as events that can be read: which one, and from whom.  signalfd(2).

All are blocked before anything slow happens (``__main__``), so that one that comes during the
start waits in the kernel.  PID 1 loses a signal that it neither blocks nor handles.
"""

from __future__ import annotations

import os
import signal
import struct
from dataclasses import dataclass

from overseer_py.system import libc, procfs

# A fault of the master itself ends it; a stop from the terminal (Ctrl-Z) stops it.
LEFT_ALONE = {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGTSTP,
    signal.SIGPIPE,  # ignored instead: a blocked one would be read as if somebody had sent it
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGABRT,
    signal.SIGTRAP,
    signal.SIGSYS,
}
SERVED = frozenset(set(signal.valid_signals()) - LEFT_ALONE)

# Those that a program may give a meaning to; the others end it, and are for the master alone.
FORWARDED = frozenset(
    {signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGURG, signal.SIGIO, signal.SIGPWR}
    | {number for number in SERVED if number >= signal.SIGRTMIN}
)

_SIGINFO = struct.Struct("=IiiIIiIIIIiiQQQQH46x")  # struct signalfd_siginfo, 128 bytes
_SI_KERNEL = 0x80
_AT_ONCE = 32  # read so many in one turn; the rest makes the descriptor readable again


@dataclass(frozen=True, slots=True)
class Caught:
    """One signal that arrived."""

    number: int
    sender: int | None  # pid; 0 of who is not of this PID namespace, None of the kernel itself

    @property
    def name(self) -> str:
        """The signal's name without SIG; real-time ones as RTMIN+n."""
        return name_of(self.number).removeprefix("SIG")


def name_of(number: int) -> str:
    """Return the name of a signal, also of a real-time one that Python has no name for."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def block_all() -> None:
    """Let every signal that the master serves wait until it can be served, and no other one."""
    signal.pthread_sigmask(signal.SIG_SETMASK, SERVED)  # the start has held even Ctrl-Z
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, children would reap themselves
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


class SignalQueue:
    """The signals of this process, readable through ``fd``."""

    def __init__(self) -> None:
        block_all()
        self.fd = libc.signalfd(SERVED)

    def read(self) -> list[Caught]:
        """Return what has arrived; at most a few dozen, the rest stays readable."""
        try:
            data = os.read(self.fd, _SIGINFO.size * _AT_ONCE)
        except BlockingIOError:
            return []
        return [_caught(fields) for fields in _SIGINFO.iter_unpack(data)]

    def close(self) -> None:
        """Close the descriptor; the signals stay blocked."""
        os.close(self.fd)


def _caught(fields: tuple[int, ...]) -> Caught:
    number, _, code, pid = fields[:4]
    return Caught(number, None if code == _SI_KERNEL else pid)


def sender_of(caught: Caught) -> dict[str, object]:
    """Return who sent a signal, as far as that can be known: the sender may be gone already."""
    if caught.sender is None:  # a terminal, a timer
        return {"sender": "kernel"}
    return procfs.described(caught.sender) if caught.sender else {"sender": "outside"}
