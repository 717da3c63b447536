"""A private directory in which a release is made ready, on the file system where it is to be.

Its name cannot be foretold and it is made, never found (mkdir(2) follows no link); nobody else can
look into it or plant anything there.
"""

from __future__ import annotations

import os
import shutil
from types import TracebackType
from typing import BinaryIO, Self

from overseer_py.errors import StoreError


class Staging:
    """The directory at ``path``; what is left of it is removed at the end of a ``with``."""

    def __init__(self, path: str) -> None:
        self.path = path

    def create(self, name: str) -> BinaryIO:
        """Return a new file, open for writing and reading, that this user alone may open.

        Verify and unpack what this returned, not what the name leads to later.
        """
        path = os.path.join(self.path, name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return open(os.open(path, flags, 0o600), "w+b")
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error

    def discard(self) -> None:
        """Remove it; what cannot be removed now is removed by ``Store.recover``."""
        shutil.rmtree(self.path, ignore_errors=True)  # follows no links

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()
