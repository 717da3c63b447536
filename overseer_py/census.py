"""How many connections each worker has.

From the kernel: those that were accepted at the listeners' addresses, by who holds them.  Nobody is
asked, and it does not come free: a big machine has many processes and many connections.  So it is
not done again before ten times as long has passed as it took.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from overseer_py.core.messages import WorkerId
from overseer_py.crew import Crew
from overseer_py.sockets import Sockets
from overseer_py.system import connections, procfs

_REST = 10.0


@dataclass(frozen=True, slots=True)
class Tally:
    """The connections of one worker."""

    connections: int = 0
    oldest: float = 0.0  # seconds that one of them has been open, as far as we have seen


class Census:
    """Counts, and remembers since when it knows each connection."""

    def __init__(self, crew: Crew, sockets: Sockets) -> None:
        self._crew = crew
        self._sockets = sockets
        self._tallies: dict[WorkerId, Tally] = {}
        self._known: dict[int, float] = {}  # connections (by inode), since when
        self._again_at = 0.0

    def of(self, worker: WorkerId) -> Tally:
        """Return what was counted last."""
        return self._tallies.get(worker, Tally())

    def take(self, now: float, *, closely: bool = False) -> None:
        """Count anew, unless that was done just now; ``closely`` for their ages."""
        if now < self._again_at:
            return
        spent = time.process_time()
        there = connections.accepted(self._sockets.everything(), closely=closely)
        self._known = {
            inode: min(self._known.get(inode, now), now - age) for inode, age in there.items()
        }
        self._tallies = {
            worker: self._tally(procfs.tree([member.process.pid]), now)
            for worker, member in self._crew.members.items()
            if there
        }
        self._again_at = now + _REST * (time.process_time() - spent)

    def _tally(self, pids: Iterable[int], now: float) -> Tally:
        held = {inode for pid in pids for inode in procfs.sockets(pid)} & self._known.keys()
        oldest = max((now - self._known[inode] for inode in held), default=0.0)
        return Tally(len(held), oldest)
