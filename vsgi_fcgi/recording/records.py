"""Turn the bytes of a connection into its records, without their secrets.

The values of params and of response headers are hidden unless they are listed here: a web server's
configuration may put a password into any param, and an app may put a token into any header. A value
is replaced by as many asterisks, so the lengths in the records stay true, and a replay meets the
same borders. Whatever cannot be assigned to a name for certain is hidden as a whole: the rest of
an incomplete stream, and streams whose beginning was not kept.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import starmap, takewhile
from typing import Any, Final

from vsgi_fcgi.exceptions import ParamsError
from vsgi_fcgi.protocol.constants import HEADER_SIZE, VERSION, RecordType
from vsgi_fcgi.protocol.records import HEADER, KNOWN_TYPES, decode_pairs, encode_pairs, iter_pairs
from vsgi_fcgi.recording import NOTE

_PARAMS = (
    "AUTH_TYPE CONTENT_LENGTH CONTENT_TYPE DOCUMENT_ROOT DOCUMENT_URI FCGI_DATA_LAST_MOD"
    " FCGI_DATA_LENGTH FCGI_ROLE GATEWAY_INTERFACE HTTPS HTTP_ACCEPT HTTP_ACCEPT_ENCODING"
    " HTTP_CONNECTION HTTP_CONTENT_LENGTH HTTP_CONTENT_TYPE HTTP_EXPECT HTTP_HOST HTTP_RANGE"
    " HTTP_TE HTTP_TRANSFER_ENCODING HTTP_UPGRADE HTTP_USER_AGENT PATH_INFO PATH_TRANSLATED"
    " REDIRECT_STATUS REMOTE_ADDR REMOTE_PORT REQUEST_METHOD REQUEST_SCHEME REQUEST_URI"
    " SCRIPT_FILENAME SCRIPT_NAME SERVER_ADDR SERVER_NAME SERVER_PORT SERVER_PROTOCOL"
    " SERVER_SOFTWARE"
)
SHOWN_PARAMS: Final = frozenset(_PARAMS.split())
"""The params whose values are shown; of REQUEST_URI, only the path."""

_HEADERS = (
    b"accept-ranges age allow cache-control connection content-encoding content-length"
    b" content-range content-type date expires last-modified retry-after server status"
    b" transfer-encoding upgrade vary"
)
SHOWN_HEADERS: Final = frozenset(_HEADERS.split())
"""The headers of responses whose values are shown."""

_NAME: Final = re.compile(r"[A-Z0-9_]{1,64}\Z")
_HEADER_NAME: Final = re.compile(rb"[A-Za-z0-9-]{1,64}\Z")
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_BODIES: Final = (RecordType.STDIN, RecordType.STDERR, RecordType.DATA)
_ALWAYS_SHOWN: Final = (
    RecordType.BEGIN_REQUEST,
    RecordType.END_REQUEST,
    RecordType.GET_VALUES,
    RecordType.GET_VALUES_RESULT,
    RecordType.UNKNOWN_TYPE,
)
NOT_FASTCGI: Final = -1
"""Stands for the type of bytes that are not FastCGI."""


@dataclass(slots=True)
class Record:
    """A record, or a note.

    Attributes:
        time: the time of its first byte, in seconds.
        direction: `IN`, `OUT` or `NOTE`.
        kind: its type, or `NOT_FASTCGI`.
        id: the request id.
        length: the length of its content.
        got: how many bytes of its content have passed.
        content: its content from the first byte on, as far as it is kept.
        text: the text of a note.
    """

    time: float
    direction: str
    kind: int = 0
    id: int = 0
    length: int = 0
    got: int = 0
    content: bytes = b""
    text: str = ""

    @property
    def name(self) -> str:
        """The name of its type."""
        if self.kind == NOT_FASTCGI:
            return "not FastCGI"
        return RecordType(self.kind).name if self.kind in KNOWN_TYPES else f"type {self.kind}"


class _Cutter:
    """Cuts the bytes of one direction into records.

    Args:
        records: the list to append records to.
        direction: `IN` or `OUT`.
        skip: bytes of a record whose beginning is unknown.

    Attributes:
        head: an incomplete header.
        begun: the time of its first byte, in seconds.
    """

    def __init__(self, records: list[Record], direction: str, skip: int) -> None:
        self._records = records
        self._last = Record(0, direction)
        self._left = skip
        self.head = b""
        self.begun = 0.0

    def feed(self, time: float, piece: bytes | int) -> None:
        """Take the bytes of one moment, or the number of bytes that are not kept."""
        at, size = 0, piece if isinstance(piece, int) else len(piece)
        while at < size:
            last = self._last
            if self._left:
                taken = min(self._left, size - at)
                self._left -= taken
                got = min(taken, last.length - last.got)
                if isinstance(piece, bytes) and len(last.content) == last.got:
                    last.content += piece[at : at + got]
                last.got += got
            else:
                # Headers are always kept.
                assert isinstance(piece, bytes)
                self.begun = self.begun if self.head else time
                taken = min(HEADER_SIZE - len(self.head), size - at)
                self.head += piece[at : at + taken]
                if len(self.head) == HEADER_SIZE:
                    self._begin()
            at += taken

    def _begin(self) -> None:
        version, kind, id, length, padding = HEADER.unpack(self.head)
        self._last = Record(self.begun, self._last.direction, kind, id, length)
        self._left = length + padding
        if version != VERSION:
            # The first bytes only, as in the log: cookies may follow in an HTTP request.
            self._last = Record(self.begun, self._last.direction, NOT_FASTCGI, 0, HEADER_SIZE)
            self._last.content, self._last.got = self.head, HEADER_SIZE
            self._left = sys.maxsize
        self._records.append(self._last)
        self.head = b""


def cut(entries: Iterable[tuple[float, str, Any, int]]) -> list[Record]:
    """Return the records of a connection, with times from the first entry on. Nothing is hidden.

    Args:
        entries: as `vsgi_fcgi.transport.recording` describes them.
    """
    records: list[Record] = []
    cutters: dict[str, _Cutter] = {}
    zero = None
    for moment, direction, what, skip in entries:
        zero = moment if zero is None else zero
        if direction == NOTE:
            records.append(Record(moment - zero, NOTE, text=what))
        elif direction in cutters or skip >= 0:
            cutter = cutters.setdefault(direction, _Cutter(records, direction, skip))
            for piece in [what] if isinstance(what, bytes) else what:
                cutter.feed(moment - zero, piece)
    for each in cutters.values():
        if each.head:
            text = f"{len(each.head)} bytes of an incomplete header"
            records.append(Record(each.begun, NOTE, text=text))
    return records


def hide_secrets(records: Iterable[Record], bodies: int) -> None:
    """Hide secrets in the records of a connection, in their order.

    Args:
        records: the records of both directions.
        bodies: bytes of each record of a body that are shown.
    """
    # The streams of the open requests, by type and id. Others have no known beginning.
    streams: dict[tuple[int, int], list[Record]] = {}

    def end(id: int) -> None:
        _hide_params(streams.pop((RecordType.PARAMS, id), []))
        _hide_response(streams.pop((RecordType.STDOUT, id), []), bodies)

    for record in records:
        kind, id = record.kind, record.id
        if kind in (RecordType.PARAMS, RecordType.STDOUT):
            if (kind, id) in streams:
                streams[kind, id].append(record)
            else:
                record.content = b""
        elif kind in _BODIES:
            record.content = record.content[:bodies]
        elif kind not in _ALWAYS_SHOWN and kind != NOT_FASTCGI:
            record.content = b""
        elif kind in (RecordType.BEGIN_REQUEST, RecordType.END_REQUEST):
            end(id)
            if kind == RecordType.BEGIN_REQUEST:
                streams[RecordType.PARAMS, id] = []
                streams[RecordType.STDOUT, id] = []
    for _, id in list(streams):
        end(id)


def _hide_params(records: list[Record]) -> None:
    """Hide the values in a PARAMS stream. Its pairs may be cut by the ends of records.

    If the stream is incomplete or malformed, all of it is hidden: a wrong length makes a part of
    one value look like another pair.
    """
    # A record without content ends the stream.
    stream = list(takewhile(lambda record: record.length, records))
    block = b"".join(record.content for record in stream)
    hidden = b""
    if len(stream) < len(records) and len(block) == sum(record.length for record in stream):
        with suppress(ParamsError):
            decode_pairs(block, len(block))
            hidden = encode_pairs(starmap(_hide_value, iter_pairs(block, block.decode("latin-1"))))
    if len(hidden) != len(block):
        # A length takes more bytes than it needs.
        hidden = b""
    at = 0
    for record in records:
        end = at + len(record.content)
        record.content = hidden[at:end]
        at = end


def _hide_value(name: str, value: str) -> tuple[str, str]:
    """Return a param whose name and value are hidden if they may be secrets."""
    shown = value if name in SHOWN_PARAMS else ""
    if name == "REQUEST_URI":
        shown = value.partition("?")[0]
        # An absolute URI may contain a password.
        if not shown.startswith("/") and shown != "*":
            shown = ""
        elif len(shown) < len(value):
            shown += "?"
    name = name if _NAME.match(name) else "*" * len(name)
    return name, shown + "*" * (len(value) - len(shown))


def _hide_response(records: list[Record], bodies: int) -> None:
    """Hide the values of headers at the beginning of STDOUT, and the body that follows them."""
    block = bytearray()
    for record in records:
        block += record.content
        if len(record.content) < record.length:
            break
    found = _HEAD_END.search(block)
    body = found.end() if found else len(block)
    head = _hide_headers(bytes(block[:body]), complete=found is not None)
    at = 0
    for record in records:
        shown = head[at : at + len(record.content)]
        if found and len(head) == body:
            # Only what follows a valid header block is certainly a body.
            start = max(body - at, 0)
            shown += record.content[start : start + bodies]
        record.content = shown
        at += record.length


def _hide_headers(block: bytes, *, complete: bool) -> bytes:
    """Return the valid lines at the start of a header block, with values hidden."""
    lines = block.splitlines(keepends=True)
    if not complete and lines:
        # The last line may be incomplete.
        lines.pop()
    out = b""
    for line in lines:
        text = line.rstrip(b"\r\n")
        name, colon, value = text.partition(b":")
        if text[:1] in (b"", b" ", b"\t"):
            # The end, or the continuation of a value.
            name = colon = b""
            value = text
        elif not colon or not _HEADER_NAME.match(name):
            break  # this is no header block
        shown = value if name.lower() in SHOWN_HEADERS else b"*" * len(value)
        out += name + colon + shown + line[len(text) :]
    return out
