"""What is asked for, compared with what is open: the same, or the same under a new name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from overseer_py.address import Address, Kind
from overseer_py.errors import ConfigError, ListenerError
from overseer_py.system.listeners import Listener
from overseer_py.system.unix import owner_of


def renamed(listener: Listener, address: Address) -> Listener:
    """Return a listener as it is asked for now; what its socket cannot change is refused."""
    wanted = listener.wanted
    if address.kind is Kind.ADOPTED:
        if address.name == listener.name or address.name.startswith("listener-"):
            return listener
        return replace(listener, name=address.name)
    if wanted == address:
        return listener
    if wanted.nonblock != address.nonblock:
        raise ListenerError(
            f"listen {address}: nonblock of an open listener stays; restart the master to change it"
        )
    try:
        owner_of(address)  # now, and not when the next generation's is bound
    except ConfigError as error:
        raise ConfigError(f"listen {address}: {error}") from error
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
