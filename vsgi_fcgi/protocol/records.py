"""Records on the wire (FastCGI 1.0, section 3.3), and those with a fixed body (section 5)."""

from __future__ import annotations

import struct
from typing import Final

from vsgi_fcgi.protocol.constants import MAX_SENT_CONTENT, VERSION, RecordType
from vsgi_fcgi.protocol.events import Buffer

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
"""Types that no web server may send."""


def encode_stream(out: list[Buffer], kind: int, id: int, data: Buffer) -> int:
    """Append a piece of a stream as records that hold views of it, and nothing for no data.

    Returns:
        The bytes appended, headers included.
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
    """The empty record that ends a stream (section 3.3)."""
    return HEADER.pack(VERSION, kind, id, 0, 0)


def encode_end_request(id: int, app_status: int, protocol_status: int) -> bytes:
    """END_REQUEST (section 5.5)."""
    return _END.pack(VERSION, _END_REQUEST, id, 8, 0, app_status, protocol_status)


def encode_completion(id: int, app_status: int) -> bytes:
    """The end of STDOUT and END_REQUEST/REQUEST_COMPLETE: how nearly every answer ends."""
    if not app_status and id < len(_COMPLETIONS):
        return _COMPLETIONS[id]
    return _pack_completion(id, app_status)


def _pack_completion(id: int, app_status: int) -> bytes:
    return _END_STDOUT_AND_REQUEST.pack(
        VERSION, _STDOUT, id, 0, 0, VERSION, _END_REQUEST, id, 8, 0, app_status, 0
    )


# Most web servers know no id but 1, and end nearly all of their requests with status 0.
_COMPLETIONS: Final = tuple(_pack_completion(id, 0) for id in range(256))


def encode_management(kind: int, content: bytes) -> bytes:
    """A management record (section 4), padded to a multiple of 8."""
    padding = -len(content) % 8
    return HEADER.pack(VERSION, kind, 0, len(content), padding) + content + bytes(padding)


def describe(kind: int, id: int, length: int) -> str:
    """Name a record for a log line."""
    name = RecordType(kind).name if kind in KNOWN_TYPES else f"type {kind}"
    return f"{name} record (id {id}, {length} bytes)"


def rest_of(buffers: list[Buffer], sent: int) -> list[Buffer]:
    """What is left of buffers of which ``sent`` bytes have gone."""
    for index, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *buffers[index + 1 :]]
        sent -= len(buffer)
    return []
