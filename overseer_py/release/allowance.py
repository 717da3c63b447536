"""What one look or one download may still take: seconds and bytes, in all."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import BinaryIO

from overseer_py.errors import FetchError

CHUNK = 1 << 16  # bytes that are read at once


class Allowance:
    """Begins to run when it is made.  A total: what trickles in meanwhile does not prolong it."""

    def __init__(self, what: str, seconds: float, size: int) -> None:
        """Begin now; ``what`` is named in errors and must hold no secrets."""
        self._what = what
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._size = size

    def left(self) -> float:
        """Return the seconds that are left; raise FetchError if there are none."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise FetchError(
                f"{self._what}: not done after {self._seconds:g}s; is the source too slow?"
            )
        return left

    def admit(self, size: int | None) -> None:
        """Raise FetchError if so many bytes are too many; None: nobody knows."""
        if size is not None and size > self._size:
            raise FetchError(f"{self._what}: more than {self._size} bytes; raise --max-size")

    def copy(self, chunks: Iterable[bytes], into: BinaryIO) -> int:
        """Write all chunks and return how many bytes they were.

        Raises FetchError; what ``into`` raises (a full disk) is no fault of the source, and is
        left as it is.
        """
        total = 0
        for chunk in chunks:
            total += len(chunk)
            self.admit(total)
            self.left()
            into.write(chunk)
        return total
