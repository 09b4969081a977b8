"""Cut received data into records, encode records, and drop sent bytes from a list of buffers.

`RecordReader` goes through each read once. A record that is complete in the read is passed to its
handler without a copy of anything else. Only the rest of a read is kept: the beginning of a record
of up to 64 KiB, or for a stream nothing, because its content is passed on as it arrives.

Output is a list of buffers for ``sendmsg``: headers as small bytes objects, and
content as the caller's own object or as views of it, so large content is never copied. The last two
records of nearly every response, the end of STDOUT and END_REQUEST, are encoded in advance.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, ClassVar, Final, Generic, TypeVar

from vsgi_fcgi.exceptions import ParamsError, RemoteProtocolError
from vsgi_fcgi.protocol.constants import HEADER_SIZE, MAX_SENT_CONTENT, VERSION, Buffer, RecordType

HEADER: Final = struct.Struct(">BBHHBx")
"""version, type, request id, content length, padding length, reserved."""

BEGIN_REQUEST_BODY: Final = struct.Struct(">HB5x")
"""role, flags, reserved."""

END_REQUEST_BODY: Final = struct.Struct(">IB3x")
"""appStatus, protocolStatus, reserved."""

_END: Final = struct.Struct(">BBHHBx IB3x")
_END_STDOUT_AND_REQUEST: Final = struct.Struct(">BBHHBx BBHHBx IB3x")

_STDOUT: Final = int(RecordType.STDOUT)
_END_REQUEST: Final = int(RecordType.END_REQUEST)

KNOWN_TYPES: Final = frozenset(map(int, RecordType))

APPLICATION_ONLY: Final = frozenset(
    map(
        int,
        (
            RecordType.END_REQUEST,
            RecordType.STDOUT,
            RecordType.STDERR,
            RecordType.GET_VALUES_RESULT,
            RecordType.UNKNOWN_TYPE,
        ),
    )
)
"""Record types that only an application may send."""


_SMALL_BUFFER: Final = 512
"""Average size in bytes below which unsent buffers are joined."""
_MAX_COPIED: Final = 1048576
"""Maximum bytes that are copied from a larger object so that the object can be freed."""


def encode_stream(out: list[Buffer], kind: int, id: int, data: Buffer) -> int:
    """Append a piece of a stream to a list of buffers, as records without padding.

    Content is not copied: the records hold the piece or views of it. Empty data appends nothing,
    because an empty record would end the stream.

    Returns:
        The number of bytes appended, including headers.
    """
    size = len(data)
    if size <= MAX_SENT_CONTENT:
        if not size:
            return 0
        out += (HEADER.pack(VERSION, kind, id, size, 0), data)
        return size + 8
    view = memoryview(data)
    records = 0
    for at in range(0, size, MAX_SENT_CONTENT):
        part = view[at : at + MAX_SENT_CONTENT]
        out += (HEADER.pack(VERSION, kind, id, len(part), 0), part)
        records += 1
    return size + 8 * records


def encode_stream_end(kind: int, id: int) -> bytes:
    """Encode the empty record that ends a stream (section 3.3)."""
    return HEADER.pack(VERSION, kind, id, 0, 0)


def encode_end_request(id: int, app_status: int, protocol_status: int) -> bytes:
    """Encode END_REQUEST (section 5.5)."""
    return _END.pack(VERSION, _END_REQUEST, id, 8, 0, app_status, protocol_status)


def encode_completion(id: int, app_status: int) -> bytes:
    """Encode the end of STDOUT and END_REQUEST with REQUEST_COMPLETE."""
    if not app_status and id < len(_COMPLETIONS):
        return _COMPLETIONS[id]
    return _pack_completion(id, app_status)


def _pack_completion(id: int, app_status: int) -> bytes:
    return _END_STDOUT_AND_REQUEST.pack(
        VERSION, _STDOUT, id, 0, 0, VERSION, _END_REQUEST, id, 8, 0, app_status, 0
    )


# Most web servers use no request id but 1, and nearly all responses end with application status 0.
_COMPLETIONS: Final = tuple(_pack_completion(id, 0) for id in range(256))


def encode_management(kind: int, content: bytes) -> bytes:
    """Encode a management record (section 4), padded to a multiple of 8 bytes."""
    padding = -len(content) % 8
    return HEADER.pack(VERSION, kind, 0, len(content), padding) + content + bytes(padding)


def describe(kind: int, id: int, length: int) -> str:
    """Return a description of a record for a log line."""
    name = RecordType(kind).name if kind in KNOWN_TYPES else f"type {kind}"
    return f"{name} record (id {id}, {length} bytes)"


def keep_rest(buffers: list[Buffer], sent: int) -> list[Buffer]:
    """Drop sent bytes from a list of buffers, and join the rest if that takes less memory.

    Call this if the rest must wait for a peer that reads slowly. A buffer with 8 bytes of content
    takes 49 bytes, including its place in the list, so many small buffers are joined. Views of a
    small part of a large object are joined too, so that the object can be freed.

    Args:
        buffers: the buffers, in order.
        sent: how many of their bytes were sent.

    Returns:
        The unsent buffers.
    """
    rest = drop_sent(buffers, sent)
    size = sum(map(len, rest))
    if len(rest) * _SMALL_BUFFER > size or _kept_by(rest) > 2 * size:
        return [b"".join(rest)]
    return rest


def _kept_by(buffers: list[Buffer]) -> int:
    """Return the total size in bytes of the objects that a list of buffers keeps alive."""
    views = [memoryview(buffer) for buffer in buffers]
    return sum({id(view.obj): memoryview(view.obj).nbytes for view in views}.values())


def view_rest(buffer: Buffer, start: int) -> Buffer:
    """Return the part of a buffer from ``start`` on.

    It is a copy if a view would keep more than twice as many bytes alive, and a view otherwise. A
    part of more than 1 MiB is always a view because copying it takes long.
    """
    rest = memoryview(buffer)[start:]
    size = len(rest)
    if size > _MAX_COPIED or 2 * size >= memoryview(rest.obj).nbytes:
        return rest
    return bytes(rest)


def drop_sent(buffers: list[Buffer], sent: int) -> list[Buffer]:
    """Drop sent bytes from a list of buffers.

    Args:
        buffers: the buffers, in order.
        sent: how many of their bytes were sent.

    Returns:
        The unsent buffers.
    """
    for index, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [view_rest(buffer, sent), *buffers[index + 1 :]]
        sent -= len(buffer)
    return []


# Decode and encode name-value pairs (FastCGI 1.0, section 3.4).
#
# A block is a sequence of pairs without separators: the length of the name, the length of the
# value, the name, the value. A length below 128 takes one byte; any other takes four.
#
# `decode_pairs` runs for every request. It decodes the block to text once and cuts names and
# values out of that text, so each pair costs two slices. It does not compare each length with the
# end of the block: Python cuts a slice short, and the position after the last pair shows the
# error. The block is a bytes object and nothing else, which saves compiled code a third.

Repeated = tuple[tuple[str, str], ...]


def decode_pairs(block: bytes, max_count: int) -> tuple[dict[str, str], Repeated]:
    """Decode the whole content of a PARAMS or GET_VALUES stream.

    The text is latin-1, one character for each byte, as PEP 3333 requires of native strings.

    Args:
        block: the joined content of the stream's records.
        max_count: the maximum number of pairs.

    Returns:
        The pairs by name, with the first value of a repeated name, and the further pairs of
        repeated names in their order.

    Raises:
        ParamsError: a length points past the end of the block (status 400), or there are too
            many pairs (status 431).
    """
    # A length past the end gives a short slice, and then `at != size` after the loop. Python's
    # integers do not overflow at 32 bits.
    text = block.decode("latin-1")
    pairs: dict[str, str] = {}
    at, size, count = 0, len(block), 0
    try:
        while at < size:
            name_length = block[at]
            if name_length < 128:
                value_length = block[at + 1]
                at += 2
            else:
                name_length = (
                    (name_length & 127) << 24
                    | block[at + 1] << 16
                    | block[at + 2] << 8
                    | block[at + 3]
                )
                value_length = block[at + 4]
                at += 5
            if value_length > 127:
                value_length = (
                    (value_length & 127) << 24
                    | block[at] << 16
                    | block[at + 1] << 8
                    | block[at + 2]
                )
                at += 3
            middle = at + name_length
            name = text[at:middle]
            at = middle + value_length
            pairs[name] = text[middle:at]
            count += 1
    except IndexError:
        raise ParamsError("the params end inside a length", 400) from None
    if at != size:
        raise ParamsError(f"a length in the params points {at - size} bytes past their end", 400)
    if count > max_count:
        raise ParamsError(f"{count} params, but the limit is {max_count}", 431)
    if count != len(pairs):
        return split_repeated(iter_pairs(block, text))
    return pairs, ()


def iter_pairs(block: bytes, text: str) -> Iterable[tuple[str, str]]:
    """Yield the pairs of a well-formed block in their order.

    Args:
        block: the block, which `decode_pairs` has accepted.
        text: the block, decoded as latin-1.
    """
    at, size = 0, len(block)
    while at < size:
        lengths = []
        for _ in range(2):
            length = block[at]
            width = 4 if length > 127 else 1
            if width == 4:
                length = int.from_bytes(block[at : at + 4], "big") & 0x7FFFFFFF
            lengths.append(length)
            at += width
        middle = at + lengths[0]
        end = middle + lengths[1]
        yield text[at:middle], text[middle:end]
        at = end


def split_repeated(pairs: Iterable[tuple[str, str]]) -> tuple[dict[str, str], Repeated]:
    """Separate the first pair of each name from the further pairs of the same name."""
    first: dict[str, str] = {}
    later = []
    for name, value in pairs:
        if name in first:
            later.append((name, value))
        else:
            first[name] = value
    return first, tuple(later)


def encode_length(length: int) -> bytes:
    """Encode the length of a name or value: one byte below 128, otherwise four."""
    return bytes((length,)) if length < 128 else (length | 1 << 31).to_bytes(4, "big")


def encode_pairs(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Encode pairs of latin-1 text as a block.

    Raises:
        UnicodeEncodeError: a character is not in latin-1.
    """
    out: list[bytes] = []
    for name, value in pairs:
        raw_name, raw_value = name.encode("latin-1"), value.encode("latin-1")
        out += (encode_length(len(raw_name)), encode_length(len(raw_value)), raw_name, raw_value)
    return b"".join(out)


