"""Does a job every 50 ms while it has the lease, and notes when: ``leases.py FILE``."""

import os
import sys
import time

from overseer_py.worker.leases import lease

notes = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(what: str) -> None:
    os.write(notes, f"{what} {os.getpid()} {time.monotonic()}\n".encode())


for _ in lease("counter").every(0.05):
    note("begin")
    time.sleep(0.01)
    note("end")
