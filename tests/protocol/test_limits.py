"""Test the limits of one connection and of one request, and the answers at the limits."""

from __future__ import annotations

import pytest
from support.fcgi import records
from support.fcgi.server_protocols import begun, said, sent, server_protocol

from vsgi_fcgi.exceptions import RemoteProtocolError
from vsgi_fcgi.protocol import Limits, RequestRejected, ServerProtocol
from vsgi_fcgi.protocol.events import REQUEST_COST


def rejected(connection: ServerProtocol, data: bytes) -> RequestRejected:
    (event,) = connection.receive_data(data)
    assert isinstance(event, RequestRejected)
    return event


@pytest.mark.parametrize("size", [1, 10, 65535])
def test_params_of_as_many_bytes_as_are_allowed(size: int) -> None:
    connection = server_protocol(limits=Limits(params_bytes=100))
    stream = records.params(1, {"N" * 10: "v" * 88}, size=size)
    assert len(records.pairs({"N" * 10: "v" * 88})) == 100
    (event,) = connection.receive_data(records.begin(1) + stream)
    assert event.request.params == {"N" * 10: "v" * 88}


@pytest.mark.parametrize("size", [1, 10, 65535])
@pytest.mark.parametrize("keep_conn", [False, True])
def test_params_of_one_byte_more_are_answered_431(size: int, keep_conn: bool) -> None:
    connection = server_protocol(limits=Limits(params_bytes=100))
    stream = records.params(1, {"N" * 10: "v" * 89}, size=size)
    event = rejected(connection, records.begin(1, keep_conn=keep_conn) + stream)
    assert event.status == 431
    assert "100 bytes" in event.reason
    assert connection.params_held == 0
    assert not sent(connection)
    connection.respond(event.request, b"431")
    connection.receive_data(records.stdin(1, b"x"))
    assert not connection.requests
    assert connection.finished is not keep_conn


def test_params_without_end_are_answered_once_and_not_kept() -> None:
    connection = server_protocol(limits=Limits(params_bytes=1000))
    request = begun(connection, records.begin(1))
    more = records.record(records.PARAMS, 1, bytes(400))
    held = []
    events = []
    for _ in range(100):
        events += connection.receive_data(more)
        held.append(connection.params_held)
    assert said(events) == [("RequestRejected", 1, 431)]
    assert held[:2] == [REQUEST_COST + 400, REQUEST_COST + 800]
    assert set(held[2:]) == {0}
    assert request.received == 1200


def test_as_many_pairs_as_are_allowed() -> None:
    connection = server_protocol(limits=Limits(params_count=3))
    (event,) = connection.receive_data(records.begin(1) + records.params(1, [("A", "b")] * 3))
    assert event.request.params == {"A": "b"}
    assert event.request.repeated == (("A", "b"), ("A", "b"))


def test_one_pair_more_is_answered_431() -> None:
    connection = server_protocol(limits=Limits(params_count=3))
    event = rejected(connection, records.begin(1) + records.params(1, [("A", "b")] * 4))
    assert event.status == 431
    assert "4 params" in event.reason


@pytest.mark.parametrize("keep_conn", [False, True])
@pytest.mark.parametrize("block", [b"\x01\x01A", b"\x05", b"\xff\xff\xff\xff\xff\xff\xff\xffA"])
def test_params_that_cannot_be_decoded_are_answered_400(block: bytes, keep_conn: bool) -> None:
    """They concern one request alone: its neighbours never notice."""
    connection = server_protocol()
    neighbour = begun(connection, records.request(2))
    event = rejected(connection, records.begin(1, keep_conn=keep_conn) + records.params(1, block))
    assert event.status == 400
    assert connection.receive_data(records.stdin(1, b"ignored", end=False)) == []
    connection.respond(event.request, b"400")
    assert connection.receive_data(records.stdin(1)) == []
    assert connection.requests == {2: neighbour}
    assert connection.params_held == 0


