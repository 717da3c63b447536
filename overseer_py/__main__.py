"""The command.  Signals are held before anything slow: none is lost while the master starts.

What comes before this is Python's own start, in which a signal still has its default action: it
ends the process, and for PID 1 it is dropped by the kernel.  Whoever starts PID 1 can block them
before: ``env --block-signal=TERM,…  overseer run …``, see docs/containers.md.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line."""
    if sys.platform != "linux":
        sys.exit(_unsupported())
    if "run" in sys.argv[1:2]:
        _hold_signals()
    _open_stdio()
    from overseer_py.cli import cli  # noqa: PLC0415 - slow, and signals wait now

    cli(prog_name="overseer")


def _hold_signals() -> None:
    """Let all of them wait; which ones the master serves, its SignalQueue says."""
    # What ``signal`` is made of: built in, and there at once; ``signal`` makes enums first.
    import _signal  # type: ignore[import-not-found] # noqa: PLC0415

    _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())


def _unsupported() -> int:
    sys.stderr.write(f"overseer: needs Linux 5.4 or newer; this is {sys.platform}\n")
    return 2


def _open_stdio() -> None:
    """Make sure that 0, 1 and 2 are open: a socket that got such a number would be written to."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004
        pass
    os.close(fd)


if __name__ == "__main__":
    main()
