"""Drive a `ClientProtocol`, and record its events."""

from __future__ import annotations

from collections.abc import Iterable

from vsgi_fcgi.protocol import (
    ClientEvent,
    ClientProtocol,
    RequestEnded,
    StderrReceived,
    StdoutReceived,
    TypeRefused,
    ValuesReceived,
)

Said = tuple[str, int, object]
"""An event as plain values: the name of its class, the request's id or 0, and what it brings."""


def said(events: Iterable[ClientEvent]) -> list[Said]:
    """Events as plain values; pieces of a stream that follow one another are joined."""
    plain: list[Said] = []
    for event in events:
        name = type(event).__name__
        if isinstance(event, StdoutReceived | StderrReceived):
            data = bytes(event.data)
            if plain and plain[-1][:2] == (name, event.request.id):
                before = plain.pop()[2]
                assert isinstance(before, bytes)
                data = before + data
            plain.append((name, event.request.id, data))
        elif isinstance(event, RequestEnded):
            status = (event.app_status, event.protocol_status)
            plain.append((name, event.request.id, status))
        elif isinstance(event, ValuesReceived):
            plain.append((name, 0, event.values))
        else:
            assert isinstance(event, TypeRefused)
            plain.append((name, 0, event.kind))
    return plain


def sent(connection: ClientProtocol) -> bytes:
    """Everything that the connection wants to send; it is taken."""
    return b"".join(connection.data_to_send())


def byte_by_byte(connection: ClientProtocol, data: bytes) -> list[ClientEvent]:
    """Receive bytes in reads of one byte each."""
    events: list[ClientEvent] = []
    for value in data:
        connection.receive_data(bytes((value,)), events)
    return events
