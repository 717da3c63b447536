"""The conventions of other masters: how their programs find sockets, and what they say to whom.

Pure: names in, variables out.  ``--inherit`` names those that a program is written for; what
systemd's says is always there (handover.py).
"""

from __future__ import annotations

import signal
from collections.abc import Collection, Iterable, Sequence

from overseer_py import address
from overseer_py.address import Kind
from overseer_py.handover import FIRST_FD, Inherited

DIALECTS = (
    "systemd",
    "overseer",  # github.com/jpillora/overseer
    "grace",  # github.com/facebookgo/grace
    "gracehttp",  # github.com/tabalt/gracehttp
    "endless",  # github.com/fvbock/endless
    "einhorn",  # and what speaks of EINHORN_FDS only
    "server-starter",  # Perl's Server::Starter
)

# Of another master's making, should the service be started by one: they name descriptors that no
# worker has, and OVERSEER_BIN_CHECK has a program of that kind print it and exit.
_FOREIGN = {
    "OVERSEER_IS_SLAVE",
    "OVERSEER_IS_WORKER",
    "OVERSEER_SLAVE_ID",
    "OVERSEER_WORKER_ID",
    "OVERSEER_BIN_ID",
    "OVERSEER_BIN_PATH",
    "OVERSEER_BIN_CHECK",
    "IS_GRACEFUL",
    "ENDLESS_CONTINUE",
    "ENDLESS_SOCKET_ORDER",
    "SERVER_STARTER_PORT",
    "SERVER_STARTER_GENERATION",
}

_READY_BY_SIGNAL = {"grace", "endless"}  # TERM to the parent
_DRAIN_AT_USR2 = {"overseer", "einhorn"}


def is_foreign(variable: str) -> bool:
    """Whether another master set this for a worker of its own."""
    return variable in _FOREIGN or variable.startswith("EINHORN_")


def describe(
    dialects: Collection[str], listeners: Sequence[Inherited], listen: Sequence[str] = ()
) -> dict[str, str]:
    """Return the variables that all workers of a generation have.

    ``listen`` is how the user wrote the addresses: endless compares texts.
    """
    variables: dict[str, str] = {}
    fds = [str(FIRST_FD + index) for index in range(len(listeners))]
    if "overseer" in dialects:  # both spellings: SLAVE became WORKER in 2026
        variables |= {"OVERSEER_IS_SLAVE": "1", "OVERSEER_IS_WORKER": "1"}
    if "gracehttp" in dialects and listeners:
        variables["IS_GRACEFUL"] = "1"
    if "endless" in dialects and listeners:  # without a socket it must open its own
        variables["ENDLESS_CONTINUE"] = "1"
        if len(listeners) > 1:
            variables["ENDLESS_SOCKET_ORDER"] = ",".join(_as_written(listeners, listen))
    if "einhorn" in dialects:
        variables |= {"EINHORN_FD_COUNT": str(len(fds)), "EINHORN_FDS": " ".join(fds)}
        for index, listener in enumerate(listeners):
            variables[f"EINHORN_FD_{index}"] = fds[index]
            variables[f"EINHORN_FD_FAMILY_{index}"] = _family(listener)
    if "server-starter" in dialects:
        places = [f"{o.address}={fd}" for o, fd in zip(listeners, fds, strict=True)]
        variables["SERVER_STARTER_PORT"] = ";".join(places)
    return variables


def of_worker(dialects: Collection[str], generation: int, slot: int) -> dict[str, str]:
    """Return the variables that tell one worker from another."""
    variables: dict[str, str] = {}
    if "overseer" in dialects:
        variables |= {"OVERSEER_SLAVE_ID": str(generation), "OVERSEER_WORKER_ID": str(generation)}
    if "einhorn" in dialects:
        variables["EINHORN_CHILD_INDEX"] = str(slot)
    if "server-starter" in dialects:
        variables["SERVER_STARTER_GENERATION"] = str(generation)
    return variables


def says_ready(dialects: Collection[str]) -> bool:
    """Whether each program of the kind says that it is ready, without being asked to."""
    return not _READY_BY_SIGNAL.isdisjoint(dialects)


def drain_signal(dialects: Collection[str]) -> signal.Signals:
    """Return what asks a program of the kind to drain."""
    return signal.SIGTERM if _DRAIN_AT_USR2.isdisjoint(dialects) else signal.SIGUSR2


def meant_for_parent(dialects: Collection[str]) -> dict[signal.Signals, bool]:
    """Return the signals that a program sends to its parent to tell it something.

    True for what says that it is ready; what says that its sockets are released means nothing
    here: the new generation has sockets of its own.
    """
    meanings: dict[signal.Signals, bool] = {}
    if says_ready(dialects):
        meanings[signal.SIGTERM] = True
    if "overseer" in dialects:
        meanings[signal.SIGUSR1] = False
    return meanings


def _as_written(listeners: Sequence[Inherited], listen: Sequence[str]) -> Iterable[str]:
    """Return each address as it was asked for; the real one where it was not by number."""
    asked = [address.parse(text, index) for index, text in enumerate(listen)]
    if len(asked) != len(listeners):  # adopted without being asked for
        return [listener.address for listener in listeners]
    return [
        str(wish) if wish.kind is Kind.TCP and wish.port else listener.address
        for wish, listener in zip(asked, listeners, strict=True)
    ]


def _family(listener: Inherited) -> str:
    if listener.port is None:
        return "AF_UNIX"
    return "AF_INET6" if listener.address.startswith("[") else "AF_INET"
