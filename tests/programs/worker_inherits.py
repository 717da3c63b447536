"""Says in a file what it was given: listeners by index and name, and who it is."""

import json
import os
import sys
import time
from pathlib import Path

from overseer_py import worker


def facts(listener):
    return {
        "family": listener.family.name,
        "type": listener.type.name,
        "address": listener.getsockname(),
        "inheritable": os.get_inheritable(listener.fileno()),
    }


listeners = worker.listeners()
found = {
    "names": listeners.names,
    "sockets": [facts(listener) for listener in listeners],
    "by_name": {name: listeners[name].fileno() for name in listeners.names},
    "same": all(a is b for a, b in zip(listeners, worker.listeners(), strict=True)),
    "generation": worker.generation,
    "slot": worker.slot,
    "name": worker.name,
    "release": worker.release,
    "master_pid": worker.master_pid,
    "LISTEN_PID": os.environ.get("LISTEN_PID"),
    "pid": os.getpid(),
}
place = Path(sys.argv[1])
place.with_suffix(".new").write_text(json.dumps(found))
place.with_suffix(".new").rename(place)
found["said"] = worker.ready()
if found["said"]:
    while not worker.draining.wait(3600):
        time.sleep(0)
