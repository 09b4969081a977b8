"""The body of a request, on its way from the web server to the app.

A body is gathered in memory. If it becomes too large for that, it goes to a temporary file:

1. `Body.receive` takes a piece. If the web server has announced a length that fits into memory, and
   a quarter of it has come, the body gets a buffer of that length, into which each piece is copied.
   The app then reads this buffer without a further copy. The whole buffer is charged to the quota
   of memory, so that a client that announces much and sends little can reserve no more than four
   times what it sends. Other pieces are kept in a list.
2. When a body holds more than ``body_memory_bytes``, or when the quota of memory is used up,
   everything that it holds is handed to the thread that works on files. The connection is not read
   meanwhile, so that the web server cannot send faster than the disk can write.
3. That thread calls `Body._write`. The mailbox brings the result back: the main context calls
   `Body._written`, and the connection is read again.
4. From then on, pieces are gathered until they are worth another write.
5. `Body.end` is called when the stream has ended. What is still in memory is written, and the
   exchange learns that its body is complete: a worker may have it.

If something goes wrong on this way (no room for temporary files, a full disk), the request is
answered with 503. If the request ends meanwhile, the body is released as soon as nothing is being
written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from typing import IO, Final, Protocol

from vsgi_fcgi.children import silence
from vsgi_fcgi.protocol.constants import Buffer
from vsgi_fcgi.server.services import Services
from vsgi_fcgi.transport.quota import append_piece
from vsgi_fcgi.transport.thread_affinity import main_only, worker_only

_SPOOL_STEP: Final = 131072
"""Bytes that are gathered before another write to a temporary file that exists already."""


class Pausable(Protocol):
    """The connection of a request, as its body sees it."""

    def pause(self) -> None:
        """Stop reading until `resume` is called; may be nested."""

    def resume(self) -> None:
        """Read again, unless there is another reason not to."""


class BodyOwner(Protocol):
    """The request that a body belongs to, as the body sees it."""

    @property
    def connection(self) -> Pausable:
        """The connection that brings the body."""

    def refuse(self, status: int, reason: str) -> None:
        """Answer the request with an error, without running an app."""

    def complete_body(self) -> None:
        """Take note that a body is complete."""


class Body:
    """Gathers a body: in memory first, then in a temporary file.

    The main context owns it until the request is submitted, then the worker, and then, when the
    worker has finished, the main context again.

    Args:
        services: the services of the server.
        owner: the request.
        expected: bytes that CONTENT_LENGTH promises, or None.

    Attributes:
        began: the time of its creation in nanoseconds, if an access log needs it.
        size: bytes received, without those that exceed ``expected``.
        held: bytes charged for what is in memory and not on its way to the file.
        writing: a piece is on its way to the file.
        ended: the stream has ended.
    """

    __slots__ = (
        "_buffer",
        "_file",
        "_owner",
        "_pieces",
        "_released",
        "_services",
        "_spooled",
        "_view",
        "began",
        "ended",
        "expected",
        "held",
        "size",
        "writing",
    )

    def __init__(self, services: Services, owner: BodyOwner, expected: int | None) -> None:
        self._services = services
        self._owner = owner
        self.expected = expected
        self.began = 0
        self.size = 0
        self.held = 0
        self.writing = False
        self.ended = False
        self._released = False
        self._pieces: list[Buffer] = []
        # The buffer of an announced length, and the view through which it is filled.
        self._buffer: BytesIO | None = None
        self._view: memoryview | None = None
        self._file: IO[bytes] | None = None
        self._spooled = 0

    @property
    def complete(self) -> bool:
        """Whether the whole body has come and nothing of it is still being written."""
        return self.ended and not self.writing

    # From the web server.

    @main_only
    def receive(self, data: Buffer) -> None:
        """Take a piece; bytes that exceed CONTENT_LENGTH are dropped.

        If the system has no memory for it, the request is refused.

        Args:
            data: the piece; a writable view is copied, because it will be overwritten.
        """
        try:
            self._receive(data)
        except MemoryError:
            self._owner.refuse(503, "the system has no memory for its body")

    def _receive(self, data: Buffer) -> None:
        size = len(data)
        at = self.size
        if self.expected is not None and at + size > self.expected:
            # No view: it would keep everything alive that was received together with it.
            data = bytes(data[: self.expected - at])
            size = len(data)
        if not size:
            return
        self.size = at + size
        services = self._services
        memory = services.memory
        if self._view is not None or (self._pieces and self._reserve()):
            assert self._view is not None
            self._view[at : at + size] = data
            if memory.used > memory.limit:
                self._write_out()
            return
        if type(data) is memoryview and not data.readonly:
            data = bytes(data)
        append_piece(self._pieces, data)
        self.held += size
        memory.charge(size)
        if self.writing:
            return
        if self._spooled:
            if self.held >= _SPOOL_STEP:
                self._write_out()
        elif self.held > services.config.body_memory_bytes or memory.used > memory.limit:
            self._write_out()

    def _reserve(self) -> bool:
        """Make the buffer, and copy the pieces to it, if it is worth its memory and there is room.

        Returns:
            Whether there is a buffer now.
        """
        expected, services = self.expected, self._services
        if expected is None or self._spooled or 4 * self.size < expected:
            return False
        more = expected - self.held
        memory = services.memory
        if expected > services.config.body_memory_bytes or memory.used + more > memory.limit:
            return False
        memory.charge(more)
        self.held = expected
        # This BytesIO is the only owner of the bytes object. So it can be written to, and `read`
        # returns the object itself.
        self._buffer = BytesIO(bytes(expected))
        self._view = self._buffer.getbuffer()
        at = 0
        for piece in self._pieces:
            self._view[at : at + len(piece)] = piece
            at += len(piece)
        self._pieces = []
        return True

    @main_only
    def end(self) -> None:
        """Take the end of the stream."""
        self.ended = True
        if self.writing:
            return
        if self._spooled and self.held:
            self._write_out()
        else:
            self._owner.complete_body()

    # To the temporary file.

    def _write_out(self) -> None:
        """Have everything that is held written, and pause the connection until it is."""
        services = self._services
        if self._view is not None:
            self._pieces = [self._view[: self.size]]
            services.memory.release(self.held - self.size)
            self.held = self.size
            self._buffer = self._view = None
        size, pieces = self.held, self._pieces
        if not services.spool.reserve(size):
            limit = services.spool.limit
            self._owner.refuse(503, f"{limit} bytes of temporary files are in use")
            return
        self._spooled += size
        self._pieces = []
        self.held = 0
        self.writing = True
        write = partial(self._write, pieces, services.config.spool_dir)
        services.file_io.submit(write, partial(self._written, size))
        self._owner.connection.pause()

    def _write(self, pieces: Sequence[Buffer], folder: str | None) -> None:
        """Write pieces. In the thread of `FileIO`, which alone uses the file while `writing`."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=folder, prefix="vsgi-fcgi-")
        self._file.writelines(pieces)
        self._file.flush()

    def _written(self, size: int, error: OSError | None) -> None:
        """Continue after a write. In the main context again."""
        connection = self._owner.connection
        self.writing = False
        self._services.memory.release(size)
        if self._released:
            self.release()
        elif error is not None:
            self._services.log.error("cannot write a request body to a temporary file: %s", error)
            self._owner.refuse(503, "a temporary file cannot be written")
        elif self.held and (self.ended or self.held >= _SPOOL_STEP):
            self._write_out()
        elif self.ended:
            self._owner.complete_body()
        connection.resume()

    # To the app.

    @worker_only
    def open(self) -> IO[bytes] | None:
        """Return the whole body as a file to read, or None if it is empty."""
        if self._file is not None:
            self._file.seek(0)
            return self._file
        if not self.size:
            return None
        if self._buffer is not None and self._view is not None:
            self._view.release()
            return self._buffer
        pieces = self._pieces
        # BytesIO shares a bytes object until it is written to: one copy in all.
        return BytesIO(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    # The end.

    def forked(self) -> None:
        """Make the file useless in a child process, which would share its position."""
        if self._file is not None:
            silence(self._file.fileno())

    def release(self) -> None:
        """Return memory and file; if a piece is being written, do so when it is.

        To be called by its owner: the main context, or the worker that finds the server closed.
        """
        self._released = True
        if self.writing:
            return
        services = self._services
        services.memory.release(self.held)
        self._pieces = []
        self._buffer = self._view = None
        self.held = 0
        if self._spooled:
            services.spool.release(self._spooled)
            self._spooled = 0
            if self._file is not None:
                # To free a large file takes so long that it would stall the main context.
                services.file_io.submit(self._file.close)
                self._file = None
