"""A watcher and the loop around it, for tests."""

from __future__ import annotations

import ctypes
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from overseer_py.release.watcher import Watcher
from tests.master import PATIENCE
from tests.needs import cannot
from tests.system.apart import apart

DEBOUNCE = 0.05
_CLONE_NEWUSER = 0x10000000
_NO_NAMESPACE = "user namespaces cannot be made here"


class Watch:
    """A watcher and the loop around it, as the updater has them; what it tells is taken by hand.

    ``mark`` is a file that is watched, too: when its change is told, so is all before it.
    """

    def __init__(self, tmp_path: Path, *patterns: str | Path, debounce: float = DEBOUNCE) -> None:
        self._woken = os.eventfd(0, os.EFD_NONBLOCK)
        self._mark = tmp_path / "mark"
        self._mark.write_text("0")
        self._marks = 0
        wake = self._wake
        self.watcher = Watcher([str(self._mark), *map(str, patterns)], debounce, wake)

    def _wake(self) -> None:
        os.eventfd_write(self._woken, 1)

    def begin(self, seen: str = "", since: int | None = None) -> str:
        """Begin; without a time nothing is newer."""
        return self.watcher.begin(seen, time.time_ns() + 10**18 if since is None else since)

    def tells(self, patience: float = PATIENCE) -> str:
        """Wait until it tells of a change; empty if it does not in time."""
        give_up_at = time.monotonic() + patience
        while (now := time.monotonic()) < give_up_at:
            due = self.watcher.due()
            left = give_up_at - now if due is None else max(0.0, min(due, give_up_at) - now)
            if select.select([self._woken], [], [], left)[0]:
                os.eventfd_read(self._woken)
            if told := self.watcher.look(time.monotonic()):
                self.watcher.caught_up()
                return told
        return ""

    def told(self) -> str:
        """Change the mark, and return what is told until then; the mark itself is left out."""
        self._marks += 1
        self._mark.write_text(str(self._marks))
        mark, told = str(self._mark), []
        while mark not in (words := self.tells()):
            assert words, "the change of the mark is never told"
            told.append(words)
        if words != mark:
            told.append(words)
        return ", ".join(told)

    def tells_once(self, path: str | Path) -> None:
        """Assert that a change of this path is told, and that nothing follows it."""
        told = self.tells()
        assert told.startswith(str(path)), told or "nothing is told"
        assert self.told() == ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.watcher.close()
        os.close(self._woken)


@contextmanager
def watching(tmp_path: Path, *patterns: str | Path, debounce: float = DEBOUNCE) -> Iterator[Watch]:
    """Watch these paths from now on."""
    with Watch(tmp_path, *patterns, debounce=debounce) as watch:
        assert watch.begin() == ""
        assert not watch.watcher.blind
        yield watch


_WRITER = """
import sys, time
for _ in range(int(sys.argv[2])):
    open(sys.argv[1], "a").write("x")
    time.sleep(.1)
"""


def waits_for_a_writer(watch: Watch, path: Path, writes: int, debounce: float) -> bool:
    """Whether it tells of a file once who writes to it for long has ended, and not before.

    On a slow machine the writer itself may be still for longer than a short debounce.
    """
    command = [sys.executable, "-c", _WRITER, str(path), str(writes)]
    with subprocess.Popen(command) as writer:
        told, written, age = watch.tells(), path.read_text(), time.time() - path.stat().st_mtime
    assert told == str(path)
    assert writer.returncode == 0
    return written.endswith("x" * writes) and age >= debounce - 0.01


def replace(path: Path, text: str, beside: str = ".new") -> None:
    """Replace a file as careful programs do."""
    new = path.with_name(path.name + beside)
    new.write_text(text)
    os.replace(new, path)


def in_limits_of_its_own(run: Callable[[], object]) -> None:
    """Run it in a process with limits of its own: those of the machine are everybody's.

    Each user namespace has its own (user_namespaces(7)), and nobody else is in there.
    """

    def inside() -> bool:
        if ctypes.CDLL(None).unshare(_CLONE_NEWUSER):
            return False
        run()
        return True

    if not apart(inside):
        cannot(_NO_NAMESPACE)


@contextmanager
def limited(name: str, value: int) -> Iterator[None]:
    """Lower a limit of inotify's for a while.  Only in limits of its own."""
    limit = Path("/proc/sys/user") / name
    before = limit.read_text()
    limit.write_text(str(value))
    try:
        yield
    finally:
        limit.write_text(before)
