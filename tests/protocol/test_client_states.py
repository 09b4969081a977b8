"""Test when a client may send what, which ids it uses, and how it aborts requests."""

from __future__ import annotations

import pytest
from support.fcgi import records
from support.fcgi.client_protocols import said, sent
from support.fcgi.records import ABORT_REQUEST, BEGIN_REQUEST, PARAMS, STDIN, Record
from support.fcgi.scripted import end_request, stdout

from vsgi_fcgi.exceptions import LocalProtocolError, RemoteProtocolError
from vsgi_fcgi.protocol import (
    ClientProtocol,
    ClientRequest,
    Receiving,
    Role,
    Sending,
    StdoutReceived,
)


def begin(connection: ClientProtocol, count: int) -> list[ClientRequest]:
    return [connection.begin_request(b"") for _ in range(count)]


def ids(requests: list[ClientRequest]) -> list[int]:
    return [request.id for request in requests]


# Ids.


def test_the_lowest_free_id_comes_first() -> None:
    connection = ClientProtocol()
    assert ids(begin(connection, 5)) == [1, 2, 3, 4, 5]
    for id in (4, 2, 5):
        connection.receive_data(end_request(id))
    assert ids(begin(connection, 4)) == [2, 4, 5, 6]
    assert sorted(connection.requests) == [1, 2, 3, 4, 5, 6]


def test_an_id_is_free_when_the_request_has_ended_and_not_before() -> None:
    connection = ClientProtocol()
    (request,) = begin(connection, 1)
    connection.end_stdin(request)
    connection.abort(request)
    connection.receive_data(stdout(1, b"late"))
    assert ids(begin(connection, 1)) == [2]
    connection.receive_data(end_request(1))
    assert ids(begin(connection, 1)) == [1]


def test_all_ids_and_no_more() -> None:
    connection = ClientProtocol()
    requests = begin(connection, 65535)
    assert ids(requests) == list(range(1, 65536))
    with pytest.raises(LocalProtocolError, match="65535 requests are in flight"):
        begin(connection, 1)
    connection.receive_data(end_request(777))
    assert ids(begin(connection, 1)) == [777]


def test_no_more_requests_than_may_be_in_flight() -> None:
    connection = ClientProtocol(2)
    first, _ = begin(connection, 2)
    connection.abort(first)
    sent(connection)
    with pytest.raises(LocalProtocolError, match="2 requests are in flight"):
        begin(connection, 1)
    assert sent(connection) == b""
    connection.receive_data(end_request(2))
    assert ids(begin(connection, 1)) == [2]
    assert ClientProtocol(10**6).max_requests == 65535


# Sending.


def test_the_streams_of_a_responder() -> None:
    connection = ClientProtocol()
    (request,) = begin(connection, 1)
    assert "STDIN/OPEN" in repr(request)
    with pytest.raises(LocalProtocolError, match="cannot send DATA now"):
        connection.send_data(request, b"x")
    with pytest.raises(LocalProtocolError, match="cannot send DATA now"):
        connection.end_data(request)
    connection.end_stdin(request)
    assert request.sending is Sending.ENDED
    with pytest.raises(LocalProtocolError, match="cannot send STDIN now"):
        connection.send_stdin(request, b"x")
    with pytest.raises(LocalProtocolError, match="cannot send STDIN now"):
        connection.end_stdin(request)


def test_the_streams_of_a_filter() -> None:
    connection = ClientProtocol()
    request = connection.begin_request(b"", Role.FILTER)
    with pytest.raises(LocalProtocolError, match="cannot send DATA now"):
        connection.send_data(request, b"x")
    connection.end_stdin(request)
    assert "DATA/OPEN" in repr(request)
    connection.send_data(request, b"x")
    connection.end_data(request)
    with pytest.raises(LocalProtocolError, match="cannot send DATA now"):
        connection.end_data(request)


