"""The command.  Signals are blocked before anything slow: none is lost while the master starts."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line."""
    if sys.platform != "linux":
        sys.exit(_unsupported())
    _open_stdio()
    if "run" in sys.argv[1:2]:
        from overseer_py.system.signals import block_all  # noqa: PLC0415 - before the slow ones

        block_all()
    from overseer_py.cli import cli  # noqa: PLC0415 - slow, and signals wait now

    cli(prog_name="overseer")


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