# Cut received bytes into records: the part of a protocol that both ends share.
#
# `RecordReader.receive_data` takes bytes, split at any place, and calls one method for each
# record. Methods are looked up in a tuple by record type, which is faster than a chain of
# comparisons. Almost all reads hold whole records and stay in one loop. Only a record that is
# incomplete at the end of a read is handled elsewhere:
#
# - The content of a stream record is passed on as it arrives, so a slow upload shows progress and
#   nothing is joined. `left` and `_skip` count the content and the padding still to come.
# - While `left` is not 0, the caller may read into a buffer of its own and pass a view of it. The
#   records that continue the same stream are then passed on as views, of any size: see `_stream`.
# - The start of any other record is kept in `_pending` until the record is complete.
#
# A subclass checks the header of an incomplete record before its content has arrived
# (`_check_header`), so a peer cannot make it store the content of an invalid record.

E = TypeVar("E")
"""The type of the events of one end."""

_MAX_APPLICATION_TYPE: Final = int(RecordType.DATA)
STREAMS: Final = frozenset(
    map(
        int,
        (
            RecordType.PARAMS,
            RecordType.STDIN,
            RecordType.STDOUT,
            RecordType.STDERR,
            RecordType.DATA,
        ),
    )
)

_VIEW_SIZE: Final = 16384
"""Minimum size in bytes of content that is passed on as a view.

Content that is less than half of the received data is copied at any size: a view keeps all of the
received data alive, but only the content is charged to the memory quota.
"""
_FRAMING: Final = 64
"""Bytes of headers and padding that a view may keep alive in addition to twice its content.

nginx sends records of 32 KiB, and one read receives two of them.
"""

