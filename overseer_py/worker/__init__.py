"""What a program can do with its master, besides being restarted: for workers, in Python.

    from overseer_py import worker

    web = worker.listeners()["web"]      # sockets, ready to accept
    worker.ready()                       # with --ready notify
    worker.draining.call(close_up)       # called when the worker is to finish

The standard library alone, loaded on first use (PEP 562): importing the package costs next to
nothing.  Without a master the sockets are those of systemd, if any; what is said is said to
nobody, and the answer is False.

``generation``, ``slot``, ``name``, ``release`` and ``master_pid`` are what the master calls this
worker and itself; None without one.

>>> import overseer_py.worker
>>> print(overseer_py.worker.generation)  # of a worker: 1, 2, …
None
"""

import os

TYPE_CHECKING = False  # typing has it, too, and takes longer to load than all the rest here
if TYPE_CHECKING:
    from overseer_py.worker.connections import Connections
    from overseer_py.worker.departure import draining
    from overseer_py.worker.deposits import store, take
    from overseer_py.worker.inherited import listeners
    from overseer_py.worker.leases import lease
    from overseer_py.worker.notices import extend, heartbeat, ready, restart, status, stopping
    from overseer_py.worker.serving import serve
    from overseer_py.worker.threaded import DrainingHandlerMixIn, DrainingMixIn

    generation: int | None
    slot: int | None
    name: str | None
    release: str | None
    master_pid: int | None

_ROOMS = {
    "Connections": "connections",
    "DrainingHandlerMixIn": "threaded",
    "DrainingMixIn": "threaded",
    "draining": "departure",
    "extend": "notices",
    "heartbeat": "notices",
    "lease": "leases",
    "listeners": "inherited",
    "ready": "notices",
    "restart": "notices",
    "serve": "serving",
    "status": "notices",
    "stopping": "notices",
    "store": "deposits",
    "take": "deposits",
}
_NUMBERS = {
    "generation": "OVERSEER_GENERATION",
    "master_pid": "OVERSEER_PID",
    "slot": "OVERSEER_SLOT",
}
_WORDS = {"name": "OVERSEER_INSTANCE", "release": "OVERSEER_RELEASE"}

__all__ = [
    "Connections",
    "DrainingHandlerMixIn",
    "DrainingMixIn",
    "draining",
    "extend",
    "generation",
    "heartbeat",
    "lease",
    "listeners",
    "master_pid",
    "name",
    "ready",
    "release",
    "restart",
    "serve",
    "slot",
    "status",
    "stopping",
    "store",
    "take",
]


def __getattr__(wanted: str) -> object:
    if wanted in _NUMBERS:
        number = os.environ.get(_NUMBERS[wanted], "")
        return int(number) if number.isdecimal() else None
    if wanted in _WORDS:
        return os.environ.get(_WORDS[wanted])
    if wanted not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {wanted!r}")
    from importlib import import_module  # noqa: PLC0415 - not before it is needed

    found: object = getattr(import_module(f"{__name__}.{_ROOMS[wanted]}"), wanted)
    globals()[wanted] = found  # not asked for again
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
