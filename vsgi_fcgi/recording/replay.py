"""Drive the protocol with a recording."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vsgi_fcgi.exceptions import RemoteProtocolError
from vsgi_fcgi.protocol import (
    DataReceived,
    Event,
    Limits,
    RequestRejected,
    RequestStarted,
    ServerProtocol,
    StdinReceived,
)
from vsgi_fcgi.protocol.constants import KEEP_CONN, VERSION, RecordType
from vsgi_fcgi.protocol.records import BEGIN_REQUEST_BODY, END_REQUEST_BODY, HEADER
from vsgi_fcgi.recording import IN, NOTE
from vsgi_fcgi.recording.file import About
from vsgi_fcgi.recording.records import NOT_FASTCGI, Record

_FILLER: Final = b"*"
"""Stands for content that is not in the recording."""


def make_protocol(about: About) -> ServerProtocol:
    """Return the protocol of a server with the limits of a recording."""
    limits = Limits(about.max_requests, about.max_params_bytes, about.max_params_count)
    return ServerProtocol(limits, {}, frozenset(about.roles))


def drive(
    protocol: ServerProtocol, records: list[Record]
) -> Iterator[tuple[Record, list[Event], str]]:
    """Drive a protocol with a recording, until a record violates it.

    Yields:
        Each record, the events that it causes, and how it violates the protocol.
    """
    is_broken = False
    for record in records:
        events: list[Event] = []
        error = ""
        if record.direction == IN and not is_broken:
            try:
                protocol.receive_data(encode_record(record), events)
            except RemoteProtocolError as violation:
                error, is_broken = str(violation), True
        elif record.kind == RecordType.END_REQUEST and record.id in protocol.requests:
            request = protocol.requests[record.id]
            if len(record.content) == END_REQUEST_BODY.size:
                protocol.end_request(request, *END_REQUEST_BODY.unpack(record.content))
        yield record, events, error


def replay(about: About, records: list[Record]) -> Iterator[str]:
    """Drive the protocol of a server with a recording.

    Yields:
        A line for each record, event and error.
    """
    protocol = make_protocol(about)
    for record, events, error in drive(protocol, records):
        yield f"{record.time:12.6f}  {record.direction:4}  {describe(record)}"
        for event in events:
            yield f"{'':12}  ->    {describe_event(event)}"
        if error:
            yield f"{'':12}  ->    error: {error}"
    for request in protocol.requests.values():
        state = request.inbound.name
        yield f"{'':12}  end   id {request.id} had not ended; the state of its input was {state}"


def encode_record(record: Record) -> bytes:
    """Return a record without padding, and with filler for content that is not known."""
    if record.kind == NOT_FASTCGI:
        return record.content
    head = HEADER.pack(VERSION, record.kind, record.id, record.length, 0)
    return head + record.content + _FILLER * (record.got - len(record.content))


def describe(record: Record) -> str:
    """Return a line about a record or a note."""
    if record.direction == NOTE:
        return record.text
    size = "" if record.got == record.length else f"{record.got} of "
    line = f"id {record.id} {record.name}, {size}{record.length} bytes"
    if record.kind == RecordType.BEGIN_REQUEST and len(record.content) == BEGIN_REQUEST_BODY.size:
        role, flags = BEGIN_REQUEST_BODY.unpack(record.content)
        line += f", role {role}{', keep the connection' if flags & KEEP_CONN else ''}"
    if record.kind == RecordType.END_REQUEST and len(record.content) == END_REQUEST_BODY.size:
        app_status, protocol_status = END_REQUEST_BODY.unpack(record.content)
        line += f", application status {app_status}, protocol status {protocol_status}"
    return line


def describe_event(event: Event) -> str:
    """Return a line about an event."""
    line = f"id {event.request.id} {type(event).__name__}"
    if isinstance(event, RequestStarted):
        params = event.request.params
        target = params.get("REQUEST_URI") or params.get("SCRIPT_NAME", "")
        line += f": {params.get('REQUEST_METHOD', '')} {target}, {len(params)} params"
    elif isinstance(event, StdinReceived | DataReceived):
        line += f": {len(event.data)} bytes"
    elif isinstance(event, RequestRejected):
        line += f": {event.status}, {event.reason}"
    return line
