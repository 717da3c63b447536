"""The updater's process: started by the master, which it talks to over descriptor 3."""

from __future__ import annotations

import os
import signal
import socket

from overseer_py.handover import FIRST_FD
from overseer_py.release.updater import Updater
from overseer_py.system import libc


def main() -> None:
    """Work until the master hangs up."""
    libc.set_name("overseer-update")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: it is the master's to decide
    os.set_inheritable(FIRST_FD, False)  # hooks and checks are not to have it
    with socket.socket(fileno=FIRST_FD) as connection:
        Updater(connection).run()
    os._exit(0)  # a download that goes on in a thread is not waited for


if __name__ == "__main__":
    main()
