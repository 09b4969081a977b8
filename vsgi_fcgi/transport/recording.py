"""The last bytes of one connection, kept in memory for the recorder.

Every read and every write passes here if connections are recorded, so this only appends the bytes
to a list. Records are cut out, and secrets are hidden, when the recording is written
(`vsgi_fcgi.recording.records`), which is rare. Of a large read or write, the bytes of bodies are
dropped at once, and only their number is kept.
"""

from __future__ import annotations

from time import monotonic
from typing import Any, Final, Protocol, final

from vsgi_fcgi.protocol import ServerProtocol
from vsgi_fcgi.protocol.constants import HEADER_SIZE, VERSION, Buffer, RecordType
from vsgi_fcgi.protocol.records import HEADER

RECEIVED: Final = 0
SENT: Final = 1
NOTE: Final = 2
"""The kinds of entries."""

Pieces = bytes | list[bytes | int]
"""Bytes that have passed, and numbers of bytes of content that are not kept."""

Entry = tuple[float, int, Any, tuple[int, bytes] | None]
"""A time of `time.monotonic`, the kind, and `Pieces` or the text of a note.

If a read begins inside a record, the last value is the number of bytes that this record still
lacks, and the bytes that the protocol keeps of it.
"""

BODIES: Final = frozenset(
    map(int, (RecordType.STDIN, RecordType.STDOUT, RecordType.STDERR, RecordType.DATA))
)
"""The types of records whose content is a body, or may be one."""

_NONE: Final[list[Entry]] = []
"""Most recordings never have older entries."""

_STDOUT: Final = int(RecordType.STDOUT)
_MAX_WHOLE: Final = 4096
"""Bytes of a read or a write up to which it is kept as it is."""
_MAX_HEAD: Final = 4096
"""Bytes of the header block of a response that are kept of a large write."""
_ENTRY_COST: Final = 128
"""Bytes charged for an entry in addition to its content: two tuples, a float and a bytes object."""
_BLOCK: Final = 8192
"""Bytes that each recording may hold, and by which it grows."""
_HALF_BLOCK: Final = 4096
_MAX_REASONS: Final = 16
"""Maximum number of reasons that one file names."""
_HEAD_START: Final = b"Status: "
"""The beginning of the header blocks of this server."""


class Sink(Protocol):
    """The recorder, as a recording sees it.

    Attributes:
        limit: maximum number of bytes that a recording may hold.
        keep: bytes of each record of a body that are kept of a large read or write.
    """

    limit: int
    keep: int

    def settle(self, recording: Recording) -> None:
        """Write a recording soon."""

    def reserve(self, size: int) -> bool:
        """Let a recording hold more bytes, if there is room."""

    def release(self, size: int) -> None:
        """Take note that a recording holds fewer bytes."""


