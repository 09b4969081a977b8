"""Drive a `ServerProtocol`, and record its events."""

from __future__ import annotations

from collections.abc import Iterable

from vsgi_fcgi.protocol import (
    DataReceived,
    Event,
    Limits,
    Request,
    RequestRejected,
    RequestStarted,
    ServerProtocol,
    StdinReceived,
)

VALUES = {"FCGI_MAX_CONNS": "100", "FCGI_MAX_REQS": "50", "FCGI_MPXS_CONNS": "1"}
ALL_ROLES = frozenset({1, 2, 3})

Said = tuple[str, int, object]
"""An event as plain values: the name of its class, the request's id, and what it brings."""


def server_protocol(
    *, roles: Iterable[int] = (1,), limits: Limits | None = None, raw_params: bool = False
) -> ServerProtocol:
    return ServerProtocol(limits or Limits(), VALUES, frozenset(roles), raw_params=raw_params)


def said(events: Iterable[Event]) -> list[Said]:
    """Events as plain values; pieces of a stream that follow one another are joined."""
    plain: list[Said] = []
    for event in events:
        name, id = type(event).__name__, event.request.id
        detail: object = None
        if isinstance(event, RequestStarted):
            detail = [*event.request.params.items(), *event.request.repeated]
        elif isinstance(event, StdinReceived | DataReceived):
            detail = bytes(event.data)
            if plain and plain[-1][:2] == (name, id):
                before = plain.pop()[2]
                assert isinstance(before, bytes)
                detail = before + detail
        elif isinstance(event, RequestRejected):
            detail = event.status
        plain.append((name, id, detail))
    return plain


def sent(connection: ServerProtocol) -> bytes:
    """Everything that the connection wants to send; it is taken."""
    size = connection.unsent_size
    data = b"".join(connection.data_to_send())
    assert len(data) == size
    assert connection.unsent_size == 0
    return data


def receive(connection: ServerProtocol, data: bytes) -> list[Event]:
    """Receive bytes as a connection of the server does: into one buffer while a body arrives."""
    if not connection.left:
        return connection.receive_data(data)
    buffer = bytearray(data)
    events = connection.receive_data(memoryview(buffer))
    for event in events:
        if isinstance(event, StdinReceived | DataReceived):
            event.data = bytes(event.data)
    # The next read would overwrite it.
    buffer[:] = b"\xff" * len(buffer)
    return events


def byte_by_byte(connection: ServerProtocol, data: bytes) -> list[Event]:
    """Receive bytes in reads of one byte each."""
    events: list[Event] = []
    for value in data:
        events += connection.receive_data(bytes((value,)))
    return events


def begun(connection: ServerProtocol, data: bytes) -> Request:
    """Receive the records of one request, and return its handle while it is active."""
    before = set(connection.requests.values())
    connection.receive_data(data)
    (request,) = set(connection.requests.values()) - before
    return request