_METHODS: Final = (b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC")


class RecordReader(Generic[E]):
    """Cuts received data into records and calls a handler for each of them.

    Attributes:
        left: bytes of content that the last record, of a stream, still lacks.
    """

    __slots__ = ("_partial", "_pending", "_skip", "left")

    _handlers: ClassVar[tuple[Any, ...]]
    """Handlers by record type, 0 to 8: functions of the protocol, type, id, content and events."""

    def __init__(self) -> None:
        # The state after the last read. `_pending` is the start of a record that must be complete.
        # `_partial` is the type and id of a stream record that lacks `left` bytes of content and
        # then `_skip` bytes of padding.
        self._pending = b""
        self._partial = (0, 0)
        self.left = 0
        self._skip = 0

    @property
    def mid_record(self) -> bool:
        """Whether the received data ends inside a record."""
        return bool(self._pending or self.left or self._skip)

    @property
    def unparsed(self) -> bytes | None:
        """The start of a record that was received; None if a part of a record was processed."""
        return None if self.left or self._skip else self._pending

    @property
    def missing(self) -> int:
        """The number of bytes that complete the current record, or the header of the next one."""
        if self.left or self._skip:
            return self.left + self._skip
        size = len(self._pending)
        if size < HEADER_SIZE:
            return HEADER_SIZE - size
        _, _, _, length, padding = HEADER.unpack_from(self._pending)
        return HEADER_SIZE + int(length) + int(padding) - size

    def receive_data(self, data: bytes | memoryview, events: list[E] | None = None) -> list[E]:
        """Process bytes from the peer.

        Args:
            data: the bytes that were read, split at any place. If `left` is not 0, this may be a
                view of a buffer that is overwritten later; so the events hold views of it, which
                the caller must copy before that.
            events: a list to append events to; it also holds the events before an error.

        Returns:
            The events, in order.

        Raises:
            RemoteProtocolError: the peer violated the protocol, and the connection must be closed.
                This method raises no other exception.
        """
        if events is None:
            events = []
        if isinstance(data, bytes):
            read = data
        else:
            read = self._stream(data, events)
            if not read:
                return events
        if self._pending:
            read = self._pending + read
            self._pending = b""
        at, size = 0, len(read)
        if self.left or self._skip:
            at = self._resume(read, events)
        unpack, handlers = HEADER.unpack_from, self._handlers
        while size - at >= HEADER_SIZE:
            version, kind, id, length, padding = unpack(read, at)
            if version != VERSION:
                raise RemoteProtocolError(_bad_version(read[at : at + HEADER_SIZE]))
            start = at + HEADER_SIZE
            end = start + length
            if end > size:
                self._receive_part(read, at, events)
                return events
            at = end + padding
            if not id or kind > _MAX_APPLICATION_TYPE:
                self._other(kind, id, read[start:end], events)
            elif length < _VIEW_SIZE or 2 * length + _FRAMING < size:
                handlers[kind](self, kind, id, read[start:end], events)
            else:
                handlers[kind](self, kind, id, memoryview(read)[start:end], events)
        if at < size:
            self._pending = read[at:]
            if self._pending[0] != VERSION:
                raise RemoteProtocolError(_bad_version(self._pending))
        else:
            self._skip += at - size
        return events

    def _resume(self, data: bytes, events: list[E]) -> int:
        """Continue the record in which the last read ended, and return the offset of its end."""
        at = min(self.left, len(data))
        if at:
            self.left -= at
            kind, id = self._partial
            content = _cut(data, 0, at)
            self._handlers[kind](self, kind, id, content, events)
        if not self.left:
            skipped = min(self._skip, len(data) - at)
            self._skip -= skipped
            at += skipped
        return at

    def _stream(self, data: memoryview, events: list[E]) -> bytes:
        """Pass on the rest of the last record, and the records that continue its stream, as views.

        Returns:
            A copy of the data from the first record on that is of another kind, or has no content,
            or no complete header.
        """
        unpack = HEADER.unpack_from
        kind, id = self._partial
        handle = self._handlers[kind]
        size = len(data)
        at = min(self.left, size)
        if at:
            self.left -= at
            handle(self, kind, id, data[:at], events)
        if not self.left:
            skipped = min(self._skip, size - at)
            self._skip -= skipped
            at += skipped
        while size - at >= HEADER_SIZE:
            version, next_kind, next_id, length, padding = unpack(data, at)
            if next_kind != kind or next_id != id or not length or version != VERSION:
                break
            start = at + HEADER_SIZE
            at = start + length
            if at > size:
                self.left = at - size
                self._skip = padding
                if start < size:
                    handle(self, kind, id, data[start:], events)
                return b""
            handle(self, kind, id, data[start:at], events)
            at += padding
        if at > size:
            self._skip = at - size
            return b""
        return bytes(data[at:])

    def _receive_part(self, data: bytes, at: int, events: list[E]) -> None:
        """Process the first part of a record whose end has not arrived."""
        _, kind, id, length, padding = HEADER.unpack_from(data, at)
        self._check_header(kind, id, length)
        if not id or kind not in STREAMS:
            self._pending = data[at:]
            return
        start = at + HEADER_SIZE
        self._partial = (kind, id)
        self.left = start + length - len(data)
        self._skip = padding
        size = len(data) - start
        if size:
            content = _cut(data, start, len(data))
            self._handlers[kind](self, kind, id, content, events)

    def _check_header(self, kind: int, id: int, length: int) -> None:
        """Check that the peer may send a record with this header.

        Raises:
            RemoteProtocolError: it may not.
        """
        raise NotImplementedError

    def _other(self, kind: int, id: int, content: bytes, events: list[E]) -> None:
        """Handle a management record, or a record of a type that FastCGI does not define."""
        raise NotImplementedError


def _cut(data: bytes, start: int, end: int) -> bytes | memoryview:
    """Return a part of the received data: a view, or a copy if a view keeps too much alive."""
    size = end - start
    if size < _VIEW_SIZE or 2 * size + _FRAMING < len(data):
        return data[start:end]
    return memoryview(data)[start:end]


def _bad_version(header: bytes) -> str:
    if header[:4] in _METHODS:
        return (
            f"this looks like an HTTP request ({header[:8]!r}): clients of this address must speak "
            "FastCGI; connect browsers to the web server"
        )
    if header[:5] == b"HTTP/":
        return (
            f"this looks like an HTTP response ({header[:8]!r}): the server on this address must "
            "speak FastCGI"
        )
    return f"record of version {header[0]}; FastCGI has only version 1"
