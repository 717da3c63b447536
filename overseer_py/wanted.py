"""What is asked for, compared with what is open: the same, or the same under a new name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from overseer_py.address import Address, Kind
from overseer_py.errors import ListenerError
from overseer_py.system.listeners import Listener


def renamed(listener: Listener, address: Address) -> Listener:
    """Return a listener as it is asked for now; what its socket cannot change is refused."""
    wanted = listener.wanted
    if address.kind is Kind.ADOPTED:
        if address.name == listener.name or address.name.startswith("listener-"):
            return listener
        return replace(listener, name=address.name)
    if wanted == address:
        return listener
    free = {"name": address.name, "backlog": address.backlog, "adopted": address.adopted}
    if replace(wanted, **free) != address:  # type: ignore[arg-type]  # each of its own type
        raise ListenerError(
            f"listen {address}: mode, user, group and nonblock of an open listener stay; "
            "restart the master to change them"
        )
    return replace(listener, name=address.name, wanted=address)


def place(address: Address) -> tuple[object, ...]:
    """Return what two addresses have in common that are one place."""
    return address.kind, address.host, address.port, address.path, address.bracketed


def check_names(listeners: Sequence[Listener]) -> None:
    """Raise ListenerError if two listeners have one name."""
    names = [listener.name for listener in listeners]
    for name in names:
        if names.count(name) > 1:
            raise ListenerError(f"listen: two listeners are named {name}; write NAME=ADDR")
