"""What a worker says to its master, or to systemd in its place.  sd_notify(3)."""

from __future__ import annotations

from overseer_py.worker.asking import tell


def ready() -> bool:
    """Say that the worker serves: what ``--ready notify`` waits for.

    False if there is nobody to hear it.

    >>> from overseer_py import worker
    >>> worker.ready()  # without a master
    False
    """
    return tell("READY=1")


def status(text: str) -> bool:
    """Say in a line what the worker is doing; ``overseer status`` shows it.

    >>> from overseer_py import worker
    >>> worker.status("warming up: 40 %")
    False
    """
    line = " ".join(text.split())  # a line break would begin another message
    return tell(f"STATUS={line}", patient=False)


def heartbeat() -> bool:
    """Say that the worker is alive (WATCHDOG=1).

    >>> from overseer_py import worker
    >>> worker.heartbeat()
    False
    """
    return tell("WATCHDOG=1", patient=False)


def extend(seconds: float) -> bool:
    """Ask for time: the start, or the drain, may take so many seconds from now.

    >>> from overseer_py import worker
    >>> worker.extend(20)  # a migration takes longer than --ready-timeout
    False
    """
    from overseer_py.worker.departure import draining  # noqa: PLC0415 - seldom, and not light

    heard = tell(f"EXTEND_TIMEOUT_USEC={max(round(seconds * 1e6), 0)}")
    if heard and draining.begun:
        draining.extended(seconds)
    return heard


def stopping() -> bool:
    """Say that the worker is about to end by itself.

    >>> from overseer_py import worker
    >>> worker.stopping()
    False
    """
    return tell("STOPPING=1")


def restart() -> bool:
    """Ask the master for a rollout of the whole service, as ``overseer restart`` does.

    True if it was asked; it answers by what it does.  This worker goes on until it is drained.

    >>> from overseer_py import worker
    >>> worker.restart()
    False
    """
    return tell("X_OVERSEER_RESTART=1")
