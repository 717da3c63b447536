"""A process of the fake world."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Process:
    """What the world knows of a process: nothing of what the fleet thinks of it."""

    ready_at: float | None = None
    retired_at: float | None = None
    quiet: bool = False
    drained: bool = False
    killed: bool = False

    @property
    def asked(self) -> bool:
        """Whether it was told to go, one way or the other."""
        return self.drained or self.killed

    @property
    def serves(self) -> bool:
        """Whether it takes new work, if any comes to it."""
        return self.ready_at is not None and self.retired_at is None and not self.asked

    @property
    def finishes(self) -> bool:
        """Whether it still has work, and is watched until it has none."""
        return self.retired_at is not None and not self.quiet and not self.asked

    def settled(self, now: float, settle: float) -> bool:
        """Whether it has been ready for so long."""
        return self.ready_at is not None and now >= self.ready_at + settle

    def may_drain(self, now: float, patience: float) -> bool:
        """Whether it has retired, and is quiet or was given the time for it."""
        return self.retired_at is not None and (self.quiet or now >= self.retired_at + patience)
