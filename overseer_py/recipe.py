"""What the workers of one generation are started from: resolved once, kept for its respawns.

A new generation resolves anew: the directory and the program (so that a flipped ``current`` link
takes effect), the environment files, the users.  A crash respawn uses what its generation has, and
that may be gone: old releases are removed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from overseer_py import dialects, environment, handover
from overseer_py.address import Address
from overseer_py.core.messages import WorkerId
from overseer_py.core.policy import Policy
from overseer_py.errors import ConfigError, LaunchError
from overseer_py.executable import Executable, look_up
from overseer_py.handover import Inherited
from overseer_py.option import AUTO
from overseer_py.settings import Settings
from overseer_py.system.identity import identity_of
from overseer_py.system.launch import Identity, Launch
from overseer_py.system.listeners import Listener, Seat


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings that the next generation is to have, and its listeners, open already."""

    settings: Settings
    listeners: Sequence[Listener]
    loose: Sequence[Address] = ()  # ports that the program binds wherever it likes
    learned: tuple[Listener, ...] = ()  # of the listeners those that it has bound so

    @property
    def inherited(self) -> list[Listener]:
        """The listeners that workers get as descriptors: 3, 4, …."""
        return [listener for listener in self.listeners if not listener.wanted.adopted]

    def learning(self, listener: Listener) -> Plan:
        """Return the same with one more listener, which the program has bound for itself."""
        listeners, learned = (*self.listeners, listener), (*self.learned, listener)
        return replace(self, listeners=listeners, learned=learned)

    def name_for(self, port: int) -> str:
        """Return what to call a port that the program binds; empty if it is not to be adopted."""
        found = [address.name for address in self.loose if address.port == port]
        return found[0] if found else f"port-{port}" if AUTO in self.settings.adopt else ""

    def why_shared(self, listener: Listener) -> str:
        """Return why generations share this listener's socket; empty if each has its own."""
        return self.why_all_are_shared or listener.obstacle

    @property
    def why_all_are_shared(self) -> str:
        """Why generations share every listener's socket; empty if that is not asked for."""
        if self.settings.handover == "shared":
            return "asked for"
        if self.settings.surge:  # what replaces workers one by one has no moment to cut over
            return f"surge {self.settings.surge} replaces workers in batches, beside each other"
        return ""

    def steered(self) -> dict[Listener, bool]:
        """Return the listeners, each with whether a generation has a socket of its own there."""
        return {listener: not self.why_shared(listener) for listener in self.listeners}

    def policy(self) -> Policy:
        """Return what the core needs to know."""
        steered = [listener for listener, own in self.steered().items() if own]
        lasting = any(listener.lasting for listener in steered)
        to_come = bool(self.loose) or AUTO in self.settings.adopt
        may_be = bool(steered) or (to_come and not self.why_all_are_shared)
        return self.settings.policy(steered=may_be, parked=lasting)


class Resolved(NamedTuple):
    """What a program is started with, once every name is looked up."""

    argv: Sequence[str]
    environ: Mapping[str, str]
    directory: str
    identity: Identity | None
    program: Executable | None = None  # not found: to execute it says why

    @property
    def gone(self) -> str:
        """What of it is not there any more; empty if all is."""
        paths = {"directory": self.directory}
        if self.program:
            paths |= {"program": self.program.name, "program's file": self.program.file}
        return next((f"{what} {path}" for what, path in paths.items() if _is_gone(path)), "")

    def require_program(self) -> None:
        """Raise ConfigError if there is no such program."""
        if self.program is None:
            why = "no such program, or it is not executable"
            raise ConfigError(f"command: {self.argv[0]}: {why}")

    def require_paths(self) -> None:
        """Raise LaunchError if it is gone: the reason of the system would be a riddle."""
        if self.gone:
            raise LaunchError(f"could not be started: its {self.gone} is gone")

    def of_release(self, digest: str) -> Resolved:
        """Return the same for workers that are told which release they are."""
        return self._replace(environ={**self.environ, "OVERSEER_RELEASE": digest})


