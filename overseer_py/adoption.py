"""What the master answers when a program binds for itself (``--adopt``).

A worker is started with a few of its system calls waiting for the master (system/seccomp.py).  A
bind(2) at an adopted address gets the generation's own socket there, which the master has bound and
listens on; from then on all is as with a socket that was inherited: steered, shared by the workers
of the generation, kept over a crash, and full of those who came while nobody served.  By

* *replace*: the master's socket takes the place of the program's, under the same descriptor, with
  what the program has set on it; or, where the program has made its socket known already (to
  epoll(7), or by a copy), by
* *join*: the program's own socket is bound at the address, as one more of the group, and takes the
  place of the master's once it listens.

Everything else goes on as if nobody had looked.  An answer never waits: what a generation may bind
is there before its first worker.  With ``exclusive`` that is so, too: no worker of it is started
before the last one of the old generation has gone.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from overseer_py.address import Address, Kind
from overseer_py.core.messages import WorkerId
from overseer_py.errors import LaunchError, ListenerError
from overseer_py.logs import Log
from overseer_py.recipe import Recipe
from overseer_py.system import notifier, options, seccomp
from overseer_py.system.launch import Launch, Snare
from overseer_py.system.listeners import Seat
from overseer_py.system.loop import IN, Loop
from overseer_py.system.notifier import Place
from overseer_py.system.seccomp import Call, Trap
from overseer_py.system.steering import Steered

_MAPPED = "::ffff:"  # an IPv4 address, as Java binds it
_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
_MOST_NOTED = 8
_ELSEWHERE = "in another network namespace than the master's, where no client of ours comes"

Learn = Callable[[int, Address], Seat]
Exchange = Callable[[Seat, int], None]


@dataclass(slots=True)
class Bound:
    """What one worker and its descendants have done about their addresses."""

    worker: WorkerId
    recipe: Recipe
    channel: int  # a socket on which ``trap`` will come; -1 once it has
    trap: int = -1  # where their calls arrive; -1: not yet, or the last process has gone
    listening: set[str] = field(default_factory=set)  # names of listeners
    admitted: dict[int, str] = field(default_factory=dict)  # their sockets (by inode), and where
    elsewhere: list[str] = field(default_factory=list)  # addresses that are none of ours


class Adoption:
    """Every worker that binds for itself."""

    _learn: Learn
    _exchange: Exchange

    def __init__(self, loop: Loop, log: Log, on_listen: Callable[[WorkerId], None]) -> None:
        self.bound: dict[WorkerId, Bound] = {}
        self._loop = loop
        self._log = log
        self._on_listen = on_listen
        self._given: dict[WorkerId, socket.socket] = {}  # the worker's ends, until it has them

    def build_on(self, learn: Learn, exchange: Exchange) -> None:
        """Say who takes in an address that nobody has named, and gives a seat their own socket."""
        self._learn, self._exchange = learn, exchange

    # -- a worker's beginning ---------------------------------------------------------------

    def fit(self, worker: WorkerId, recipe: Recipe, launch: Launch) -> Launch:
        """Return the launch of a worker whose binds we answer; as it is for any other."""
        if not recipe.plan.settings.adopt:
            return launch
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise LaunchError(f"could not be started: {error.strerror}") from error
        self._given[worker] = theirs
        program = os.path.join(launch.directory, launch.argv[0]) if "/" in launch.argv[0] else ""
        program = program or shutil.which(launch.argv[0], path=launch.environ.get("PATH")) or ""
        if seccomp.bars(program, as_another=launch.identity is not None):
            why = "it runs with PR_SET_NO_NEW_PRIVS, as --adopt needs without CAP_SYS_ADMIN"
            self._log.warning("privileges-not-gained", program=program, reason=why)
        bound = self.bound[worker] = Bound(worker, recipe, ours.detach())
        self._loop.watch(bound.channel, IN, lambda _: self._on_channel(bound))
        paths = any(seat.listener.wanted.kind is Kind.UNIX for seat in _adopted(recipe))
        return replace(launch, snare=Snare(theirs.fileno(), paths))

    def begin(self, worker: WorkerId) -> None:
        """Let go of what the worker has now."""
        if worker in self._given:
            self._given.pop(worker).close()

    def give_up(self, worker: WorkerId) -> None:
        """Forget a worker that could not be started."""
        self.begin(worker)
        if bound := self.bound.get(worker):
            self._forget(bound)

    def missing(self, worker: WorkerId) -> list[str]:
        """Return where a worker does not listen yet, and must."""
        bound = self.bound.get(worker)
        if bound is None:
            return []
        seats = [seat for seat in _adopted(bound.recipe) if seat.name not in bound.listening]
        places = [f"at {seat.listener.address} ({seat.name})" for seat in seats]
        if not places and not bound.listening:  # whatever it binds, something it must
            wanted = [f"at {address}" for address in bound.recipe.plan.loose]
            places = wanted or ["at any address"]
        if places and bound.elsewhere:
            places.append(f"it has bound {', '.join(bound.elsewhere)}")
        return places

    def _on_channel(self, bound: Bound) -> None:
        """Take the descriptor that the child sends before it becomes the program."""
        with socket.socket(fileno=bound.channel) as channel:
            self._loop.forget(bound.channel)
            bound.channel = -1
            with suppress(OSError):
                _, fds, _, _ = socket.recv_fds(channel, 1, 1)
                bound.trap = fds[0] if fds else -1
        if bound.trap < 0:  # it could not: its exit says why
            self.bound.pop(bound.worker, None)
            return
        os.set_inheritable(bound.trap, False)
        self._loop.watch(bound.trap, IN, lambda events: self._on_trap(bound, events))

    def _on_trap(self, bound: Bound, events: int) -> None:
        if not events & IN:  # the last process that could call has gone
            self._forget(bound)
            return
        trap = Trap(bound.trap)
        call = trap.receive()
        if call is None:
            return
        try:
            self._answer(bound, trap, call)
        except (OSError, ListenerError) as error:
            self._refuse(bound, trap, call, error)
        except Exception:
            trap.proceed(call)  # whatever it was, nobody must hang
            raise

    def _forget(self, bound: Bound) -> None:
        for fd in (bound.channel, bound.trap):
            if fd >= 0:
                self._loop.forget(fd)
                os.close(fd)
        bound.channel = bound.trap = -1
        for inode, name in bound.admitted.items():  # those that never listened
            for seat in _adopted(bound.recipe):
                if seat.name == name and isinstance(group := seat.listener.group, Steered):
                    group.dismiss(inode)
        self.bound.pop(bound.worker, None)

    # -- its calls ----------------------------------------------------------------------------

    def _answer(self, bound: Bound, trap: Trap, call: Call) -> None:
        """Do what the call asks for, or let the kernel do it."""
        match call.name:
            case "bind" if seat := self._seat(bound, trap, call):
                self._bind(bound, trap, call, seat)
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
        seats = _adopted(bound.recipe)
        found = [seat for seat in seats if _is_at(seat, place)]
        found += [seat for seat in seats if _is_part_of(seat, place)]
        if found and elsewhere:
            self._say(bound, "bind-not-adopted", place, reason=_ELSEWHERE)
            bound.elsewhere.append(f"{place} {_ELSEWHERE}")
            return None
        if not found and not elsewhere and place.family != socket.AF_UNIX:
            found = self._learned(bound, call, place)
        if not found and len(bound.elsewhere) < _MOST_NOTED:
            bound.elsewhere.append(str(place))
        return found[0] if found else None

    def _learned(self, bound: Bound, call: Call, place: Place) -> list[Seat]:
        """Return the seat at an address that nobody has named, if it is to be adopted, too."""
        name = bound.recipe.plan.name_for(place.port)
        if not name:
            return []
        address = Address(name, Kind.TCP, _plain(place.host), place.port, adopted=True)
        if ":" in address.host:
            dual = place.host == "::" and not _wants_only_ipv6(call)
            address = replace(address, host="" if dual else address.host, bracketed=not dual)
        seat = self._learn(bound.worker.generation, address)
        facts = {"name": seat.name, "type": seat.listener.kind, "adopted": "yes"}
        why = bound.recipe.plan.why_shared(seat.listener)
        facts |= {"handover": "shared", "reason": why} if why else {"handover": "steered"}
        self._log.info("listening", address=seat.listener.address, **facts)
        return [seat]

    def _bind(self, bound: Bound, trap: Trap, call: Call, seat: Seat) -> None:
        if notifier.inode(call) == _inode(seat.fd):  # again, after a signal
            trap.answer(call)
            return
        if notifier.is_shared(call):
            self._join(bound, trap, call, seat)
            return
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

    def _join(self, bound: Bound, trap: Trap, call: Call, seat: Seat) -> None:
        """Bind the program's own socket, which another in its place would leave behind."""
        why = "the program has given its socket to epoll before bind(2), or copied it; "
        group, theirs = seat.listener.group, notifier.borrow(call)
        twins = (o for o in self.bound.values() if o.recipe is bound.recipe and o is not bound)
        if any(seat.name in {*o.listening, *o.admitted.values()} for o in twins):
            raise ListenerError(f"{why}so only one worker of a generation can have the address")
        if not isinstance(group, Steered) or theirs is None:
            obstacle = seat.listener.obstacle or "pidfd_getfd(2) is missing or forbidden"
            raise ListenerError(f"{why}it cannot be joined: {obstacle}")
        try:
            group.admit(theirs)
        except OSError as error:
            theirs.close()
            raise ListenerError(f"{why}it cannot be bound: {error.strerror}") from error
        bound.admitted[notifier.inode(call)] = seat.name
        trap.answer(call)
        self._say(bound, "bound", seat.listener.address, name=seat.name, how="joined")

    def _listen(self, bound: Bound, trap: Trap, call: Call) -> bool:
        """Listen for a program, with our backlog; False if its socket is not one of ours."""
        inode = notifier.inode(call)
        if not trap.is_valid(call):
            return False
        for seat in _adopted(bound.recipe):
            if bound.admitted.get(inode) == seat.name:
                self._exchange(seat, inode)
                del bound.admitted[inode]
            if _inode(seat.fd) == inode:
                seat.listen()
                bound.listening.add(seat.name)
                return True
        return False

    def _is_kept(self, bound: Bound, call: Call) -> bool:
        """Whether a path is the master's to remove."""
        path = notifier.path_of(call)
        return any(_is_at(seat, Place(socket.AF_UNIX, path)) for seat in _adopted(bound.recipe))

    def _refuse(self, bound: Bound, trap: Trap, call: Call, error: Exception) -> None:
        """Tell the program, as the kernel would, and the log, what could not be done for it."""
        cause = error if isinstance(error, OSError) else error.__cause__
        number = cause.errno if isinstance(cause, OSError) else None
        self._say(bound, "bind-not-adopted", call.name, reason=str(error))
        if isinstance(error, ListenerError):
            trap.answer(call, number or errno.EADDRINUSE)
        else:  # it could not be looked at: the kernel knows what to say
            trap.proceed(call)

    def _say(self, bound: Bound, event: str, place: object, **facts: object) -> None:
        say = self._log.info if event == "bound" else self._log.warning
        say(event, worker=str(bound.worker), address=str(place), **facts)


