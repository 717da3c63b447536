"""The whole state of a master, for the next image of itself: a versioned document in JSON.

A field that is new gets its default when an older document is read; one that is gone is passed
over.  Whatever cannot be read so needs a new FORMAT, and code here that knows both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from overseer_py import __version__
from overseer_py.bound import KeptBound
from overseer_py.control import KeptControl, KeptRequest
from overseer_py.core.snapshot import FleetSnapshot
from overseer_py.errands import KeptErrands
from overseer_py.errors import OverseerError
from overseer_py.holdings import KeptSockets
from overseer_py.instance import Claim
from overseer_py.ledger import KeptLedger
from overseer_py.link import KeptLink
from overseer_py.member import KeptCrew
from overseer_py.plain import Fd, descriptors, from_plain, to_plain
from overseer_py.plans import KeptPlans
from overseer_py.promises import KeptPromises
from overseer_py.record import KeptRecord
from overseer_py.system.fdstore import KeptStore
from overseer_py.system.guard import KeptGuard
from overseer_py.system.outlet import KeptOutlet
from overseer_py.updates import KeptUpdates

FORMAT = 1


@dataclass(frozen=True, slots=True)
class KeptClaim:
    """The right to the instance's name."""

    path: str
    fd: Fd
    control: str

    def claim(self) -> Claim:
        """Return it."""
        return Claim(Path(self.path), int(self.fd), Path(self.control))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything."""

    format: int
    version: str  # of who wrote it
    pid: int
    at: float  # CLOCK_MONOTONIC
    start_directory: str
    limit: tuple[int, int] | None  # RLIMIT_NOFILE as the service has it; None: as the master had
    claim: KeptClaim | None
    inbox: Fd
    outlet: KeptOutlet
    fleet: FleetSnapshot
    store: KeptStore
    sockets: KeptSockets
    plans: KeptPlans
    guard: KeptGuard | None
    crew: KeptCrew
    control: KeptControl | None
    ledger: KeptLedger
    events: KeptRecord
    lines: KeptRecord
    promises: KeptPromises
    errands: KeptErrands
    updates: KeptUpdates
    strangers: list[int]
    upgrade: list[KeptRequest]  # who waits for the upgrade itself
    bound: list[KeptBound] = field(default_factory=list)  # those who bind for themselves

    def inherited(self, claim: Claim) -> Snapshot:
        """Return it for a master that has the name now."""
        mine = KeptClaim(str(claim.path), Fd(claim.fd), str(claim.control))
        return replace(self, claim=mine)

    def bequeathed(self) -> Snapshot:
        """Return what is left for another master: no name, no clients, no processes but workers."""
        nothing = KeptRecord([], [])
        link = KeptLink(None, dismissed=False, wire=None, begun=0.0)
        return replace(
            self,
            limit=None,
            claim=None,
            outlet=KeptOutlet(0, []),
            guard=None,
            control=None,
            events=nothing,
            lines=nothing,
            promises=replace(self.promises, open=[]),
            updates=replace(self.updates, link=link, asks={}),
            upgrade=[],
        )


def encode(snapshot: Snapshot) -> tuple[bytes, list[Fd]]:
    """Return the document, and the descriptors that go with it."""
    return json.dumps(to_plain(snapshot)).encode(), list(descriptors(snapshot))


def decode(data: bytes) -> Snapshot:
    """Return what an image of this version or an earlier one wrote; raise OverseerError."""
    try:
        document = json.loads(data)
        if document["format"] != FORMAT:
            raise OverseerError(
                f"the state was written by overseer {document['version']}, in a format "
                f"({document['format']}) that overseer {__version__} does not know"
            )
        return from_plain(Snapshot, document)
    except (ValueError, KeyError, TypeError) as error:
        raise OverseerError(f"the state cannot be read: {error}") from error