def test_bad_params_of_an_authorizer_leave_nothing_behind() -> None:
    connection = server_protocol(roles={records.AUTHORIZER})
    begin = records.begin(1, records.AUTHORIZER, keep_conn=False)
    event = rejected(connection, begin + records.params(1, b"\x09"))
    connection.respond(event.request, b"400")
    assert connection.finished


def test_the_params_of_each_request_are_counted_alone_and_together() -> None:
    connection = server_protocol(limits=Limits(params_bytes=100))
    for id in range(1, 51):
        begin = records.begin(id)
        assert connection.receive_data(begin + records.params(id, bytes(100), end=False)) == []
    assert connection.params_held == 50 * (REQUEST_COST + 100)
    connection.receive_data(records.abort(7))
    assert connection.params_held == 49 * (REQUEST_COST + 100)
    (event,) = connection.receive_data(records.params(8, {"A": "b"}))
    assert said([event]) == [("RequestRejected", 8, 431)]
    assert connection.params_held == 48 * (REQUEST_COST + 100)


def test_as_many_requests_as_are_allowed() -> None:
    connection = server_protocol(limits=Limits(requests=3))
    for id in (1, 2, 3):
        connection.receive_data(records.begin(id))
    (event,) = connection.receive_data(records.begin(4))
    assert said([event]) == [("RequestRejected", 4, 503)]
    assert isinstance(event, RequestRejected)
    assert "3 requests" in event.reason
    connection.respond(event.request, b"503")
    assert sorted(connection.requests) == [1, 2, 3]
    connection.receive_data(records.params(4, {"A": "b"}) + records.stdin(4, b"ignored"))
    assert sorted(connection.requests) == [1, 2, 3]
    assert connection.params_held == 3 * REQUEST_COST


def test_a_request_and_its_pairs_count_until_its_input_has_ended() -> None:
    """A decoded pair of 2 bytes takes a hundred."""
    connection = server_protocol()
    connection.receive_data(records.begin(1) + records.params(1, [("A", "b")] * 500))
    assert connection.params_held >= 50_000
    connection.receive_data(records.stdin(1, b"x", end=False))
    assert connection.params_held >= 50_000
    connection.receive_data(records.stdin(1))
    assert connection.params_held == 0
    assert len(connection.requests) == 1


@pytest.mark.parametrize("role", [records.AUTHORIZER, records.FILTER])
def test_requests_for_other_roles_count_until_their_input_has_ended(role: int) -> None:
    connection = server_protocol(roles={role})
    connection.receive_data(records.begin(1, role) + records.params(1, {"A": "b"}))
    if role == records.FILTER:
        connection.receive_data(records.stdin(1, b"x"))
        assert connection.params_held > REQUEST_COST
        connection.receive_data(records.data(1, b"x"))
    assert connection.params_held == 0


def test_params_that_are_not_decoded_count_until_their_request_has_ended() -> None:
    connection = server_protocol(raw_params=True)
    (started, _) = connection.receive_data(records.request(1, {"A": "b" * 100}))
    assert connection.params_held > REQUEST_COST + 100
    connection.respond(started.request, b"done")
    assert connection.params_held == 0


def test_there_is_room_again_when_a_request_has_ended() -> None:
    connection = server_protocol(limits=Limits(requests=1))
    first = begun(connection, records.request(1))
    connection.respond(rejected(connection, records.request(2)).request, b"503")
    connection.end_request(first)
    assert said(connection.receive_data(records.request(2))) == [
        ("RequestStarted", 2, []),
        ("StdinEnded", 2, None),
    ]


def test_a_rejected_request_can_be_aborted() -> None:
    connection = server_protocol(limits=Limits(requests=0))
    rejected(connection, records.begin(1))
    assert said(connection.receive_data(records.abort(1))) == [("RequestAborted", 1, None)]
    assert not connection.requests


def test_a_question_for_too_many_values_ends_the_connection() -> None:
    connection = server_protocol(limits=Limits(params_count=3))
    with pytest.raises(RemoteProtocolError, match=r"GET_VALUES record .* 4 "):
        connection.receive_data(records.get_values(*"ABCD"))
