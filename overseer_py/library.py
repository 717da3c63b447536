"""Library mode: a script that runs itself under a master, by one import and one changed line.

The first process becomes the master: it executes ``overseer run … -- <its own command line>`` in
its place, so that nothing of the script stays in it and the pid is the same.  The workers come to
the same line, where the program is called with what they inherit.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from overseer_py.errors import ConfigError, OverseerError

if TYPE_CHECKING:
    from overseer_py.worker.departure import Draining

Program = Callable[["State"], object] | str


@dataclass(frozen=True)
class State:
    """What a program is called with."""

    listeners: Sequence[socket.socket]
    addresses: Sequence[str]  # of the listeners, in the same order
    enabled: bool  # whether there is a master
    id: str = ""  # GENERATION/SLOT of this worker
    release: str = ""  # digest of the release that it was started from, if it was fetched
    started_at: float = field(default_factory=time.time)  # seconds since the epoch

    @property
    def draining(self) -> Draining:
        """Is set when the worker is asked to finish what it has and to end."""
        from overseer_py.worker.departure import draining  # noqa: PLC0415 - for who asks alone

        return draining

    @property
    def listener(self) -> socket.socket:
        """The first listener."""
        return self.listeners[0]


def run(
    program: Program,
    listen: str | Iterable[str] = (),
    *,
    required: bool = True,
    config: str = "",
    **options: object,
) -> None:
    """Run a program under a master, which this very process becomes; in a worker, call it.

    ``program`` takes a State, or is written ``"module:function"``: then only workers import the
    module.  ``options`` are those of ``overseer run``, with underscores: ``workers=2``,
    ``ready="http:/health"``, ``env={"A": "1"}``.  What is wrong with them raises ConfigError.

    Where there can be no master (not on Linux, within a worker's own child, without a command line
    to run again) OverseerError says why; with ``required=False`` that is said on stderr, and the
    program is called directly, with listeners of its own.

        import overseer_py

        def main(state):
            serve(state.listener, until=state.draining)

        overseer_py.run(main, listen=[":3000"])
    """
    addresses = (listen,) if isinstance(listen, str) else tuple(listen)
    if _is_worker():
        _function(program)(_inherited())
        return
    if obstacle := _obstacle():
        if required:
            raise OverseerError(obstacle)
        sys.stderr.write(f"overseer: running without a master: {obstacle}\n")
        _function(program)(State(*_opened(addresses), enabled=False))
        return
    _become_master({"listen": addresses, **options}, config)


def _is_worker() -> bool:
    """Whether this is a worker's main process, and not a child of it."""
    return os.environ.get("OVERSEER_WORKER_PID") == str(os.getpid())


def _obstacle() -> str:
    """Return why there can be no master here; empty if there can be one."""
    if sys.platform != "linux":
        return f"needs Linux 5.4 or newer; this is {sys.platform}"
    if "OVERSEER_PID" in os.environ:
        return "this is a child of a worker, which has a master already"
    main = sys.modules["__main__"]
    again = os.path.isfile(getattr(main, "__file__", None) or "") or sys.argv[:1] == ["-c"]
    if not again and getattr(main, "__spec__", None) is None:
        return "there is no command line to run again: the script came by standard input"
    return ""


def _inherited() -> State:
    from overseer_py import worker  # noqa: PLC0415 - with its own listeners: one owner for each

    listeners = list(worker.listeners())
    return State(
        listeners,
        [_shown(listener) for listener in listeners],
        enabled=True,
        id=f"{os.environ.get('OVERSEER_GENERATION')}/{os.environ.get('OVERSEER_SLOT')}",
        release=os.environ.get("OVERSEER_RELEASE", ""),
    )


def _shown(listener: socket.socket) -> str:
    name = listener.getsockname()
    if not isinstance(name, tuple):
        return str(name)
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def _function(program: Program) -> Callable[[State], object]:
    if not isinstance(program, str):
        return program
    module, colon, name = program.partition(":")
    if not colon:
        raise ConfigError(f"{program!r}: a program is a function, or 'module:function'")
    found: Callable[[State], object] = getattr(importlib.import_module(module), name)
    return found