def test_an_authorizer_has_no_stream() -> None:
    connection = ClientProtocol()
    request = connection.begin_request(b"", Role.AUTHORIZER)
    assert request.sending is Sending.ENDED
    with pytest.raises(LocalProtocolError, match="cannot send STDIN now"):
        connection.end_stdin(request)
    assert "role 2" in repr(request)


def test_a_body_goes_nowhere_once_the_application_has_ended_the_request() -> None:
    connection = ClientProtocol()
    (early,) = begin(connection, 1)
    connection.receive_data(end_request(1))
    assert early.receiving is Receiving.ENDED
    (later,) = begin(connection, 1)
    assert later.id == early.id
    sent(connection)
    connection.send_stdin(early, b"of the old one")
    connection.end_stdin(early)
    connection.abort(early)
    assert sent(connection) == b""
    connection.send_stdin(later, b"x")
    assert records.read_records(sent(connection)) == [Record(STDIN, 1, b"x")]


def test_pieces_of_a_body_are_not_copied() -> None:
    connection = ClientProtocol()
    (request,) = begin(connection, 1)
    connection.data_to_send()
    body = bytearray(100_000)
    connection.send_stdin(request, body)
    pieces = connection.data_to_send()[1::2]
    assert [len(piece) for piece in pieces] == [65528, 34472]
    assert all(piece.obj is body for piece in pieces if isinstance(piece, memoryview))


# Giving up.


def test_an_abort_is_sent_once_and_what_comes_late_is_discarded() -> None:
    connection = ClientProtocol()
    first, second = begin(connection, 2)
    kinds = [record.kind for record in records.read_records(sent(connection))]
    assert kinds == [BEGIN_REQUEST, PARAMS] * 2
    connection.abort(first)
    connection.abort(first)
    assert first.sending is Sending.ABORTED
    connection.send_stdin(first, b"late")
    assert records.read_records(sent(connection)) == [Record(ABORT_REQUEST, 1, b"")]
    stderr = records.stream(records.STDERR, 1, b"oh")
    late = stdout(1, b"late") + stdout(2, b"own") + stderr + end_request(1, 5)
    assert said(connection.receive_data(late)) == [
        ("StdoutReceived", 2, b"own"),
        ("RequestEnded", 1, (5, 0)),
    ]
    assert connection.requests == {2: second}


def test_an_abort_in_the_middle_of_a_record_discards_the_rest_of_it() -> None:
    connection = ClientProtocol()
    (request,) = begin(connection, 1)
    data = stdout(1, b"0123456789")
    assert said(connection.receive_data(data[:12])) == [("StdoutReceived", 1, b"0123")]
    connection.abort(request)
    assert connection.receive_data(data[12:]) == []
    assert said(connection.receive_data(end_request(1))) == [("RequestEnded", 1, (0, 0))]


def test_rules_hold_for_a_request_that_was_given_up_too() -> None:
    connection = ClientProtocol()
    (request,) = begin(connection, 1)
    connection.abort(request)
    connection.receive_data(stdout(1, b"x"))
    with pytest.raises(RemoteProtocolError, match="the stream has ended"):
        connection.receive_data(stdout(1, b"y"))


def test_the_end_of_the_connection() -> None:
    connection = ClientProtocol()
    requests = begin(connection, 3)
    connection.receive_data(end_request(2))
    left = connection.receive_eof()
    assert left == [requests[0], requests[2]]
    assert all(request.receiving is Receiving.ENDED for request in requests)
    assert not connection.requests
    connection.send_stdin(left[0], b"x")
    assert sent(connection) == b""
    assert connection.receive_eof() == []


def test_large_pieces_are_views_of_what_was_received() -> None:
    connection = ClientProtocol()
    begin(connection, 1)
    received = stdout(1, bytes(50_000), end=False)
    (event,) = connection.receive_data(received)
    assert isinstance(event, StdoutReceived)
    assert isinstance(event.data, memoryview)
    assert event.data.obj is received
