"""The answers to the calls of a program that binds for itself.

A bind(2) at an adopted address gets the generation's own socket there, which the master has bound
and listens on.  By

* *replace*: the master's socket takes the place of the program's, under the same descriptor, with
  what the program has set on it; or, where the program has made its socket known already (to
  epoll(7), or by a copy), by
* *join*: the program's own socket is bound at the address, as one more of the group, and takes the
  place of the master's once it listens.

Everything else goes on as if nobody had looked.  An answer never waits.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from overseer_py.address import Address, Kind
from overseer_py.bound import Bound, is_at, plain
from overseer_py.core.messages import WorkerId
from overseer_py.errors import ListenerError
from overseer_py.logs import Log
from overseer_py.system import notifier, options
from overseer_py.system.listeners import Seat
from overseer_py.system.notifier import Place
from overseer_py.system.seccomp import Call, Trap
from overseer_py.system.steering import Steered

_ELSEWHERE = "in another network namespace than the master's, where no client of ours comes"
_KNOWN_ALREADY = "the program has given its socket to epoll before bind(2), or copied it; "


@dataclass(frozen=True, slots=True)
class Builders:
    """Who changes what generations have."""

    learn: Callable[[int, Address], Seat]  # takes in an address that nobody has named
    exchange: Callable[[Seat, int], None]  # gives a seat the program's own socket


class Answers:
    """What becomes of each call."""

    def __init__(self, log: Log, builders: Builders, on_listen: Callable[[WorkerId], None]) -> None:
        self._log = log
        self._builders = builders
        self._on_listen = on_listen

    def give(self, call: Call, trap: Trap, bound: Bound, others: Iterable[Bound]) -> None:
        """Answer a call of this worker; ``others`` are the others of its generation."""
        try:
            self._answer(bound, others, trap, call)
        except (OSError, ListenerError) as error:
            self._refuse(bound, trap, call, error)
        except Exception:  # whatever it was, the worker that waits for an answer must not hang
            trap.proceed(call)
            raise

    def _answer(self, bound: Bound, others: Iterable[Bound], trap: Trap, call: Call) -> None:
        """Do what the call asks for, or let the kernel do it."""
        match call.name:
            case "bind" if seat := self._seat(bound, trap, call):
                if notifier.inode(call) == _inode(seat.fd):  # again, after a signal
                    trap.answer(call)
                elif notifier.is_shared(call):
                    self._join(bound, others, trap, call, seat)
                else:
                    self._replace(bound, trap, call, seat)
            case "listen" if self._listen(bound, trap, call):
                trap.answer(call)
                self._on_listen(bound.worker)
            case "unlink" | "unlinkat" if self._is_kept(bound, call):
                trap.answer(call)
            case _:
                trap.proceed(call)

    def _seat(self, bound: Bound, trap: Trap, call: Call) -> Seat | None:
        """Return the generation's socket where a bind goes; None if it is none of ours."""
        place = notifier.place_of(call)
        if place is None or not (place.port or place.family == socket.AF_UNIX):
            return None
        elsewhere = notifier.is_elsewhere(call)
        if not trap.is_valid(call):
            return None
        seat = bound.seat_at(place)
        if elsewhere:
            bound.note(f"{place} {_ELSEWHERE}")
            if seat:
                self._say(bound, "bind-not-adopted", place, reason=_ELSEWHERE)
            return None
        if seat is None and place.family != socket.AF_UNIX:
            seat = self._learned(bound, call, place)
        if seat is None:
            bound.note(place)
        return seat

    def _learned(self, bound: Bound, call: Call, place: Place) -> Seat | None:
        """Return the seat at an address that nobody has named, if it is to be adopted, too."""
        name = bound.recipe.plan.name_for(place.port)
        if not name:
            return None
        address = Address(name, Kind.TCP, plain(place.host), place.port, adopted=True)
        if ":" in address.host:
            dual = place.host == "::" and not _wants_only_ipv6(call)
            address = replace(address, host="" if dual else address.host, bracketed=not dual)
        seat = self._builders.learn(bound.worker.generation, address)
        facts = {"name": seat.name, "type": seat.listener.kind, "adopted": "yes"}
        why = bound.recipe.plan.why_shared(seat.listener)
        facts |= {"handover": "shared", "reason": why} if why else {"handover": "steered"}
        self._log.info("listening", address=seat.listener.address, **facts)
        return seat

    def _replace(self, bound: Bound, trap: Trap, call: Call, seat: Seat) -> None:
        """Put the master's socket in the place of the program's."""
        nonblocking, cloexec = notifier.flags(call)
        theirs = notifier.borrow(call)
        if theirs and theirs.family != socket.AF_UNIX:
            options.carry(theirs, seat.socket)
        if theirs:
            theirs.close()
        if nonblocking:  # never the other way: it is one open file, and others may serve it
            os.set_blocking(seat.fd, False)
        trap.put(call, seat.fd, notifier.descriptor(call), cloexec=cloexec)
        trap.answer(call)
        self._say(bound, "bound", seat.listener.address, name=seat.name, how="replaced")
        # It listens already: a program that asks (gunicorn, SO_ACCEPTCONN) never calls listen(2).
        bound.listening.add(seat.name)
        self._on_listen(bound.worker)

    def _join(
        self, bound: Bound, others: Iterable[Bound], trap: Trap, call: Call, seat: Seat
    ) -> None:
        """Bind the program's own socket, which another in its place would leave behind."""
        at = seat.listener.address
        if any(seat.name in {*o.listening, *o.admitted.values()} for o in others):
            raise ListenerError(f"{_KNOWN_ALREADY}so only one worker of a generation can have {at}")
        group, theirs = seat.listener.group, notifier.borrow(call)
        obstacle = bound.recipe.plan.why_shared(seat.listener)
        if obstacle or not isinstance(group, Steered) or theirs is None:
            obstacle = obstacle or "pidfd_getfd(2) is missing or forbidden"
            raise ListenerError(f"{_KNOWN_ALREADY}it cannot be joined to {at}: {obstacle}")
        if not trap.is_valid(call):
            theirs.close()
            return
        try:
            group.admit(theirs)
        except OSError as error:
            theirs.close()
            why = f"it cannot be bound to {at}: {error.strerror}"
            raise ListenerError(f"{_KNOWN_ALREADY}{why}") from error
        bound.admitted[notifier.inode(call)] = seat.name
        trap.answer(call)
        self._say(bound, "bound", seat.listener.address, name=seat.name, how="joined")

    def _listen(self, bound: Bound, trap: Trap, call: Call) -> bool:
        """Listen for a program, with our backlog; False if its socket is not one of ours."""
        inode = notifier.inode(call)
        if not trap.is_valid(call):
            return False
        for seat in bound.seats:
            if bound.admitted.get(inode) == seat.name:
                self._builders.exchange(seat, inode)
                del bound.admitted[inode]
            if _inode(seat.fd) == inode:
                seat.listen()
                bound.listening.add(seat.name)
                return True
        return False

    def _is_kept(self, bound: Bound, call: Call) -> bool:
        """Whether a path is the master's to remove."""
        path = notifier.path_of(call)
        return any(is_at(seat, Place(socket.AF_UNIX, path)) for seat in bound.seats)

    def _refuse(self, bound: Bound, trap: Trap, call: Call, error: Exception) -> None:
        """Tell the program, as the kernel would, and the log, what could not be done for it."""
        cause = error if isinstance(error, OSError) else error.__cause__
        number = cause.errno if isinstance(cause, OSError) else None
        if call.name == "bind":
            self._log.warning("bind-not-adopted", worker=str(bound.worker), reason=str(error))
        if isinstance(error, ListenerError):
            trap.answer(call, number or errno.EADDRINUSE)
        else:  # it could not be looked at: the kernel knows what to say
            trap.proceed(call)

    def _say(self, bound: Bound, event: str, place: object, **facts: object) -> None:
        say = self._log.info if event == "bound" else self._log.warning
        say(event, worker=str(bound.worker), address=str(place), **facts)


def _wants_only_ipv6(call: Call) -> bool:
    """Whether a program's IPv6 socket is to take no IPv4; not, if it cannot be looked at."""
    if theirs := notifier.borrow(call):
        with theirs:
            return bool(theirs.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
    return False


def _inode(fd: int) -> int:
    return os.fstat(fd).st_ino