def _adopted(recipe: Recipe) -> list[Seat]:
    return [seat for seat in recipe.seats if seat.adopted]


def _is_at(seat: Seat, place: Place) -> bool:
    """Whether a bind names the very address of a socket."""
    if seat.listener.wanted.kind is Kind.UNIX:
        directory, name = os.path.split(seat.listener.wanted.path)
        path = os.path.join(os.path.realpath(directory), name)
        return place.family == socket.AF_UNIX and place.host == path
    name = seat.socket.getsockname()
    return place.family != socket.AF_UNIX and name[:2] == (_plain(place.host), place.port)


def _is_part_of(seat: Seat, place: Place) -> bool:
    """Whether a bind asks for every address, and this socket is at one of them."""
    if seat.listener.wanted.kind is Kind.UNIX or place.host not in _ANY:
        return False
    host, port = seat.socket.getsockname()[:2]
    return port == place.port and (place.host == "::" or ":" not in host)


def _plain(host: str) -> str:
    return host.removeprefix(_MAPPED) if "." in host else host


def _wants_only_ipv6(call: Call) -> bool:
    """Whether a program's IPv6 socket is to take no IPv4; not, if it cannot be looked at."""
    if theirs := notifier.borrow(call):
        with theirs:
            return bool(theirs.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
    return False


def _inode(fd: int) -> int:
    return os.fstat(fd).st_ino
