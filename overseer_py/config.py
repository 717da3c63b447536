"""From flags, environment and file to Settings: flag over variable over file over default.

The file is TOML; every option is a key of it (dashes and underscores are the same), and
``OVERSEER_<OPTION>`` in the environment.  Whatever is wrong is a ConfigError that names the
place, the key and, where there is one, the nearest right one.
"""

from __future__ import annotations

import os
import shlex
import signal
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from overseer_py import address, values
from overseer_py.address import Address
from overseer_py.errors import ConfigError
from overseer_py.handover import WORKER_VARIABLES
from overseer_py.option import AUTO, Option
from overseer_py.settings import Settings, stem
from overseer_py.suggest import did_you_mean
from overseer_py.system.signals import SERVED

PREFIX = "OVERSEER_"
DEFAULT_FILE = "overseer.toml"

OPTIONS: dict[str, Option] = {
    f.name: f.metadata["option"] for f in fields(Settings) if "option" in f.metadata
}
VARIABLES = {PREFIX + key.upper(): key for key in OPTIONS}
CONFIG_VARIABLE = PREFIX + "CONFIG"
OWN_VARIABLES = (*VARIABLES, CONFIG_VARIABLE)  # never passed on to workers

# Signals whose meaning is fixed: a restart signal must not take it away.
RESERVED = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD} | {
    signal.SIGTTIN,
    signal.SIGTTOU,
}


@dataclass(frozen=True)
class Config:
    """The settings, the addresses in them, and what is odd but no error."""

    settings: Settings
    addresses: tuple[Address, ...]
    warnings: tuple[str, ...] = ()
    loose: tuple[Address, ...] = ()  # adopted ports: at which host, the program's bind(2) says


@dataclass(frozen=True)
class Sources:
    """Where settings come from.  ``load`` may be called again: the file is then read anew."""

    flags: Mapping[str, object] = field(default_factory=dict)  # only those that were given
    command: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    file: str = ""

    def load(self) -> Config:
        """Read, merge and check everything; raise ConfigError for the first thing wrong."""
        chosen: dict[str, object] = {}
        for key, place, raw in self._layers():
            chosen[key] = _command(raw, place) if key == "command" else _read(key, place, raw)
        if self.command:
            chosen["command"] = self.command
        settings = _check(Settings(**chosen))  # type: ignore[arg-type]  # parsed field by field
        addresses = _addresses(settings)
        fixed = tuple(found for found in addresses if not address.is_loose(found))
        loose = tuple(found for found in addresses if address.is_loose(found))
        return Config(settings, fixed, tuple(self._strange_variables()), loose)

    def pinned(self, directory: str) -> Sources:
        """Return the same sources with the file that is there now: it must be there at a reread.

        It is that of ``directory``, which may be a link that is flipped meanwhile.
        """
        path = self._path()
        return replace(self, file=os.path.join(directory, path) if path else "")

    def _path(self) -> str:
        given = self.file or self.environ.get(CONFIG_VARIABLE, "")
        return given or (DEFAULT_FILE if Path(DEFAULT_FILE).is_file() else "")

    def _layers(self) -> Iterator[tuple[str, str, object]]:
        """Yield (key, where it stands, raw value), the weakest layer first."""
        if path := self._path():
            for key, raw in _read_file(path).items():
                yield _known(key, path), f"{path}: {key}", raw
        for variable, key in VARIABLES.items():
            if raw := self.environ.get(variable):
                yield key, f"environment: {variable}", raw
        for key, flag in self.flags.items():
            yield key, "--" + key.replace("_", "-"), flag

    def _strange_variables(self) -> Iterator[str]:
        for variable in sorted(self.environ):
            if variable.startswith(PREFIX) and variable not in {*OWN_VARIABLES, *WORKER_VARIABLES}:
                yield f"environment: {variable}: unknown{did_you_mean(variable, VARIABLES, PREFIX)}"


def _read_file(path: str) -> Mapping[str, object]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also what is nested or long beyond reason
        raise ConfigError(f"{path}: not TOML: {error}") from error


