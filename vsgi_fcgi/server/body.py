"""A request body on its way from the web server to the app."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from typing import IO, Final

from vsgi_fcgi.budget import Budget
from vsgi_fcgi.protocol.events import Buffer
from vsgi_fcgi.server.contract import main_only, worker_only
from vsgi_fcgi.server.disk import Disk, Done

_SMALL: Final = 1024
"""Bytes of a piece from which on it is kept as it came."""


class Body:
    """Gathers a body: in memory first, then in a temporary file.

    The main context owns it until the request is submitted, then the worker, then, when the
    worker has finished, the main context again.

    Args:
        expected: bytes that CONTENT_LENGTH promises, or None.
        memory: the total of bytes in memory.
        spool: the total of bytes in temporary files.

    Attributes:
        began: when it was made, in nanoseconds, if an access log wants to know.
        size: bytes received, without what exceeds ``expected``.
        held: bytes of it in memory, and not on their way to the file.
        writing: a piece is on its way to the file.
        ended: STDIN has ended.
    """

    __slots__ = (
        "_file",
        "_memory",
        "_pieces",
        "_spool",
        "_spooled",
        "began",
        "ended",
        "expected",
        "held",
        "size",
        "writing",
    )

    def __init__(self, expected: int | None, memory: Budget, spool: Budget) -> None:
        self.expected = expected
        self.began = 0
        self.size = 0
        self.held = 0
        self.writing = False
        self.ended = False
        self._memory = memory
        self._spool = spool
        self._pieces: list[Buffer] = []
        self._file: IO[bytes] | None = None
        self._spooled = 0

    @property
    def in_file(self) -> bool:
        """Whether the body goes to a file."""
        return self._spooled > 0

    @main_only
    def append(self, data: Buffer) -> None:
        """Take a piece, in memory for now; what exceeds CONTENT_LENGTH is dropped."""
        if self.expected is not None and self.size + len(data) > self.expected:
            data = data[: self.expected - self.size]
        if not data:
            return  # not even an empty view, which would keep alive what was received with it
        pieces = self._pieces
        if len(data) >= _SMALL:
            pieces.append(data)
        elif pieces and type(pieces[-1]) is bytearray:
            pieces[-1] += data
        else:
            # Small records are joined: each would take more memory than it counts for.
            pieces.append(bytearray(data) if pieces else data)
        self.size += len(data)
        self.held += len(data)
        self._memory.force(len(data))

    @main_only
    def write_out(self, disk: Disk, folder: str | None, done: Done) -> bool:
        """Write what is held to the temporary file.

        Args:
            disk: does it.
            folder: where the file is made.
            done: called in the main context, with None or an OSError.

        Returns:
            False if the total of all temporary files does not allow it.
        """
        size, pieces = self.held, self._pieces
        if not self._spool.take(size):
            return False
        self._spooled += size
        self._pieces = []
        self.held = 0
        self.writing = True
        disk.submit(partial(self._write, pieces, folder), partial(self._written, size, done))
        return True

    def _write(self, pieces: Sequence[Buffer], folder: str | None) -> None:
        """Run by the disk's thread, which alone touches the file while `writing`."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=folder, prefix="vsgi-fcgi-")
        self._file.writelines(pieces)
        self._file.flush()

    def _written(self, size: int, done: Done, result: object) -> None:
        self.writing = False
        self._memory.give(size)
        done(result)

    @worker_only
    def open(self) -> IO[bytes] | None:
        """The whole body as a file to be read, or None if it is empty."""
        if self._file is not None:
            self._file.seek(0)
            return self._file
        if not self.size:
            return None
        pieces = self._pieces
        # BytesIO shares a bytes object until it is written to: one copy in all.
        return BytesIO(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def release(self, disk: Disk) -> None:
        """Give back what it takes, in memory and on disk. By its owner, and not while `writing`."""
        self._memory.give(self.held)
        self._pieces = []
        self.held = 0
        if self._spooled:
            self._spool.give(self._spooled)
            self._spooled = 0
            if self._file is not None:
                # Freeing a large file takes long enough to stall the main context.
                disk.submit(self._file.close)
                self._file = None
