"""A broken version: it serves, and dies a moment later, which is at USR1."""

import os
import signal
import sys
import threading

sys.path.insert(0, os.environ["EXAMPLES"])

import hello


def die() -> None:
    signal.sigwait({signal.SIGUSR1})
    sys.stderr.write("lost the database\n")
    sys.stderr.flush()
    os._exit(9)


signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
threading.Thread(target=die, daemon=True).start()
hello.main()
