"""The body of a request, with a Content-Length or in chunks, read as the client sends it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from vsgi_fcgi.http.head import TOKEN, Head, RequestError

READ: Final = 65536
"""Maximum bytes that are read from the socket at a time."""

_SIZE_LINE_BYTES: Final = 256
"""Maximum bytes of a chunk's size line; extensions are ignored, but skipping them takes time."""

# An extension must not contain a bare CR or LF, or follow a space: other parsers may end the line
# there, which enables request smuggling.
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER: Final = re.compile(rb"%s:[\t\x20-\x7e\x80-\xff]*\r\n" % TOKEN)


class Source(Protocol):
    """The connection from which a body is read."""

    buffer: bytearray
    """Received bytes that were not read yet."""

    def receive(self, size: int) -> bytes:
        """Wait for more of the body.

        Args:
            size: maximum bytes to return.

        Raises:
            RequestError: the body ended early, or did not arrive in time.
        """

    def interrupt(self, error: Exception) -> None:
        """Raise an error in a `receive` that waits; do nothing if none waits."""


class ChunkReader:
    """Parses a chunked body (RFC 9112, section 7.1) from the front of a buffer, without I/O.

    Args:
        max_trailer_bytes: maximum bytes of the trailer section, which is validated and dropped.
    """

    def __init__(self, max_trailer_bytes: int) -> None:
        self.ended = False
        self._left = 0
        self._step: Callable[[bytearray], bool] = self._read_size
        self._trailer_bytes = max_trailer_bytes

    def take(self, buffer: bytearray, size: int) -> bytes:
        """Remove the next piece of content from a buffer.

        Args:
            buffer: the received bytes.
            size: maximum bytes to return.

        Returns:
            The piece; empty if more bytes are needed, or if the body has ended.

        Raises:
            RequestError: the chunks are invalid.
        """
        while not self._left:
            if self.ended or not self._step(buffer):
                return b""
        piece = bytes(buffer[: min(self._left, size)])
        del buffer[: len(piece)]
        self._left -= len(piece)
        if not self._left:
            self._step = self._read_end
        return piece

    def _read_size(self, buffer: bytearray) -> bool:
        found = _SIZE_LINE.match(buffer, 0, _SIZE_LINE_BYTES)
        if found is None:
            if len(buffer) >= _SIZE_LINE_BYTES or b"\n" in buffer:
                raise RequestError(400, "The size of a chunk is invalid.")
            return False
        self._left = int(found[1], 16)
        del buffer[: found.end()]
        if not self._left:
            self._step = self._read_trailer
        return True

    def _read_end(self, buffer: bytearray) -> bool:
        if not b"\r\n".startswith(buffer[:2]):
            raise RequestError(400, "A chunk is longer than its size.")
        if len(buffer) < 2:
            return False
        del buffer[:2]
        self._step = self._read_size
        return True

    def _read_trailer(self, buffer: bytearray) -> bool:
        end = buffer.find(b"\n", 0, self._trailer_bytes) + 1
        if not end:
            if len(buffer) >= self._trailer_bytes:
                raise RequestError(431, "The trailers are too long.")
            return False
        line = bytes(buffer[:end])
        del buffer[:end]
        self._trailer_bytes -= end
        if line == b"\r\n":
            self.ended = True
        elif _TRAILER.fullmatch(line) is None:
            raise RequestError(400, "A trailer is invalid.")
        return True


class RequestBody:
    """``wsgi.input``: reads the body from the connection as the client sends it.

    Args:
        source: the connection.
        head: the head of the request.
        max_trailer_bytes: see `ChunkReader`.
        on_end: called once, at the end of the body.

    Attributes:
        left: bytes that were not read yet; None for a chunked body that has not ended.
        failure: the error that ended the body early, or None.
    """

    def __init__(
        self,
        source: Source,
        head: Head,
        max_trailer_bytes: int,
        on_end: Callable[[], object],
    ) -> None:
        self._source = source
        self._chunks = ChunkReader(max_trailer_bytes) if head.chunked else None
        self._on_end = on_end
        self._kept = b""
        self.left: int | None = None if head.chunked else head.length
        self.failure: RequestError | None = None

    def _receive(self, size: int) -> bytes:
        """Return a piece of the body, or an empty one at its end.

        Raises:
            RequestError: the body ended early, or is invalid.
        """
        if self.left == 0:
            return b""
        if self.failure is not None:
            raise self.failure
        try:
            piece = self._receive_chunk(size) if self.left is None else self._receive_counted(size)
        except RequestError as error:
            self.failure = error
            raise
        if self.left == 0:
            self._on_end()
        return piece

    def _receive_counted(self, size: int) -> bytes:
        source = self._source
        assert self.left is not None
        size = min(size, self.left)
        if source.buffer:
            piece = bytes(source.buffer[:size])
            del source.buffer[:size]
        else:
            piece = source.receive(size)
        self.left -= len(piece)
        return piece

    def _receive_chunk(self, size: int) -> bytes:
        source, chunks = self._source, self._chunks
        assert chunks is not None
        while not (piece := chunks.take(source.buffer, size)):
            if chunks.ended:
                self.left = 0
                break
            source.buffer += source.receive(READ)
        return piece

    def interrupt(self, error: Exception) -> None:
        """Raise an error in a read that waits for the client; do nothing if none waits.

        Call this in the hub if the body is not needed any more. The state stays consistent: the
        rest of the body can still be read or discarded.

        Args:
            error: the exception.
        """
        self._source.interrupt(error)

    # PEP 3333.

    def read(self, size: int | None = -1) -> bytes:
        """Read the whole body, or exactly ``size`` bytes; fewer only at its end."""
        if size is None or size < 0:
            size = sys.maxsize
        first, self._kept = self._kept[:size], self._kept[size:]
        if not first:
            first = self._receive(min(size, READ))
            if len(first) == size or self.left == 0:
                return first
        # One buffer: a client that sends tiny pieces must not cost a bytes object for each.
        data = bytearray(first)
        while len(data) < size and (piece := self._receive(min(size - len(data), READ))):
            data += piece
        return bytes(data)

    def read1(self, size: int = READ) -> bytes:
        """Wait for some of the body, and return at most ``size`` bytes; empty at its end."""
        if self._kept:
            data, self._kept = self._kept[:size], self._kept[size:]
            return data
        return self._receive(size)

    def readline(self, size: int | None = -1) -> bytes:
        """Read a line, or at most ``size`` bytes of it."""
        limit = -1 if size is None else size
        line = bytearray()
        while limit < 0 or len(line) < limit:
            if not self._kept and not self._refill():
                break
            end = self._kept.find(b"\n") + 1 or len(self._kept)
            if limit >= 0:
                end = min(end, limit - len(line))
            line += self._kept[:end]
            self._kept = self._kept[end:]
            if line.endswith(b"\n"):
                break
        return bytes(line)

    def _refill(self) -> bool:
        self._kept = self._receive(READ)
        return bool(self._kept)

    def readlines(self, hint: int | None = None) -> list[bytes]:
        """Read all lines, or lines of at least ``hint`` bytes in total."""
        lines, size = [], 0
        for line in self:
            lines.append(line)
            size += len(line)
            if hint is not None and 0 < hint <= size:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        while line := self.readline():
            yield line
