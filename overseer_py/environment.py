"""The variables that a service gives its workers: from a clean base for every generation.

From the weakest to the strongest: the master's own environment (less what is the master's), what a
login as ``user`` sets, ``env_file``, ``env_dir``, ``env``.  All is read anew each time, so what was
taken out of a file is gone in the next generation.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from overseer_py import dialects, handover
from overseer_py.config import OWN_VARIABLES
from overseer_py.errors import ConfigError
from overseer_py.settings import Settings
from overseer_py.system.identity import home_of

_LONGEST = 1 << 17  # bytes of one variable: MAX_ARG_STRLEN of execve(2)
_OF_THE_MASTER = {*handover.WORKER_VARIABLES, *handover.MASTERS_OWN, "PWD"}


def of_service(settings: Settings, base: Mapping[str, str], directory: str) -> dict[str, str]:
    """Return the variables; paths are relative to ``directory``.  Raises ConfigError."""
    foreign = filter(dialects.is_foreign, base)
    service = handover.scrub(base, (*OWN_VARIABLES, *foreign)) | home_of(settings.user)
    for path in settings.env_file:
        service |= read_file(path, directory)
    for path in settings.env_dir:
        for name, value in read_directory(path, directory):
            if value is None:
                service.pop(name, None)
            else:
                service[name] = value
    return service | dict(settings.env)


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterable[str]:
    """Return the names of the service's own variables that differ; never a value."""
    names = {*before, *after} - _OF_THE_MASTER
    return sorted(
        name
        for name in names
        if before.get(name) != after.get(name) and not dialects.is_foreign(name)
    )


def read_file(path: str, directory: str) -> dict[str, str]:
    """Read ``KEY=VALUE`` lines; blank lines, ``#`` and a leading ``export`` are passed over."""
    place = Path(directory, path)
    try:
        if not place.is_file() and place.exists():
            raise ConfigError(f"env_file: {path}: not a file; it is read for every generation")
        lines = place.read_text(encoding="utf-8").splitlines()
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


def read_directory(path: str, directory: str) -> Iterator[tuple[str, str | None]]:
    """Yield the variables of a directory as envdir(8) of daemontools reads it.

    One a file, named as the file: its first line without blanks at the end, in which a zero byte
    stands for a newline.  None for an empty file: the variable is taken away.  Files whose names
    begin with a dot are passed over.
    """
    try:
        names = sorted(os.listdir(os.path.join(directory, path)))
    except OSError as error:
        raise ConfigError(f"env_dir: {path}: {error.strerror}") from error
    for name in names:
        if name.startswith("."):
            continue
        if "=" in name:
            raise ConfigError(f"env_dir: {path}/{name}: a variable's name has no '='")
        content = _head(os.path.join(directory, path, name), f"{path}/{name}")
        line = content.partition(b"\n")[0]
        if len(line) > _LONGEST:
            raise ConfigError(f"env_dir: {path}/{name}: a line of more than {_LONGEST >> 10} KiB")
        value = line.rstrip(b" \t").replace(b"\0", b"\n")
        yield name, os.fsdecode(value) if content else None


def _head(place: str, shown: str) -> bytes:
    """Return the beginning of a file; what is none, such as a FIFO, would hold the master up."""
    try:
        fd = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfigError(f"env_dir: {shown}: not a file")
            return os.read(fd, _LONGEST + 2)  # with the end of the line
        finally:
            os.close(fd)
    except OSError as error:
        raise ConfigError(f"env_dir: {shown}: {error.strerror}") from error


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value
