"""The temporary file that takes a response when its reader is slow."""

from __future__ import annotations

import os
import tempfile

from vsgi_fcgi.budget import Budget


class Extent:
    """A part of a response that lies in its temporary file."""

    __slots__ = ("offset", "size")

    def __init__(self, offset: int, size: int) -> None:
        self.offset = offset
        self.size = size


class RingFile:
    """A ring of bytes in an unlinked temporary file: a worker writes, the main context reads.

    The two never meet at the same bytes: what was read counts as free only after
    `Output.credit_file`.

    Args:
        size: bytes that the ring can hold.
        spool: the total of all temporary files.
        folder: where the file is made.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, size: int, spool: Budget, folder: str | None) -> None:
        self.size = size
        self._spool = spool
        self._taken = 0
        self._position = 0
        self._file = tempfile.TemporaryFile(dir=folder, prefix="vsgi-fcgi-", buffering=0)

    def write(self, data: bytes | bytearray | memoryview) -> Extent | None:
        """Write ``data``, for which the caller knows that there is room in the ring.

        Returns:
            Where it lies (it may wrap around the end), or None if the total of all temporary
            files does not allow it.

        Raises:
            OSError: the disk is full.
        """
        offset = self._position % self.size
        # The file grows until it has been round once; what it takes is never given back before
        # it is closed.
        growth = min(offset + len(data), self.size) - self._taken
        if growth > 0:
            if not self._spool.take(growth):
                return None
            self._taken += growth
        view = memoryview(data)
        first = min(len(view), self.size - offset)
        self._write_at(view[:first], offset)
        self._write_at(view[first:], 0)
        self._position += len(view)
        return Extent(offset, len(view))

    def _write_at(self, view: memoryview, offset: int) -> None:
        while view:
            written = os.pwrite(self._file.fileno(), view, offset)
            view = view[written:]
            offset += written

    def read(self, extent: Extent) -> bytes:
        """Read a part.

        Raises:
            OSError: the disk fails.
        """
        parts = []
        offset, left = extent.offset, extent.size
        while left:
            wanted = min(left, self.size - offset)
            part = os.pread(self._file.fileno(), wanted, offset)
            if not part:
                raise OSError("a temporary file has lost bytes")
            parts.append(part)
            left -= len(part)
            offset = (offset + len(part)) % self.size
        return b"".join(parts)

    def close(self) -> None:
        """Free the disk space and give it back to the total."""
        self._file.close()
        self._spool.give(self._taken)
        self._taken = 0