@dataclass(frozen=True, slots=True)
class Recipe:
    """A plan, resolved."""

    plan: Plan
    seats: Sequence[Seat]  # what this generation has of the plan's listeners
    resolved: Resolved

    @property
    def directory(self) -> str:
        """Where the workers run, links resolved."""
        return self.resolved.directory

    @property
    def inherited(self) -> list[Seat]:
        """The seats that workers get as descriptors."""
        return [seat for seat in self.seats if not seat.adopted]

    def launch(self, worker: WorkerId, environ: Mapping[str, str]) -> Launch:
        """Return how to start this worker; ``environ`` is what the master adds for it alone."""
        settings = self.plan.settings
        own = dialects.of_worker(settings.inherit, worker.generation, worker.slot)
        return Launch(
            argv=self.resolved.argv,
            environ={**self.resolved.environ, **mark(worker), **own, **environ},
            directory=self.directory,
            executable=self.resolved.program.file if self.resolved.program else "",
            fds=[seat.fd for seat in self.inherited],
            death_signal=settings.drains_at if settings.orphans == "drain" else 0,
            umask=settings.umask,
            identity=self.resolved.identity,
        )


def mark(worker: WorkerId) -> dict[str, str]:
    """Return the variables by which a worker, and whatever it leaves behind, is known."""
    return {
        "OVERSEER_PID": str(os.getpid()),
        "OVERSEER_GENERATION": str(worker.generation),
        "OVERSEER_SLOT": str(worker.slot),
    }


def resolve(
    settings: Settings,
    inherited: Sequence[Inherited],
    environ: Mapping[str, str],
    start_directory: str,
) -> Resolved:
    """Resolve settings; raise ConfigError for what does not exist (any more)."""
    try:
        words = settings.command
        argv = words if settings.literal else handover.fill_in(words, inherited)
    except KeyError as error:
        have = ", ".join(f"{o.name} at {o.address}" for o in inherited) or "none; add --listen"
        raise ConfigError(
            f"command: {error.args[0]}: no listener for it (there is: {have})"
        ) from None
    directory = os.path.realpath(os.path.join(start_directory, settings.chdir))
    if not os.path.isdir(directory):
        raise ConfigError(f"chdir: {settings.chdir or start_directory}: no such directory")
    service = environment.of_service(settings, environ, start_directory)
    identity = identity_of(settings.user, settings.group)
    program = look_up(argv[0], service.get("PATH", os.defpath), directory, identity)
    service |= handover.describe(inherited)
    service |= dialects.describe(settings.inherit, inherited, settings.listen)
    if "overseer" in settings.inherit and program:
        service |= binary(program.file)
    service["PWD"] = directory  # without links, as theirs may be flipped while it runs
    service["OVERSEER_INSTANCE"] = settings.name
    service["OVERSEER_DRAIN_SECONDS"] = f"{settings.drain_timeout:g}"
    service["OVERSEER_DRAIN_SIG"] = settings.drains_at.name.removeprefix("SIG")
    try:  # of the updater's reader; said now, and not when the first release comes
        identity_of(settings.fetch_user, "")
    except ConfigError as error:
        raise ConfigError(f"fetch_user: {error}") from error
    argv = [program.name if program else argv[0], *argv[1:]]
    return Resolved(argv, service, directory, identity, program)


def binary(file: str) -> dict[str, str]:
    """Return what jpillora/overseer tells a program of its own file.

    The identity is of the file, not of its content: to read a big one would hold the master up.
    """
    try:
        found = os.stat(file)
    except OSError:
        return {}  # it cannot be executed, either, which says more
    known = f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns}"
    name = hashlib.sha1(known.encode(), usedforsecurity=False).hexdigest()
    return {"OVERSEER_BIN_PATH": file, "OVERSEER_BIN_ID": name}


def _is_gone(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it is there, and cannot be seen
        return False
    return False


def logical_directory(environ: Mapping[str, str]) -> str:
    """Return the working directory by the path that the user knows it by, links unresolved."""
    logical = environ.get("PWD", "")
    try:
        if logical.startswith("/") and os.path.samefile(logical, "."):
            return logical
    except OSError:
        pass
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise ConfigError("chdir: the working directory is gone; give --chdir DIR") from None
