"""What the workers of one generation are started from: resolved once, kept for its respawns.

A new generation resolves anew: the directory (so that a flipped ``current`` link takes effect), the
environment files, the users.  A crash respawn uses what its generation has.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from overseer_py import dialects, handover
from overseer_py.address import Address
from overseer_py.config import OWN_VARIABLES
from overseer_py.core.messages import WorkerId
from overseer_py.core.policy import Policy
from overseer_py.errors import ConfigError
from overseer_py.handover import Inherited
from overseer_py.option import AUTO
from overseer_py.settings import Settings
from overseer_py.system.identity import home_of, identity_of
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
    foreign = filter(dialects.is_foreign, environ)
    service = handover.scrub(environ, (*OWN_VARIABLES, *foreign)) | home_of(settings.user)
    for path in settings.env_file:
        service |= read_env_file(path)
    service |= dict(settings.env)
    service |= handover.describe(inherited)
    service |= dialects.describe(settings.inherit, inherited, settings.listen)
    if "overseer" in settings.inherit:
        service |= binary(argv[0], service.get("PATH", ""), directory)
    service["PWD"] = directory
    service["OVERSEER_INSTANCE"] = settings.name
    service["OVERSEER_DRAIN_SECONDS"] = f"{settings.drain_timeout:g}"
    service["OVERSEER_DRAIN_SIG"] = settings.drains_at.name.removeprefix("SIG")
    try:  # of the updater's reader; said now, and not when the first release comes
        identity_of(settings.fetch_user, "")
    except ConfigError as error:
        raise ConfigError(f"fetch_user: {error}") from error
    return Resolved(argv, service, directory, identity_of(settings.user, settings.group))


def binary(program: str, path: str, directory: str) -> dict[str, str]:
    """Return what jpillora/overseer tells a program of its own file.

    The identity is of the file, not of its content: to read a big one would hold the master up.
    """
    where = os.path.join(directory, program) if "/" in program else shutil.which(program, path=path)
    try:
        found = os.stat(where or "")
    except OSError:
        return {}  # it cannot be executed, either, which says more
    known = f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns}"
    name = hashlib.sha1(known.encode(), usedforsecurity=False).hexdigest()
    return {"OVERSEER_BIN_PATH": os.path.realpath(where or ""), "OVERSEER_BIN_ID": name}


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


def read_env_file(path: str) -> dict[str, str]:
    """Read ``KEY=VALUE`` lines; blank lines, ``#`` and a leading ``export`` are passed over."""
    try:
        if not Path(path).is_file() and os.path.exists(path):
            raise ConfigError(f"env_file: {path}: not a file; it is read for every generation")
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"env_file: {path}: {reason}") from error
    variables: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip().removeprefix("export ").strip()
        if not text or text.startswith(("#", ";")):
            continue
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"env_file: {path}:{number}: not KEY=VALUE")
        variables[name.strip()] = _unquoted(value.strip())
    return variables


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value
