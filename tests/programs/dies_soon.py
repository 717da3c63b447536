"""A broken version: it serves, and dies a moment later."""

import os
import sys
import threading

sys.path.insert(0, os.environ["EXAMPLES"])

import hello


def die() -> None:
    sys.stderr.write("lost the database\n")
    sys.stderr.flush()
    os._exit(9)


threading.Timer(0.5, die).start()
hello.main()
