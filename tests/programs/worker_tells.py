"""Tells its master what it was asked to: words as arguments, in their order."""

import sys
import time

from overseer_py import worker

worker.draining.watch()  # from here on TERM does not end us
for word in sys.argv[1:]:
    match word.split("=", 1):
        case ["status", text]:
            said = worker.status(text)
        case ["extend", seconds]:
            said = worker.extend(float(seconds))
        case ["work", seconds]:
            time.sleep(float(seconds))
        case ["drained"]:
            said = worker.draining.wait()
        case ["restart"]:
            said = worker.generation > 1 or worker.restart()
        case [name]:
            said = getattr(worker, name)()
    if not said:
        sys.exit(f"{word}: nobody hears")
