"""Listeners and who has which of their sockets, written down for the master's next image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from overseer_py.address import Address
from overseer_py.system.group import Group, KeptGroup
from overseer_py.system.listeners import Listener, Seat, take_up


@dataclass(frozen=True, slots=True)
class KeptListener:
    """One name at one address."""

    name: str
    wanted: Address
    group: int  # which of the groups: two share one while a listener takes another's name
    lasting: bool


@dataclass(frozen=True, slots=True)
class KeptSeat:
    """One socket that a generation has."""

    listener: int
    socket: int  # its descriptor, which is one of the group's


@dataclass(frozen=True, slots=True)
class KeptSockets:
    """All of it."""

    groups: list[KeptGroup]
    listeners: list[KeptListener]
    adopted: list[int]
    open: list[int]
    seats: dict[int, list[KeptSeat]]  # by generation
    current: int


Kept = tuple[list[KeptGroup], list[KeptListener], list[int], list[int], dict[int, list[KeptSeat]]]
Resumed = tuple[list[Listener], list[Listener], dict[int, list[Seat]]]


def known(adopted: Sequence[Listener], opened: Sequence[Listener]) -> list[Listener]:
    """Return every listener once; its place is its number."""
    return [*opened, *(listener for listener in adopted if listener not in opened)]


def kept(
    adopted: Sequence[Listener], opened: Sequence[Listener], seats: Mapping[int, Sequence[Seat]]
) -> Kept:
    """Return the fields of KeptSockets but the last."""
    listeners = known(adopted, opened)
    groups: list[Group] = []
    for listener in listeners:
        if not any(group is listener.group for group in groups):
            groups.append(listener.group)

    def written(listener: Listener) -> KeptListener:
        (number,) = (i for i, group in enumerate(groups) if group is listener.group)
        return KeptListener(listener.name, listener.wanted, number, listener.lasting)

    taken = {
        generation: [KeptSeat(_number(listeners, seat.listener), seat.fd) for seat in mine]
        for generation, mine in seats.items()
    }
    return (
        [group.kept() for group in groups],
        [written(listener) for listener in listeners],
        [_number(listeners, listener) for listener in adopted],
        [_number(listeners, listener) for listener in opened],
        taken,
    )


def resumed(sockets: KeptSockets) -> Resumed:
    """Return the listeners that were handed over, those that are open, and all seats."""
    groups = [take_up(group) for group in sockets.groups]
    listeners = [
        Listener(each.name, each.wanted, groups[each.group], each.lasting)
        for each in sockets.listeners
    ]

    def seat(written: KeptSeat) -> Seat:
        listener = listeners[written.listener]
        return Seat(listener, listener.group.find(written.socket))

    return (
        [listeners[number] for number in sockets.adopted],
        [listeners[number] for number in sockets.open],
        {generation: [seat(each) for each in mine] for generation, mine in sockets.seats.items()},
    )


def _number(listeners: Sequence[Listener], listener: Listener) -> int:
    return next(i for i, each in enumerate(listeners) if each is listener)
