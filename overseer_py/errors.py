"""What can go wrong for a user: each error names the thing, the key and the remedy.

The exit status of the command is a property of the error, and so is in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class OverseerError(Exception):
    """Anything that ends the command with a line that says why."""

    exit_status = 1


class ConfigError(OverseerError):
    """A flag, a variable or a key of the file that cannot be meant."""

    exit_status = 2


class ListenerError(OverseerError):
    """A listener that could not be had."""

    exit_status = 3


class NameTakenError(OverseerError):
    """Another overseer of this name runs."""

    exit_status = 4


class LaunchError(OverseerError):
    """A worker that could not be started: what, and the system's own reason."""


class NoInstanceError(OverseerError):
    """No master can be talked to."""

    exit_status = 3


class SeveralInstancesError(OverseerError):
    """More than one master could be meant."""

    exit_status = 2


class RequestError(OverseerError):
    """A request that a master refused, could not do, or has not done in time."""


class RolloutError(RequestError):
    """A rollout that was not committed; ``rollout`` says how it ended."""

    def __init__(self, rollout: Mapping[str, Any]) -> None:
        generation, outcome = rollout.get("generation"), rollout.get("outcome")
        super().__init__(f"generation {generation} {outcome}: {rollout.get('error')}")
        self.rollout = rollout


class FetchError(OverseerError):
    """A source that could not be looked at or read; it is tried again."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        """``retry_after`` is the number of seconds for which the source asks us to stay away."""
        super().__init__(message)
        self.retry_after = retry_after


class VetoError(OverseerError):
    """A release that must not be installed: what was asked for in it is wrong or absent."""


class StoreError(OverseerError):
    """The releases of a path that could not be written or read: which file, the system's reason."""
