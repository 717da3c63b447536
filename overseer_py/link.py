"""The updater's process, one at a time, and the line to it."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from overseer_py import proposals
from overseer_py.handover import scrub
from overseer_py.system.guard import Guard
from overseer_py.system.launch import Launch
from overseer_py.system.loop import Loop
from overseer_py.system.process import Children, KeptProcess, Process
from overseer_py.system.wire import KeptWire, Wire


@dataclass(frozen=True, slots=True)
class KeptLink:
    """The process and the line, for the master's next image."""

    process: KeptProcess | None
    dismissed: bool
    wire: KeptWire | None
    begun: float


class Link:
    """Starts an updater, hears it line by line, and ends it."""

    def __init__(
        self,
        loop: Loop,
        children: Children,
        environ: Mapping[str, str],
        on_line: Callable[[bytes], None],
        on_exit: Callable[[str, int, bool], None],
    ) -> None:
        """``on_exit`` hears how it ended, with which status, and whether it was asked to."""
        self.begun = 0.0  # when it was started
        self.guard: Guard | None = None  # who must know of it
        self._loop, self._children, self._environ = loop, children, environ
        self._tell, self._tell_end = on_line, on_exit
        self._process: Process | None = None
        self._dismissed = False
        self._wire: Wire | None = None
        self._garbled = ""

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    @property
    def up(self) -> bool:
        """Whether it can be told anything."""
        return self._wire is not None

    def start(self, directory: str, now: float) -> int:
        """Start one and return its pid; raise OSError or LaunchError, with nothing left of it."""
        ours, theirs = socket.socketpair()
        try:
            launch = self._launch(theirs, directory)
            process = self._children.spawn(launch, {}, self._on_exit)
        except BaseException:  # whatever it was, no descriptor is left
            ours.close()
            raise
        finally:
            theirs.close()
        self._process, self._dismissed, self.begun = process, False, now
        self._wire = self._open(ours)
        if self.guard:
            self.guard.worker(process.pid)
        return process.pid

    def say(self, line: bytes) -> bool:
        """Tell it; False if nobody hears."""
        if self._wire:
            self._wire.send(line)
        return self.up

    def end(self) -> None:
        """End it, without waiting for its end."""
        if self._process:
            self._dismissed = True
            self._process.send(signal.SIGTERM)
        self._hang_up("")

    def refuse(self, why: str) -> None:
        """End it for what it has said."""
        self._garbled = why
        self._hang_up(why)

    def garbled(self) -> str:
        """Return, once, why its words were not taken; empty if they were."""
        why, self._garbled = self._garbled, ""
        return why

    def kept(self) -> KeptLink:
        """Return what the master's next image must know."""
        process = self._process.kept() if self._process else None
        wire = self._wire.kept() if self._wire else None
        return KeptLink(process, self._dismissed, wire, self.begun)

    def resume(self, kept: KeptLink) -> None:
        """Go on with the process of an earlier image."""
        self._dismissed, self.begun = kept.dismissed, kept.begun
        if kept.process:
            self._process = self._children.take_up(kept.process, self._on_exit)
        if kept.wire:
            self._wire = self._open(socket.socket(fileno=int(kept.wire.socket)))
            self._wire.resume(kept.wire)

    def _open(self, end: socket.socket) -> Wire:
        return Wire(end, self._loop, proposals.LONGEST_LINE, self._tell, self._on_end)

    def _launch(self, end: socket.socket, directory: str) -> Launch:
        package = str(Path(__file__).parent.parent)
        search = self._environ.get("PYTHONPATH", "")
        environ = scrub(self._environ)
        environ["PYTHONPATH"] = f"{package}{os.pathsep}{search}" if search else package
        return Launch(
            argv=[sys.executable, "-P", "-m", "overseer_py.release"],
            environ=environ,
            directory=directory,
            fds=[end.fileno()],
            stdout=2,
        )

    def _on_exit(self, how: str, status: int) -> None:
        process, self._process = self._process, None
        if self.guard and process:
            self.guard.gone(process.pid)
        self._hang_up("")
        self._tell_end(how, status, self._dismissed)

    def _on_end(self, why: str) -> None:
        """See to it that the process ends with the connection."""
        self._wire = None
        self._garbled = why or self._garbled
        if self._process:
            self._process.send(signal.SIGKILL if why else signal.SIGTERM)

    def _hang_up(self, why: str) -> None:
        if self._wire:
            self._wire.end(why)
