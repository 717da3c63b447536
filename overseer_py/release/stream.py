"""What comes out of a compressed file, counted while it comes."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from overseer_py.errors import VetoError

CHUNK = 1 << 16  # bytes
MOST_HEADER = 1 << 16  # bytes of one header of a tar file; there are no longer names than that
_MOST_MEMORY = 1 << 28  # bytes; xz -9 needs 65 MiB to be unpacked


class Readable(Protocol):
    """What can be read in pieces; an empty one is the end."""

    def read(self, size: int, /) -> bytes:
        """Read some bytes, not more than that."""


class Bounded:
    """A stream that is read once, forwards, and ends with a VetoError after so many bytes."""

    def __init__(self, file: Readable, most: int) -> None:
        self._file = file
        self._most = most
        self._at = 0
        self.last = b""  # what was read last

    def tell(self) -> int:
        """Return the number of bytes read."""
        return self._at

    def seek(self, position: int) -> None:
        """Skip what is before a position; tarfile goes back only if it has been misled."""
        if position < self._at:
            raise VetoError("it is damaged: a header points backwards")
        while self._at < position and self.read(min(CHUNK, position - self._at)):
            pass

    def read(self, size: int) -> bytes:
        """Read that many bytes, fewer at the end."""
        if not 0 <= size <= MOST_HEADER:
            raise VetoError("it is damaged: a header is too long")
        self.last = b""
        while len(self.last) < size and (more := self._file.read(size - len(self.last))):
            self.last += more
        self._at += len(self.last)
        if self._at > self._most:
            raise VetoError(f"it unpacks to more than {self._most} bytes")
        return self.last

    def chunks(self, size: int | None = None) -> Iterator[bytes]:
        """Read what is left, or exactly that many bytes, in pieces."""
        end = None if size is None else self._at + size
        while end is None or self._at < end:
            wanted = CHUNK if end is None else min(CHUNK, end - self._at)
            chunk = self.read(wanted)
            if not chunk:
                if end is not None:
                    raise VetoError("it is cut short")
                return
            yield chunk


class Xz:
    """LZMAFile, but with a limit to the memory that a header can ask for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = b""
        self._stream: lzma.LZMADecompressor | None = None

    def read(self, size: int) -> bytes:
        """Read some bytes, not more than that; none at the end."""
        while True:
            if self._stream is None:
                self._left = self._left.lstrip(b"\0")  # xz(1): padding between streams
            if not self._left and (self._stream is None or self._stream.needs_input):
                self._left = self._file.read(CHUNK)
                if self._left:
                    continue
                if self._stream is None:
                    return b""
                raise EOFError("it is cut short")
            if self._stream is None:
                self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_MEMORY)
            out = self._stream.decompress(self._left, size)
            self._left = b""
            if self._stream.eof:
                self._left = self._stream.unused_data
                self._stream = None
            if out:
                return out