def _known(key: str, path: str) -> str:
    name = key.replace("-", "_")
    if name not in OPTIONS and name != "command":
        hint = did_you_mean(name, [*OPTIONS, "command"])
        raise ConfigError(f"{path}: {key}: unknown key{hint}")
    return name


def _read(key: str, place: str, raw: object) -> object:
    """Return the value of an option; ``raw`` is text, or what TOML has instead of it."""
    option = OPTIONS[key]
    try:
        if option.flag:
            return _flag(raw)
        if option.repeat:
            return tuple(option.parse(text) for text in _texts(raw))
        if option.parse is values.mode and isinstance(raw, int):  # TOML has made 23 of 0o027
            raise ValueError(f'write a mode as a text: {key} = "0027"')  # noqa: TRY301
        return option.parse(_text(raw))
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from error


def _flag(raw: object) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.lower() in words:
        return words[raw.lower()]
    raise ValueError(f"{raw!r} is not true or false")


def _text(raw: object) -> str:
    if isinstance(raw, bool) or not isinstance(raw, str | int | float):
        raise ValueError(f"{raw!r} is not a text or a number")  # noqa: TRY004 - the user's, not ours
    if "\0" in str(raw):
        raise ValueError(f"{raw!r} holds a zero byte")
    return str(raw)


def _texts(raw: object) -> list[str]:
    match raw:
        case str():  # a variable of the environment, split as a shell would
            return shlex.split(_text(raw))
        case Mapping():  # [env] A = "1"
            return [f"{name}={_text(value)}" for name, value in raw.items()]
        case list() | tuple():
            return [_text(item) for item in raw]
    raise ValueError(f"{raw!r} is not a list")


def _command(raw: object, place: str) -> tuple[str, ...]:
    if not isinstance(raw, list) or not all(isinstance(word, str) for word in raw):
        raise ConfigError(f'{place}: not a list of texts; write command = ["uvicorn", "app:app"]')
    return tuple(raw)


def _check(settings: Settings) -> Settings:
    """Check what no option can know alone, and give the instance its name."""
    if not settings.command or not settings.command[0]:
        raise ConfigError("no command to run; write: overseer run [OPTIONS] -- COMMAND [ARG …]")
    if any("\0" in word for word in settings.command):
        raise ConfigError("command: holds a zero byte")
    if settings.restart_signal in RESERVED:
        raise ConfigError(
            f"restart_signal: {settings.restart_signal.name} has a meaning of its own; use USR2"
        )
    if settings.restart_signal not in SERVED:
        raise ConfigError(
            f"restart_signal: {settings.restart_signal.name} is not for that; use USR2"
        )
    if settings.canary and (settings.handover == "shared" or settings.surge is not None):
        raise ConfigError("canary: needs handover steered and surge all; drop one")
    if settings.capture and settings.no_relay:
        raise ConfigError("capture and no_relay: stderr is either read or handed over; drop one")
    _check_releases(settings)
    return settings if settings.name else replace(settings, name=stem(settings.command))


def _check_releases(settings: Settings) -> None:
    if bool(settings.fetch) != bool(settings.to):
        given, other = ("fetch", "to") if settings.fetch else ("to", "fetch")
        raise ConfigError(f"{given}: needs {other}: where releases come from, and where they go")
    if settings.fetch:
        return
    for key in ("sha256", "minisign", "check", "pre_upgrade", "post_upgrade", "on_rollback"):
        if getattr(settings, key):  # whoever asks for it believes that something is checked
            raise ConfigError(f"{key}: nothing is fetched; add fetch and to, or drop it")


def _addresses(settings: Settings) -> tuple[Address, ...]:
    addresses: list[Address] = []
    adopted = [text for text in settings.adopt if text != AUTO]  # behind what is inherited
    for index, text in enumerate((*settings.listen, *adopted)):
        key = "listen" if index < len(settings.listen) else "adopt"
        parse = address.parse if key == "listen" else address.parse_adopted
        found = parse(text, index)  # it was parsed before, as an option
        if any(found.name == other.name for other in addresses):
            raise ConfigError(f"{key}: {text!r}: a listener is named {found.name} already")
        addresses.append(found)
    return tuple(addresses)
