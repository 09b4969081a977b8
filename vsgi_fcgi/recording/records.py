"""Turn the bytes of a connection into its records, without their secrets.

The values of params and of response headers are hidden unless they are listed here: a web server's
configuration may put a password into any param, and an app may put a token into any header. A value
is replaced by as many asterisks, so the lengths in the records stay true, and a replay meets the
same borders. Whatever cannot be assigned to a name for certain is hidden as a whole: the rest of
an incomplete stream, and streams whose beginning was not kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from vsgi_fcgi.exceptions import ParamsError
from vsgi_fcgi.protocol.constants import HEADER_SIZE, VERSION, RecordType
from vsgi_fcgi.protocol.records import HEADER, KNOWN_TYPES, decode_pairs, iter_pairs

IN: Final = "in"
OUT: Final = "out"
NOTE: Final = "note"

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

_NAME: Final = re.compile(rb"[A-Z0-9_]{1,64}$")
_HEADER_NAME: Final = re.compile(rb"[A-Za-z0-9-]{1,64}\Z")
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_MAX_HEAD_RECORDS: Final = 8
"""Number of records after which a response is taken to have no header block."""
_BODIES: Final = frozenset((RecordType.STDIN, RecordType.STDERR, RecordType.DATA))
_SHOWN_TYPES: Final = frozenset(
    map(
        int,
        (
            RecordType.BEGIN_REQUEST,
            RecordType.END_REQUEST,
            RecordType.GET_VALUES,
            RecordType.GET_VALUES_RESULT,
            RecordType.UNKNOWN_TYPE,
        ),
    )
)
"""The types of records whose content is always shown."""


@dataclass(slots=True)
class Record:
    """A record, or a note.

    Attributes:
        time: the time of its first byte, in seconds.
        until: the time of its last byte.
        direction: `IN`, `OUT` or `NOTE`.
        kind: its type; -1 for bytes that are not FastCGI, and -2 for an incomplete header.
        id: the request id.
        length: the length of its content.
        padding: the length of its padding.
        got: how many bytes of its content have passed.
        content: its content from the first byte on, as far as it is kept.
        text: the text of a note.
    """

    time: float
    until: float
    direction: str
    kind: int = 0
    id: int = 0
    length: int = 0
    padding: int = 0
    got: int = 0
    content: bytes = b""
    text: str = ""

    @property
    def name(self) -> str:
        """The name of its type."""
        if self.kind == NOT_FASTCGI:
            return "not FastCGI"
        if self.kind == NO_HEADER:
            return "incomplete header"
        return RecordType(self.kind).name if self.kind in KNOWN_TYPES else f"type {self.kind}"


NOT_FASTCGI: Final = -1
NO_HEADER: Final = -2


class Cutter:
    """Cuts the bytes of one direction into records.

    Args:
        records: the list to append records to.
        direction: `IN` or `OUT`.
        skip: bytes of a record whose beginning is unknown.
    """

    def __init__(self, records: list[Record], direction: str, skip: int = 0) -> None:
        self._records = records
        self._last: Record | None = None
        self._direction = direction
        self._skip = skip
        self._head = b""
        self._begun = 0.0
        self._left = 0
        self._whole = True

    def feed(self, time: float, piece: bytes | int) -> None:
        """Take the bytes of one moment, or the number of bytes that are not kept."""
        size = piece if isinstance(piece, int) else len(piece)
        at = 0
        while at < size:
            last = self._last
            if last is not None and last.kind == NOT_FASTCGI:
                last.length += size - at
                last.got += size - at
                last.until = time
                return
            taken = min(self._left, size - at)
            if taken:
                assert last is not None
                if isinstance(piece, int):
                    self._whole = False
                elif self._whole:
                    last.content += piece[at : at + taken]
                last.got += taken
                last.until = time
                self._left -= taken
            elif self._skip:
                taken = min(self._skip, size - at)
                self._skip -= taken
            else:
                if isinstance(piece, int):
                    # Only content is left out; this is a file that someone has changed.
                    return
                taken = min(HEADER_SIZE - len(self._head), size - at)
                if not self._head:
                    self._begun = time
                self._head += piece[at : at + taken]
                if len(self._head) == HEADER_SIZE:
                    self._begin(time)
            at += taken

    def _begin(self, time: float) -> None:
        head, self._head = self._head, b""
        version, kind, id, length, padding = HEADER.unpack(head)
        record = Record(self._begun, time, self._direction, kind, id, length, padding)
        if version != VERSION:
            # The first bytes only, as in the log: cookies may follow in an HTTP request.
            record.kind, record.id, record.padding = NOT_FASTCGI, 0, 0
            record.length = record.got = HEADER_SIZE
            record.content = head
            length = padding = 0
        self._last = record
        self._records.append(record)
        self._left, self._skip, self._whole = length, padding, True

    def finish(self) -> None:
        """Append an incomplete header as well."""
        head, begun = self._head, self._begun
        if head:
            record = Record(begun, begun, self._direction, NO_HEADER)
            record.content, record.length, record.got = head, len(head), len(head)
            self._records.append(record)


def hide_secrets(records: Iterable[Record], bodies: int) -> None:
    """Hide secrets in the records of a connection, in their order.

    Args:
        records: the records of both directions.
        bodies: bytes of each record of a body that are shown.
    """
    params: dict[int, list[Record]] = {}
    # None: the header block has ended. A response that is not in the dict is hidden.
    heads: dict[int, list[Record] | None] = {}
    for record in records:
        kind, id = record.kind, record.id
        if kind == RecordType.BEGIN_REQUEST:
            _hide_params(params.pop(id, []))
            _hide_head(heads.pop(id, None) or [], bodies)
            params[id], heads[id] = [], []
        elif kind == RecordType.PARAMS:
            if id not in params:
                record.content = b""
            elif record.length:
                params[id].append(record)
            else:
                _hide_params(params.pop(id), ended=True)
        elif kind == RecordType.STDOUT:
            _take_stdout(record, heads, bodies)
        elif kind == RecordType.END_REQUEST:
            _hide_head(heads.pop(id, None) or [], bodies)
        elif kind in _BODIES:
            record.content = record.content[:bodies]
        elif kind >= 0 and kind not in _SHOWN_TYPES:
            record.content = b""
    for stream in params.values():
        _hide_params(stream)
    for head in heads.values():
        _hide_head(head or [], bodies)


def _take_stdout(record: Record, heads: dict[int, list[Record] | None], bodies: int) -> None:
    head = heads.get(record.id, [])
    if head is None:
        record.content = record.content[:bodies]
    elif record.id not in heads:
        record.content = b""
    else:
        head.append(record)
        is_cut = len(record.content) < record.length
        if _HEAD_END.search(b"".join(each.content for each in head)):
            _hide_head(head, bodies)
            heads[record.id] = None
        elif is_cut or len(head) > _MAX_HEAD_RECORDS:
            _hide_head(head, bodies)
            del heads[record.id]


def _hide_params(records: list[Record], *, ended: bool = False) -> None:
    """Hide the values in a PARAMS stream. Its pairs may be cut by the ends of records.

    If the stream is incomplete or malformed, all of it is hidden: a wrong length makes a part of
    one value look like another pair.
    """
    block = b"".join(record.content for record in records)
    hidden = b"*" * len(block)
    if ended and all(len(record.content) == record.length for record in records):
        try:
            decode_pairs(block, len(block))
        except ParamsError:
            pass
        else:
            hidden = _hide_values(block)
    at = 0
    for record in records:
        end = at + len(record.content)
        record.content = hidden[at:end]
        at = end


def _hide_values(block: bytes) -> bytes:
    """Return a well-formed block in which values and odd names are hidden. Its size is the same."""
    out = bytearray(block)
    at = 0
    for name, value in iter_pairs(block, block.decode("latin-1")):
        for _ in range(2):
            at += 4 if block[at] > 127 else 1
        middle = at + len(name)
        end = middle + len(value)
        if not _NAME.match(block, at, middle):
            out[at:middle] = b"*" * len(name)
        out[middle:end] = _shown(name, block[middle:end])
        at = end
    return bytes(out)


def _shown(name: str, value: bytes) -> bytes:
    """Return a param's value, hidden if it may be a secret."""
    if name not in SHOWN_PARAMS:
        return b"*" * len(value)
    if name == "REQUEST_URI":
        path = value.partition(b"?")[0]
        # An absolute URI may contain a password.
        if not path.startswith(b"/") and path != b"*":
            path = b""
        hidden = b"*" * (len(value) - len(path))
        return path + (b"?" + hidden[1:] if hidden and path else hidden)
    return value


def _hide_head(records: list[Record], bodies: int) -> None:
    """Hide the values of headers in the first records of STDOUT, and the body that follows them."""
    data = b""
    for record in records:
        data += record.content
        if len(record.content) < record.length:
            break
    found = _HEAD_END.search(data)
    lines = data[: found.end() if found else len(data)].splitlines(keepends=True)
    if found is None and lines:
        # The last line may be incomplete.
        lines.pop()
    out, shown = b"", False
    for line in lines:
        text = line.rstrip(b"\r\n")
        name, colon, value = text.partition(b":")
        if colon and _HEADER_NAME.match(name):
            shown = name.lower() in SHOWN_HEADERS
            out += name + colon
        elif not text:
            value = b""
        elif text[:1] in b" \t":
            value = text
        else:
            break  # this is no header block
        out += (value if shown else b"*" * len(value)) + line[len(text) :]
    at = 0
    for record in records:
        kept = out[at : at + len(record.content)]
        if found and at + len(kept) >= found.end():
            kept += record.content[len(kept) : len(kept) + bodies]
        record.content = kept
        at += record.length
