"""The last bytes of one connection, kept in memory for the recorder.

Every read and every write passes here if connections are recorded, so this only appends the bytes
to a list. Records are cut out, and secrets are hidden, when the recording is written
(`vsgi_fcgi.recording.records`), which is rare.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from time import monotonic
from typing import Any, Final, Protocol, final

from vsgi_fcgi.protocol import ServerProtocol
from vsgi_fcgi.protocol.constants import HEADER_SIZE, VERSION, Buffer, RecordType
from vsgi_fcgi.protocol.records import HEADER
from vsgi_fcgi.recording import IN, NOTE, OUT

Entry = tuple[float, str, Any, int]
"""A time of `time.monotonic`; `IN`, `OUT` or `NOTE`; bytes, the result of `thin`, or a text; and
how many bytes of a record pass before the next one begins, or `UNKNOWN`."""

UNKNOWN: Final = -1
"""A read begins in a record of which too little is known to find its end."""

SMALL_ROOM: Final = 8192
"""Bytes that each recording may hold."""
_MAX_REASONS: Final = 16
"""Maximum number of reasons that one file names."""
_MAX_WHOLE: Final = 4096
"""Bytes of a read or a write up to which it is kept as it is."""
_ENTRY_COST: Final = 128
"""Bytes charged for an entry in addition to its content: a tuple, a float and a bytes object."""
_PARAMS: Final = int(RecordType.PARAMS)
_NONE: Final[list[Entry]] = []
"""Most recordings never have older entries."""


class Sink(Protocol):
    """The recorder, as a recording sees it.

    Attributes:
        room: bytes that a recording may hold if it gets one of the larger rooms.
        rooms: number of these rooms that are free.
        keep: bytes of each record, other than PARAMS, that are kept of a large read or write.
    """

    room: int
    rooms: int
    keep: int

    def settle(self, recording: Recording) -> None:
        """Write a recording soon."""


@final
class Recording:
    """The last bytes of one connection, in both directions.

    It does not refer to the connection, so that both are freed without the garbage collector.

    Args:
        sink: the recorder.
        protocol: the protocol of the connection.
        peer: the name of the peer.

    Attributes:
        protocol: the protocol of the connection.
        peer: the name of the peer.
        reasons: the faults since the recording was last written.
        dropped: how many entries are not kept any more.
    """

    __slots__ = (
        "_entries",
        "_half",
        "_older",
        "_sink",
        "_size",
        "dropped",
        "peer",
        "protocol",
        "reasons",
    )

    def __init__(self, sink: Sink, protocol: ServerProtocol, peer: str) -> None:
        self._sink = sink
        self.protocol = protocol
        self.peer = peer
        # When the new entries take half of the room, they become the older ones, which are then
        # dropped. This costs less than dropping single ones.
        self._older = _NONE
        self._entries: list[Entry] = []
        self._size = 0
        self._half = SMALL_ROOM // 2
        self.dropped = 0
        self.reasons: tuple[str, ...] = ()

    def received(self, data: bytes | memoryview) -> None:
        """Keep the bytes of a read, before the protocol gets them."""
        protocol = self.protocol
        skip = UNKNOWN if protocol._pending else protocol.left + protocol._skip
        size = len(data)
        if size <= _MAX_WHOLE or skip == UNKNOWN:
            self._append(IN, data if type(data) is bytes else bytes(data), skip, size)
        else:
            self._append_thin(IN, [data], skip)

    def sent(self, buffers: list[Buffer]) -> None:
        """Keep complete records, as they are passed to the kernel."""
        # This does not copy a single bytes object.
        size = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        if size <= _MAX_WHOLE:
            self._append(OUT, b"".join(buffers), 0, size)
        else:
            self._append_thin(OUT, buffers, 0)

    def note(self, text: str) -> None:
        """Keep a note about something that is not in the records."""
        self._append(NOTE, text, 0, len(text))

    def end_badly(self, reason: str) -> None:
        """Note a fault, and let the recorder write this recording soon."""
        self.note(reason)
        count = len(self.reasons)
        if count < _MAX_REASONS:
            self.reasons = (*self.reasons, reason)
        if not count:
            self._sink.settle(self)

    def entries(self) -> list[Entry]:
        """Return a copy of the entries."""
        return self._older + self._entries

    def close(self) -> None:
        """Take note of the end of the connection. The recording may still be written."""
        if self.reasons:
            self.note("the connection was closed")
        if self._half > SMALL_ROOM // 2:
            self._sink.rooms += 1
            self._half = SMALL_ROOM // 2

    def _append_thin(self, direction: str, buffers: Iterable[Buffer], skip: int) -> None:
        pieces = thin(buffers, skip, self._sink.keep)
        size = sum(_ENTRY_COST + (len(each) if isinstance(each, bytes) else 0) for each in pieces)
        self._append(direction, pieces, skip, size)

    def _append(self, direction: str, what: Any, skip: int, size: int) -> None:
        total = self._size + size + _ENTRY_COST
        if total > self._half:
            total = self._make_room(size + _ENTRY_COST)
            if not total:
                return
        self._size = total
        self._entries.append((monotonic(), direction, what, skip))

    def _make_room(self, size: int) -> int:
        """Get the larger room for an entry, or drop the older half of the entries.

        Returns:
            The size of the new entries, with this one; 0 if it does not fit.
        """
        sink = self._sink
        if sink.rooms and sink.room > 2 * self._half:
            sink.rooms -= 1
            self._half = sink.room // 2
            if self._size + size <= self._half:
                return self._size + size
        self.dropped += len(self._older)
        self._older, self._entries, self._size = self._entries, [], 0
        if size <= self._half:
            return size
        # Records cannot be cut out of what has a gap.
        self.dropped += len(self._older) + 1
        self._older = _NONE
        return 0


def thin(buffers: Iterable[Buffer], skip: int, keep: int) -> list[bytes | int]:
    """Return a copy of the beginnings of records.

    PARAMS are kept as a whole, because values can only be hidden in complete streams.

    Args:
        buffers: the bytes, which may end inside a record. A header is in one buffer.
        skip: bytes that pass before the first header.
        keep: bytes of the content of other records to keep.

    Returns:
        Bytes, and numbers of bytes that were left out.
    """
    pieces: list[bytes | int] = []
    kept = 0
    for data in buffers:
        at, size = 0, len(data)
        while at < size:
            end = size
            if kept:
                end = min(at + kept, size)
                kept -= end - at
                pieces.append(bytes(data[at:end]))
            elif skip:
                end = min(at + skip, size)
                skip -= end - at
                pieces.append(end - at)
            elif size - at < HEADER_SIZE:
                pieces.append(bytes(data[at:]))
            else:
                version, kind, _, length, padding = HEADER.unpack_from(data, at)
                end = at
                kept = HEADER_SIZE + (length if kind == _PARAMS else min(length, keep))
                skip = HEADER_SIZE + length + padding - kept
                if version != VERSION:
                    # Not FastCGI. What follows may be anything, such as an HTTP request.
                    kept, skip = HEADER_SIZE, sys.maxsize
            at = end
    return pieces