@final
class Recording:
    """The last bytes of one connection, in both directions.

    It does not refer to the connection, so that both are freed without the garbage collector.

    Args:
        sink: the recorder.
        protocol: the protocol of the connection.

    Attributes:
        protocol: the protocol of the connection.
        peer: the name of the peer, when the recording is about to be written.
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

    def __init__(self, sink: Sink, protocol: ServerProtocol) -> None:
        self._sink = sink
        self.protocol = protocol
        # When the new entries take half of the room, they become the older ones, which are then
        # dropped. This costs less than dropping single ones.
        self._older = _NONE
        self._entries: list[Entry] = []
        self._size = 0
        self._half = _HALF_BLOCK
        self.dropped = 0
        self.peer = ""
        self.reasons: tuple[str, ...] = ()

    def received(self, data: bytes | memoryview) -> None:
        """Keep the bytes of a read, before the protocol gets them."""
        protocol = self.protocol
        size = len(data)
        if (
            size <= _MAX_WHOLE
            and type(data) is bytes
            and not (protocol._pending or protocol.left or protocol._skip)
        ):
            # Nearly every read.
            size += self._size + _ENTRY_COST
            if size > self._half:
                size = self._make_room(size - self._size)
            self._size = size
            self._entries.append((monotonic(), RECEIVED, data, None))
            return
        at: tuple[int, bytes] | None = None
        pieces: Pieces
        pending = protocol._pending
        if protocol.left or protocol._skip or pending:
            at = protocol.left + protocol._skip, pending
        if isinstance(data, bytes) and size <= _MAX_WHOLE:
            pieces = data
        else:
            body = protocol._partial[0] in BODIES
            buffers: list[Buffer] = [pending + data] if pending else [data]
            pieces = thin(buffers, protocol.left, protocol._skip, body, self._sink.keep)
            if pending:
                # They are in the entry before, or in `at`.
                pieces = _without(pieces, len(pending))
        self._append(RECEIVED, pieces, at)

    def sent(self, buffers: list[Buffer]) -> None:
        """Keep complete records, as they are passed to the kernel."""
        pieces: Pieces
        if len(buffers) == 1:
            buffer = buffers[0]
            size = len(buffer)
            if size <= _MAX_WHOLE and type(buffer) is bytes:
                size += self._size + _ENTRY_COST
                if size > self._half:
                    size = self._make_room(size - self._size)
                self._size = size
                self._entries.append((monotonic(), SENT, buffer, None))
                return
        if sum(map(len, buffers)) <= _MAX_WHOLE:
            pieces = b"".join(buffers)
        else:
            pieces = thin(buffers, 0, 0, False, self._sink.keep)
        self._append(SENT, pieces, None)

    def note(self, text: str) -> None:
        """Keep a note about something that is not in the records."""
        self._append(NOTE, text, None)

    def end_badly(self, peer: str, reason: str) -> None:
        """Note a fault, and let the recorder write this recording soon."""
        self.note(reason)
        self.peer = peer
        count = len(self.reasons)
        if count < _MAX_REASONS:
            self.reasons = (*self.reasons, reason)
        if not count:
            self._sink.settle(self)

    def entries(self) -> list[Entry]:
        """Return a copy of the entries."""
        return self._older + self._entries

    def last(self) -> float:
        """Return the time of the last entry; 0 if there is none."""
        entries = self._entries or self._older
        return entries[-1][0] if entries else 0.0

    def close(self) -> None:
        """Take note of the end of the connection. The recording may still be written."""
        if self.reasons:
            self.note("the connection was closed")
        if self._half > _HALF_BLOCK:
            self._sink.release(2 * self._half - _BLOCK)
            self._half = _HALF_BLOCK

    def _append(self, kind: int, what: Pieces | str, at: tuple[int, bytes] | None) -> None:
        size = _size_of(what) + _ENTRY_COST
        if self._size + size > self._half:
            self._make_room(size)
            if size > self._half:
                # It takes more room than there is.
                self.dropped += len(self._older) + 1
                self._older = _NONE
                return
        self._size += size
        self._entries.append((monotonic(), kind, what, at))

    def _make_room(self, size: int) -> int:
        """Get more room for an entry, or drop the older half of the entries.

        Args:
            size: the size of the entry.

        Returns:
            The size of the new entries, with this one.
        """
        sink = self._sink
        wanted = self._size + size
        while wanted > self._half and 2 * self._half < sink.limit and sink.reserve(_BLOCK):
            self._half += _HALF_BLOCK
        if wanted <= self._half:
            return wanted
        self.dropped += len(self._older)
        self._older = self._entries
        self._entries = []
        self._size = 0
        return size


def _size_of(what: Any) -> int:
    if isinstance(what, list):
        return sum(_ENTRY_COST + (len(each) if isinstance(each, bytes) else 0) for each in what)
    return len(what)


def _without(pieces: Pieces, count: int) -> Pieces:
    """Return pieces without their first bytes, which are the beginning of a record."""
    if isinstance(pieces, bytes):
        return pieces[count:]
    first = pieces[0]
    assert isinstance(first, bytes)
    return [first[count:], *pieces[1:]]


def thin(
    buffers: list[Buffer], left: int, padding: int, body: bool, keep: int
) -> list[bytes | int]:
    """Return a copy of records without most of the content of bodies.

    Args:
        buffers: the bytes, which may begin and end inside a record. A header is in one buffer.
        left: bytes of content that the first record still lacks.
        padding: bytes of padding that follow them.
        body: whether this content is a body.
        keep: bytes to keep of the content of a body whose record begins here. The header block of
            a response is kept as well.

    Returns:
        Bytes, and numbers of bytes that were left out.
    """
    out: list[bytes | int] = []
    begins = False
    kind = 0
    for data in buffers:
        at = start = 0
        size = len(data)
        while at < size:
            if left:
                end = min(at + left, size)
                if body:
                    kept = at
                    if begins:
                        kept += max(keep, _head_size(data[at:end]) if kind == _STDOUT else 0)
                        begins = False
                    if kept < end:
                        if kept > start:
                            out.append(bytes(data[start:kept]))
                        out.append(end - kept)
                        start = end
                left -= end - at
                at = end
            elif padding:
                skipped = min(padding, size - at)
                padding -= skipped
                at += skipped
            elif size - at < HEADER_SIZE:
                at = size
            else:
                version, kind, _, left, padding = HEADER.unpack_from(data, at)
                at += HEADER_SIZE
                if version != VERSION:
                    # Not FastCGI. What follows may be anything, such as an HTTP request.
                    out.append(bytes(data[start:at]))
                    out.append(size - at)
                    return out
                body = begins = kind in BODIES
        if start < size:
            out.append(bytes(data[start:]))
    return out


def _head_size(content: Buffer) -> int:
    """Return the size of the header block at the beginning of a record, as far as it is kept."""
    if content[: len(_HEAD_START)] != _HEAD_START:
        return 0
    head = bytes(content[:_MAX_HEAD])
    found = head.find(b"\r\n\r\n")
    return len(head) if found < 0 else found + 4
