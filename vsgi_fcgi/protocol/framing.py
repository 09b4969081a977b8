"""From bytes, cut anywhere, to records: the half of a connection that both ends share."""

from __future__ import annotations

from typing import Any, ClassVar, Final, Generic, TypeVar

from vsgi_fcgi.exceptions import RemoteProtocolError
from vsgi_fcgi.protocol.constants import HEADER_SIZE, VERSION, RecordType
from vsgi_fcgi.protocol.records import HEADER

E = TypeVar("E")
"""What happens at this end."""

_MAX_APPLICATION_TYPE: Final = int(RecordType.DATA)
_STREAMS: Final = frozenset(
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
"""Content from this size on is handed over as a view: the copy would cost more than the pinning
of what else was received with it."""

_METHODS: Final = (b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC")


class RecordReader(Generic[E]):
    """Cuts what was received into records and calls a handler for each.

    A record of a stream need not be whole: its content is handed over as it comes, so that a slow
    upload is seen to make progress, nothing is joined twice, and what is ignored is not stored.
    """

    __slots__ = ("_left", "_partial", "_pending", "_skip")

    _handlers: ClassVar[tuple[Any, ...]]
    """By record type 0 to 8: a function of the connection, type, id, content and the events."""

    def __init__(self) -> None:
        # Where the last read stopped: the start of a record that must be whole, or a stream
        # record (type, id) of which `_left` bytes of content are to come, then `_skip` bytes that
        # nobody wants.
        self._pending = b""
        self._partial = (0, 0)
        self._left = 0
        self._skip = 0

    def receive_data(self, data: bytes, events: list[E] | None = None) -> list[E]:
        """Take bytes from the peer.

        Args:
            data: what was read, cut anywhere.
            events: a list to which events are added, so that those before an error are there too.

        Returns:
            What happened, in order.

        Raises:
            RemoteProtocolError: the connection cannot go on and must be closed; no other error
                is ever raised.
        """
        if events is None:
            events = []
        if self._pending:
            data = self._pending + data
            self._pending = b""
        at, size = 0, len(data)
        if self._left or self._skip:
            at = self._resume(data, events)
        unpack, handlers = HEADER.unpack_from, self._handlers
        while size - at >= HEADER_SIZE:
            version, kind, id, length, padding = unpack(data, at)
            if version != VERSION:
                raise RemoteProtocolError(_bad_version(data[at : at + HEADER_SIZE]))
            start = at + HEADER_SIZE
            end = start + length
            if end > size:
                self._receive_part(data, at, events)
                return events
            at = end + padding
            if not id or kind > _MAX_APPLICATION_TYPE:
                self._other(kind, id, data[start:end], events)
            elif length < _VIEW_SIZE:
                handlers[kind](self, kind, id, data[start:end], events)
            else:
                handlers[kind](self, kind, id, memoryview(data)[start:end], events)
        if at < size:
            self._pending = data[at:]
            if self._pending[0] != VERSION:
                raise RemoteProtocolError(_bad_version(self._pending))
        else:
            self._skip += at - size
        return events

    def _resume(self, data: bytes, events: list[E]) -> int:
        """Go on with the record in which the last read stopped; returns where it ends."""
        at = min(self._left, len(data))
        if at:
            self._left -= at
            kind, id = self._partial
            content = data[:at] if at < _VIEW_SIZE else memoryview(data)[:at]
            self._handlers[kind](self, kind, id, content, events)
        if not self._left:
            skipped = min(self._skip, len(data) - at)
            self._skip -= skipped
            at += skipped
        return at

    def _receive_part(self, data: bytes, at: int, events: list[E]) -> None:
        """Hand over, or keep, the first part of a record of which the rest is to come."""
        _, kind, id, length, padding = HEADER.unpack_from(data, at)
        self._check_header(kind, id, length)
        if not id or kind not in _STREAMS:
            self._pending = data[at:]
            return
        start = at + HEADER_SIZE
        self._partial = (kind, id)
        self._left = start + length - len(data)
        self._skip = padding
        size = len(data) - start
        if size:
            content = data[start:] if size < _VIEW_SIZE else memoryview(data)[start:]
            self._handlers[kind](self, kind, id, content, events)

    def _check_header(self, kind: int, id: int, length: int) -> None:
        """Raise RemoteProtocolError if the peer may not send such a record."""
        raise NotImplementedError

    def _other(self, kind: int, id: int, content: bytes, events: list[E]) -> None:
        """Handle a management record, or one that the specification does not know."""
        raise NotImplementedError


def _bad_version(header: bytes) -> str:
    if header[:4] in _METHODS:
        return (
            f"this looks like an HTTP request ({header[:8]!r}): the web server must speak FastCGI "
            "to this address, and a browser must ask the web server"
        )
    if header[:5] == b"HTTP/":
        return (
            f"this looks like an HTTP response ({header[:8]!r}): what listens on this address must "
            "speak FastCGI"
        )
    return f"record of version {header[0]}, only version 1 exists"
