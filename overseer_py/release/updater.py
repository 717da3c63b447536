"""The updater: watches and fetches, each in its own time, and tells the master what is new.

The main thread hears the master and the watched paths; a second one looks at the source, which may
take minutes, and is the only one that touches the releases.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from overseer_py import proposals
from overseer_py.proposals import Ask, Begin, Changed, Crashing, Ended, Note, Replaced, Said, Seen
from overseer_py.release.watcher import Watcher

if TYPE_CHECKING:
    from overseer_py.release.fetcher import Fetcher

_INSTALLATION = 2.0  # seconds that the package must be still: pip writes for a while


class Updater:
    """Owned by the main thread; ``say`` and ``wake`` may be called by any."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""
        self._lock = threading.Lock()
        self._woken = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._watcher: Watcher | None = None
        self._polls = False  # it watches without inotify, which is said
        self._package: Watcher | None = None  # of ourselves
        self._fetcher: Fetcher | None = None

    def run(self) -> None:
        """Work until the master hangs up."""
        while True:
            watchers = filter(None, (self._watcher, self._package))
            due = min((at for w in watchers if (at := w.due()) is not None), default=None)
            left = None if due is None else max(0.0, due - time.monotonic())
            ours = self._connection.fileno()
            readable, _, _ = select.select([ours, self._woken], [], [], left)
            if self._woken in readable:
                os.eventfd_read(self._woken)
            if ours in readable and not self._hear():
                return
            self._look()

    def say(self, message: Said) -> None:
        """Tell the master."""
        with self._lock:
            self._connection.sendall(proposals.encode(message))

    def wake(self) -> None:
        """Have the watched paths looked at."""
        os.eventfd_write(self._woken, 1)

    def _hear(self) -> bool:
        """Take what the master says; tell whether it is still there."""
        data = self._connection.recv(1 << 16)
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            match proposals.told(line):
                case Begin() as begin:
                    self._begin(begin)
                case Ended() | Crashing() | Ask() as order if self._fetcher:
                    self._fetcher.order(order)
        return bool(data)

    def _begin(self, begin: Begin) -> None:
        settings = begin.settings
        if settings["fetch"]:
            from overseer_py.release.fetcher import Fetcher  # noqa: PLC0415 - not to watch only

            self._fetcher = Fetcher(begin, self.say)
            self._fetcher.start()
        if settings["watch"]:
            wanted = [os.path.join(begin.directory, path) for path in settings["watch"]]
            self._watcher = Watcher(wanted, settings["debounce"], self.wake)
            changed = self._watcher.begin(begin.seen, begin.since)
            paths = ", ".join(settings["watch"])
            self.say(Note("watching", {"paths": paths, "files": self._watcher.count}))
            if changed:
                self.say(Changed(changed))
            self.say(Seen(self._watcher.digest))

        if settings.get("self_upgrade"):
            here = str(Path(__file__).parent.parent)
            self._package = Watcher([here], _INSTALLATION, self.wake)
            if changed := self._package.begin("", begin.image):
                self.say(Replaced(changed))

    def _look(self) -> None:
        if self._package and (changed := self._package.look(time.monotonic())):
            self.say(Replaced(changed))
            self._package.caught_up()
        if self._watcher is None:
            return
        if changed := self._watcher.look(time.monotonic()):
            self.say(Changed(changed))  # first: the rest may take a while
            self._watcher.caught_up()
            self.say(Seen(self._watcher.digest))
        if self._watcher.blind and not self._polls:
            self._polls = True
            self.say(Note("watch-polls", {"reason": self._watcher.blind}))
