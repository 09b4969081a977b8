"""Encode records as a web server does, and read the records of the server.

This code was written from the FastCGI specification and uses only `struct`. It therefore does not
share mistakes with the encoders and decoders of the package.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

BEGIN_REQUEST = 1
ABORT_REQUEST = 2
END_REQUEST = 3
PARAMS = 4
STDIN = 5
STDOUT = 6
STDERR = 7
DATA = 8
GET_VALUES = 9
GET_VALUES_RESULT = 10
UNKNOWN_TYPE = 11

RESPONDER = 1
AUTHORIZER = 2
FILTER = 3

REQUEST_COMPLETE = 0
CANT_MPX_CONN = 1
OVERLOADED = 2
UNKNOWN_ROLE = 3

Pairs = Mapping[str, str] | Iterable[tuple[str, str]]


# What a web server sends.


def record(
    kind: int,
    id: int,
    content: bytes = b"",
    *,
    padding: bytes = b"",
    reserved: int = 0,
    version: int = 1,
) -> bytes:
    """One record of any type, with any junk that the specification lets pass."""
    header = struct.pack(">BBHHBB", version, kind, id, len(content), len(padding), reserved)
    return header + content + padding


def begin(id: int, role: int = RESPONDER, *, keep_conn: bool = True) -> bytes:
    return record(BEGIN_REQUEST, id, struct.pack(">HB5x", role, keep_conn))


def abort(id: int) -> bytes:
    return record(ABORT_REQUEST, id)


def stream(
    kind: int, id: int, content: bytes = b"", *, size: int = 65535, end: bool = True
) -> bytes:
    """A stream in records of at most ``size`` bytes, with the empty record that ends it."""
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    return b"".join(record(kind, id, part) for part in [*parts, *([b""] if end else [])])


def params(id: int, values: Pairs | bytes = (), *, size: int = 65535, end: bool = True) -> bytes:
    """A PARAMS stream of pairs, or of the bytes of a block."""
    block = values if isinstance(values, bytes) else pairs(values)
    return stream(PARAMS, id, block, size=size, end=end)


def stdin(id: int, body: bytes = b"", *, size: int = 65535, end: bool = True) -> bytes:
    return stream(STDIN, id, body, size=size, end=end)


def data(id: int, body: bytes = b"", *, size: int = 65535, end: bool = True) -> bytes:
    return stream(DATA, id, body, size=size, end=end)


def request(
    id: int, values: Pairs = (), body: bytes = b"", *, keep_conn: bool = True, size: int = 65535
) -> bytes:
    """A whole request to a responder."""
    streams = params(id, values, size=size) + stdin(id, body, size=size)
    return begin(id, keep_conn=keep_conn) + streams


def get_values(*names: str) -> bytes:
    return record(GET_VALUES, 0, pairs((name, "") for name in names))


def pairs(values: Pairs) -> bytes:
    """Name-value pairs (section 3.4); the text is latin-1."""
    items = values.items() if isinstance(values, Mapping) else values
    return b"".join(
        _length(name) + _length(value) + name.encode("latin-1") + value.encode("latin-1")
        for name, value in items
    )


def _length(text: str) -> bytes:
    size = len(text)
    return struct.pack(">B", size) if size <= 127 else struct.pack(">I", size + 2**31)


# What a web server gets.


class Record(NamedTuple):
    """One record that the server sent."""

    kind: int
    id: int
    content: bytes
    padding: int = 0


@dataclass
class Answer:
    """Everything that was sent for one request."""

    id: int
    stdout: bytes
    stderr: bytes
    app_status: int
    protocol_status: int


def read_records(sent: bytes) -> list[Record]:
    """Cut what the server sent into records, of which the last must be whole."""
    found = []
    at = 0
    while at < len(sent):
        version, kind, id, length, padding, _ = struct.unpack_from(">BBHHBB", sent, at)
        assert version == 1, f"version {version} at byte {at}"
        assert length + padding <= 65535, "some web servers add these two in 16 bits"
        end = at + 8 + length
        assert end + padding <= len(sent), f"{sent[at:]!r} is cut off"
        found.append(Record(kind, id, sent[at + 8 : end], padding))
        at = end + padding
    return found


def read_answers(sent: bytes) -> list[Answer]:
    """Sort what the server sent by request, in the order of their ends.

    Every stream must be ended where the request was completed, and nothing may follow an end.
    """
    return list(_answers(read_records(sent)))


def _answers(records: Iterable[Record]) -> Iterator[Answer]:
    active: dict[int, dict[int, list[bytes]]] = {}
    for found in records:
        if found.id == 0:
            continue
        streams = active.setdefault(found.id, {})
        if found.kind in (STDOUT, STDERR):
            pieces = streams.setdefault(found.kind, [])
            assert not pieces or pieces[-1], f"{found} after the end of its stream"
            pieces.append(found.content)
            continue
        assert found.kind == END_REQUEST, f"{found} is nothing for a web server"
        app_status, protocol_status = struct.unpack(">IB3x", found.content)
        if protocol_status == REQUEST_COMPLETE:
            open_streams = [kind for kind, pieces in streams.items() if pieces[-1]]
            assert not open_streams, f"{found} before the end of {open_streams}"
        stdout, stderr = (b"".join(streams.get(kind, ())) for kind in (STDOUT, STDERR))
        yield Answer(found.id, stdout, stderr, app_status, protocol_status)
        del active[found.id]
    assert not active, f"no END_REQUEST for {sorted(active)}"
