"""What one worker writes: where its stdout and stderr go, and its last lines.

By default stdout is the master's own and stderr is relayed byte for byte; with ``capture`` both are
read line by line and tagged; with ``no_relay`` neither is touched.
"""

from __future__ import annotations

from dataclasses import dataclass

from overseer_py.capture import Capture, KeptCapture
from overseer_py.core.messages import WorkerId
from overseer_py.errors import LaunchError
from overseer_py.logs import form_of, is_shown
from overseer_py.plain import Fd
from overseer_py.record import Record
from overseer_py.relay import KeptTail, Relay, Sink, Tail
from overseer_py.settings import Settings
from overseer_py.system.loop import Loop
from overseer_py.system.outlet import Outlet


@dataclass(frozen=True, slots=True)
class KeptOutput:
    """The pipes of one worker, and what was read of them, for the master's next image."""

    pid: int
    pipes: list[Fd]
    tail: KeptTail
    captures: list[KeptCapture]


@dataclass(frozen=True, slots=True)
class Outflow:
    """Where all that workers write goes to; ``lines`` keeps what is captured, for later."""

    loop: Loop
    outlet: Outlet
    lines: Record


class Output:
    """The pipes of one worker; each lives until the last process that holds it has let go."""

    def __init__(
        self, worker: WorkerId, settings: Settings, outflow: Outflow, kept: KeptOutput | None = None
    ) -> None:
        """``kept``: go on with the pipes of an earlier image."""
        self.stdout, self.stderr = 1, 2  # the master's own
        self.pid = 0  # known once the worker has been started
        self._worker = worker
        self._loop = outflow.loop
        self._form = form_of(settings.log_format) if is_shown(settings.log_level) else ""
        self._pass_on, self._keep = outflow.outlet.pass_on, outflow.lines.keep
        self._tail = Tail()
        self._relays: list[Relay] = []
        self._captures: list[Capture] = []
        self._kept = list(kept.pipes) if kept else None
        try:
            if settings.capture:
                self.stdout = self._capture("stdout", [])
                self.stderr = self._capture("stderr", [self._tail.feed])
            elif not settings.no_relay:
                self.stderr = self._open([self._tail.feed, self._pass_on])
        except LaunchError:
            self.abandon()
            raise
        if kept:
            self._resume(kept)

    def kept(self) -> KeptOutput:
        """Return what the master's next image must know."""
        pipes = [relay.kept() for relay in self._relays]
        captures = [capture.kept() for capture in self._captures]
        return KeptOutput(self.pid, pipes, self._tail.kept(), captures)

    def _resume(self, kept: KeptOutput) -> None:
        self.pid = kept.pid
        self._tail.resume(kept.tail)
        for capture, read in zip(self._captures, kept.captures, strict=True):
            capture.resume(read)

    def handed_over(self) -> None:
        """Close the ends that the worker has now."""
        for relay in self._relays:
            relay.handed_over()

    def abandon(self) -> None:
        """Close everything: there is no worker."""
        self.handed_over()
        for relay in self._relays:
            relay.close()

    @property
    def behind(self) -> bool:
        """Whether captured lines wait for their turn."""
        return any(capture.behind for capture in self._captures)

    def go_on(self) -> None:
        """Pass on some of them."""
        for capture in self._captures:
            capture.go_on()

    def ended(self) -> list[str]:
        """Pass on all that a worker has left; return its last lines."""
        lines = self.last_lines()
        for capture in self._captures:
            capture.ended()
        return lines

    def last_lines(self) -> list[str]:
        """Return the last lines of stderr, all that has been written up to now."""
        for relay in self._relays:
            relay.catch_up()
        return self._tail.lines()

    def _capture(self, stream: str, sinks: list[Sink]) -> int:
        capture = Capture(lambda: self._tags(stream), self._form, self._pass_on, self._keep)
        self._captures.append(capture)
        return self._open([*sinks, capture.feed])

    def _tags(self, stream: str) -> dict[str, object]:
        generation, slot, _ = self._worker
        return {"generation": generation, "slot": slot, "pid": self.pid, "stream": stream}

    def _open(self, sinks: list[Sink]) -> int:
        relay = Relay(self._loop, sinks, self._kept.pop(0) if self._kept else None)
        self._relays.append(relay)
        return relay.write_end