def _opened(addresses: Iterable[str]) -> tuple[list[socket.socket], list[str]]:
    from overseer_py.address import Kind, parse  # noqa: PLC0415 - without a master alone

    listeners = []
    for index, text in enumerate(addresses):
        address = parse(text, index)
        if address.kind is Kind.TCP:
            dual = not address.host and socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if address.bracketed or dual else socket.AF_INET
            place = address.host, address.port
            listeners.append(socket.create_server(place, family=family, dualstack_ipv6=dual))
        elif address.kind is Kind.UNIX:
            _remove_stale(address.path)
            listeners.append(socket.create_server(address.path, family=socket.AF_UNIX))
        else:
            raise ConfigError(f"listen {address}: needs a master")
    return listeners, [_shown(listener) for listener in listeners]


def _remove_stale(path: str) -> None:
    """Unlink a socket at which nobody listens any more."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except FileNotFoundError:
            pass


# -- the first process --------------------------------------------------------------------------


def _become_master(options: Mapping[str, object], config: str) -> NoReturn:
    """Replace this process; raise ConfigError if the options are wrong, OSError if it cannot be."""
    from overseer_py.config import Sources  # noqa: PLC0415 - not in the workers

    flags = dict(_flags(options))
    # Of the interpreter's own name, which may be a link or a shim, its resolved path.
    command = (sys.executable, *_same_words(elsewhere="chdir" in flags))
    flags["literal"] = True  # {fd} in the script's own words means nothing to us
    Sources(flags, command, os.environ, config).load()
    words = [f"--config={config}"] if config else []
    for key, value in flags.items():
        flag = "--" + key.replace("_", "-")
        for each in value if isinstance(value, tuple) else (value,):
            words += [flag] if each is True else [f"{flag}={each}"]
    sys.stdout.flush()
    sys.stderr.flush()
    # What comes from here on waits until the master can serve it: execve(2) keeps the mask.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        master = [sys.executable, "-P", "-m", "overseer_py", "run", *words, "--", *command]
        os.execve(sys.executable, master, {**os.environ, **_path()})  # noqa: S606 - no shell in it
    finally:  # it has failed
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _same_words(*, elsewhere: bool) -> list[str]:
    """Return the words behind the interpreter; of a script that is run elsewhere, where it lies."""
    words = sys.orig_argv[1:]
    if elsewhere and os.path.isfile(sys.argv[0]) and sys.argv[0] in words:
        words[words.index(sys.argv[0])] = os.path.abspath(sys.argv[0])
    return words


def _flags(options: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield options as flags; raise ConfigError for one that there is not."""
    from overseer_py.config import OPTIONS  # noqa: PLC0415 - not in the workers
    from overseer_py.suggest import did_you_mean  # noqa: PLC0415

    for key, value in options.items():
        if key not in OPTIONS:
            raise ConfigError(f"run(): {key}: unknown option{did_you_mean(key, OPTIONS)}")
        if OPTIONS[key].flag and not isinstance(value, bool):
            raise ConfigError(f"run(): {key}: {value!r} is not True or False")
        match value:
            case Mapping():
                yield key, tuple(f"{name}={text}" for name, text in value.items())
            case None | False:
                pass
            case True:
                yield key, True
            case list() | tuple():
                yield key, tuple(map(str, value))
            case _:
                yield key, (str(value),) if OPTIONS[key].repeat else str(value)


def _path() -> dict[str, str]:
    """Return the variable by which a bare interpreter finds this package, if it would not.

    It lies beside the script, or in the same zip file, which only a script has in its path.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not sys.path or os.path.abspath(sys.path[0] or ".") != root:
        return {}
    rest = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{root}{os.pathsep}{rest}" if rest else root}
