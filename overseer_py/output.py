"""What one worker writes: where its stdout and stderr go, and its last lines.

By default stdout is the master's own and stderr is relayed byte for byte; with ``capture`` both are
read line by line and tagged; with ``no_relay`` neither is touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from overseer_py.core.messages import WorkerId
from overseer_py.errors import LaunchError
from overseer_py.ledger import timestamp
from overseer_py.logs import open_workers_log
from overseer_py.record import Record
from overseer_py.relay import BULK, LINES, Relay, Splitter, Tail
from overseer_py.settings import Settings
from overseer_py.system.loop import Loop
from overseer_py.system.outlet import Outlet

Sink = Callable[[bytes], None]


class Output:
    """The pipes of one worker; each lives until the last process that holds it has let go."""

    def __init__(
        self, worker: WorkerId, settings: Settings, loop: Loop, outlet: Outlet, lines: Record
    ) -> None:
        """``lines`` keeps what is captured, for those who ask for it later."""
        self.stdout, self.stderr = 1, 2  # the master's own
        self.pid = 0  # known once the worker has been started
        self._worker = worker
        self._loop = loop
        self._log = open_workers_log(outlet)
        self._lines = lines
        self._tail = Tail()
        self._relays: list[Relay] = []
        try:
            if settings.capture:
                self.stdout = self._capture("stdout", [])
                self.stderr = self._capture("stderr", [self._tail.feed])
            elif not settings.no_relay:
                self.stderr = self._open([self._tail.feed, outlet.pass_on])
        except LaunchError:
            self.abandon()
            raise

    def handed_over(self) -> None:
        """Close the ends that the worker has now."""
        for relay in self._relays:
            relay.handed_over()

    def abandon(self) -> None:
        """Close everything: there is no worker."""
        self.handed_over()
        for relay in self._relays:
            relay.close()

    def last_lines(self) -> list[str]:
        """Return the last lines of stderr, all that has been written up to now."""
        for relay in self._relays:
            relay.catch_up()
        return self._tail.lines()

    def _capture(self, stream: str, sinks: list[Sink]) -> int:
        splitter = Splitter(lambda line: self._tell(stream, line))
        return self._open([*sinks, splitter.feed], LINES)

    def _open(self, sinks: list[Sink], most: int = BULK) -> int:
        relay = Relay(self._loop, sinks, most)
        self._relays.append(relay)
        return relay.write_end

    def _tell(self, stream: str, line: str) -> None:
        generation, slot, _ = self._worker
        facts = {"generation": generation, "slot": slot, "pid": self.pid, "stream": stream}
        self._log.info("worker-output", **facts, line=line)
        self._lines.add({"timestamp": timestamp(time.time()), **facts, "line": line})
