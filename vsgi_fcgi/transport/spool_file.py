"""The temporary file that holds a response while its reader is slow."""

from __future__ import annotations

import os
import tempfile

from vsgi_fcgi.transport.quota import Quota


class Extent:
    """A part of a response that is in its temporary file."""

    __slots__ = ("offset", "size")

    def __init__(self, offset: int, size: int) -> None:
        self.offset = offset
        self.size = size


class RingFile:
    """A ring of bytes in an unlinked temporary file: a worker writes, the main context reads.

    They never use the same bytes at the same time: the writer counts bytes as free only after
    `vsgi_fcgi.server.response_buffer.ResponseBuffer.loaded`.

    Args:
        size: maximum number of bytes in the ring.
        spool: quota of bytes in temporary files.
        folder: the directory of the file, or None for the default.

    Raises:
        OSError: the file cannot be created.
    """

    def __init__(self, size: int, spool: Quota, folder: str | None) -> None:
        self.size = size
        self._spool = spool
        self._taken = 0
        self._position = 0
        self._file = tempfile.TemporaryFile(dir=folder, prefix="vsgi-fcgi-", buffering=0)

    def write(self, data: bytes | bytearray | memoryview) -> Extent | None:
        """Write ``data``. The caller has checked that it fits into the ring.

        Returns:
            The place of the data, which may wrap around the end; None if the quota is used up.

        Raises:
            OSError: the data cannot be written, as on a full disk.
        """
        offset = self._position % self.size
        # The file grows until the ring is full once. Its bytes are not released before it is
        # closed.
        growth = min(offset + len(data), self.size) - self._taken
        if growth > 0:
            if not self._spool.reserve(growth):
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
        """Return the bytes of a part.

        Raises:
            OSError: they cannot be read.
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

    def fileno(self) -> int:
        """Return the file's descriptor."""
        return self._file.fileno()

    def close(self) -> None:
        """Free the disk space and release the quota."""
        self._file.close()
        self._spool.release(self._taken)
        self._taken = 0
