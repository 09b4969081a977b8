"""Test records of a web server: cut, padded and interleaved."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from support.fcgi import records
from support.fcgi.records import END_REQUEST, GET_VALUES_RESULT, Answer, Record
from support.fcgi.server_protocols import (
    ALL_ROLES,
    VALUES,
    begun,
    receive,
    said,
    sent,
    server_protocol,
)

from vsgi_fcgi.exceptions import RemoteProtocolError
from vsgi_fcgi.protocol import Inbound, Outbound, RoleRefused, StdinReceived

PARAMS = {"REQUEST_METHOD": "POST", "HTTP_X": "y" * 300}


def test_a_full_record_with_full_padding() -> None:
    connection = server_protocol()
    body = bytes(range(256)) * 255 + bytes(255)
    assert len(body) == 65535
    events = connection.receive_data(
        records.begin(1)
        + records.record(records.PARAMS, 1, padding=b"\x01" * 255)
        + records.record(records.STDIN, 1, body, padding=b"\x01" * 255, reserved=255)
        + records.stdin(1)
    )
    assert said(events) == [
        ("RequestStarted", 1, []),
        ("StdinReceived", 1, body),
        ("StdinEnded", 1, None),
    ]


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 255, 16383, 16384, 16385, 65000])
def test_reads_of_any_size(size: int) -> None:
    connection = server_protocol()
    body = bytes(range(251)) * 300
    stream = (
        records.begin(1)
        + records.params(1, PARAMS, size=5)
        + records.record(records.STDIN, 1, body[:65535], padding=b"\x01\x05\x00" * 80)
        + records.stdin(1, body[65535:], size=6000)
    )
    events = []
    for at in range(0, len(stream), size):
        events += connection.receive_data(stream[at : at + size])
    assert said(events) == [
        ("RequestStarted", 1, list(PARAMS.items())),
        ("StdinReceived", 1, body),
        ("StdinEnded", 1, None),
    ]


def test_a_body_is_handed_over_as_it_comes_and_not_kept() -> None:
    connection = server_protocol()
    request = begun(connection, records.begin(1) + records.params(1))
    record = records.record(records.STDIN, 1, b"x" * 60000, padding=bytes(9))
    for at in range(0, 60000, 100):
        events = connection.receive_data(record[8 * (at > 0) + at : 108 + at])
        assert said(events) == [("StdinReceived", 1, b"x" * 100)]
        assert request.received == at + 100
    assert connection.receive_data(record[60008:]) == []


@pytest.mark.parametrize("size", [*range(1, 40), 8191, 32776, 65536, 262144])
def test_reads_into_one_buffer(size: int) -> None:
    """Two bodies in turn, with padding, and a question between two records of one body."""
    connection = server_protocol()
    bodies = {1: bytes(range(251)) * 3, 2: hashlib.shake_128(b"2").digest(900)}
    if size > 100:
        bodies = {id: body * 300 for id, body in bodies.items()}
    length = 32768 if size > 100 else 100
    stream = b"".join(records.begin(id) + records.params(id) for id in bodies)
    for at in range(0, 300_000 if size > 100 else 900, length):
        for id, body in bodies.items():
            if part := body[at : at + length]:
                stream += records.record(records.STDIN, id, part, padding=bytes(at % 7))
            if part and id == 1:
                rest = body[at + length : at + length + 5]
                stream += records.get_values("FCGI_MAX_REQS") if rest else b""
    stream += records.stdin(1) + records.stdin(2)
    events = []
    for at in range(0, len(stream), size):
        events += receive(connection, stream[at : at + size])
    for id, body in bodies.items():
        assert said(event for event in events if event.request.id == id) == [
            ("RequestStarted", id, []),
            ("StdinReceived", id, body),
            ("StdinEnded", id, None),
        ]
    assert not connection.mid_record


def test_a_body_is_passed_on_as_views_of_the_buffer() -> None:
    connection = server_protocol()
    connection.receive_data(records.begin(1) + records.params(1))
    body = records.stdin(1, b"x" * 90_000, size=30_000, end=False)
    connection.receive_data(body[:5000])
    buffer = memoryview(bytearray(body[5000:]))
    events = connection.receive_data(buffer)
    pieces = [event.data for event in events if isinstance(event, StdinReceived)]
    assert [len(piece) for piece in pieces] == [25_008, 30_000, 30_000]
    assert {type(piece) for piece in pieces} == {memoryview}
    assert all(memoryview(piece).obj is buffer.obj for piece in pieces)
    assert connection.left == 0


def test_a_large_piece_of_a_body_is_not_copied() -> None:
    connection = server_protocol()
    connection.receive_data(records.begin(1) + records.params(1))
    read = records.record(records.STDIN, 1, b"x" * 30000)
    (event,) = connection.receive_data(read)
    assert isinstance(event, StdinReceived)
    assert isinstance(event.data, memoryview)
    assert event.data.obj is read


@pytest.mark.parametrize("position", ["first", "last", "resumed"])
def test_a_large_piece_keeps_at_most_twice_its_size_alive(position: str) -> None:
    connection = server_protocol()
    connection.receive_data(records.begin(1) + records.params(1))
    record = records.record(records.STDIN, 1, b"x" * 20_000)
    ignored = records.record(records.STDIN, 9, bytes(40_000))
    if position == "first":
        read = record + ignored
    elif position == "last":
        read = ignored + record[:-1]
    else:
        assert connection.receive_data(record[:8]) == []
        read = record[8:] + ignored
    (event,) = connection.receive_data(read)
    assert isinstance(event, StdinReceived)
    assert type(event.data) is bytes


def test_the_end_of_a_piece_is_not_the_end_of_the_stream() -> None:
    """A read may stop between a record's header and its content: no content is no empty record."""
    connection = server_protocol()
    connection.receive_data(records.begin(1) + records.params(1))
    record = records.record(records.STDIN, 1, b"abc", padding=b"\x00")
    assert connection.receive_data(record[:8]) == []
    assert said(connection.receive_data(record[8:11])) == [("StdinReceived", 1, b"abc")]
    assert connection.receive_data(record[11:]) == []
    assert said(connection.receive_data(records.stdin(1))) == [("StdinEnded", 1, None)]


def test_one_pair_over_a_hundred_records() -> None:
    connection = server_protocol()
    value = "v" * 90
    events = connection.receive_data(records.begin(1) + records.params(1, {"N": value}, size=1))
    assert said(events) == [("RequestStarted", 1, [("N", value)])]


def test_many_interleaved_requests() -> None:
    connection = server_protocol()
    ids = range(1, 201)
    bodies = {id: bytes((id,)) * (3 * id) for id in ids}
    streams = [
        [
            records.begin(id),
            records.params(id, {"ID": str(id)}, size=2, end=False),
            records.params(id),
            *(
                records.stdin(id, bodies[id][at : at + id], end=False)
                for at in range(0, 3 * id, id)
            ),
            records.stdin(id),
        ]
        for id in ids
    ]
    events = connection.receive_data(b"".join(itertools.chain(*zip(*streams, strict=True))))
    assert set(connection.requests) == set(ids)
    for id in ids:
        assert said(event for event in events if event.request.id == id) == [
            ("RequestStarted", id, [("ID", str(id))]),
            ("StdinReceived", id, bodies[id]),
            ("StdinEnded", id, None),
        ]
        assert connection.requests[id].inbound is Inbound.ENDED


def test_requests_say_what_the_web_server_asked_for() -> None:
    connection = server_protocol(roles=ALL_ROLES)
    connection.receive_data(
        records.begin(1, keep_conn=False) + records.begin(9, records.AUTHORIZER)
    )
    assert [(r.id, r.role, r.keep_conn) for r in connection.requests.values()] == [
        (1, records.RESPONDER, False),
        (9, records.AUTHORIZER, True),
    ]


@pytest.mark.parametrize(("flags", "keep_conn"), [(0, False), (1, True), (254, False), (255, True)])
def test_only_one_bit_of_the_flags_has_a_meaning(flags: int, keep_conn: bool) -> None:
    connection = server_protocol()
    body = bytes((0, records.RESPONDER, flags)) + bytes(5)
    request = begun(connection, records.record(records.BEGIN_REQUEST, 1, body))
    assert request.keep_conn is keep_conn


# Management records.


def test_values_are_answered_as_far_as_known_and_asked() -> None:
    connection = server_protocol()
    connection.receive_data(records.get_values("FCGI_MPXS_CONNS", "FCGI_WHAT", "FCGI_MAX_REQS"))
    (answer,) = records.read_records(sent(connection))
    asked = {name: VALUES[name] for name in ("FCGI_MPXS_CONNS", "FCGI_MAX_REQS")}
    assert answer[:3] == (GET_VALUES_RESULT, 0, records.pairs(asked))


def test_values_asked_in_vain_get_an_empty_answer() -> None:
    connection = server_protocol()
    connection.receive_data(records.get_values() + records.get_values("", "fcgi_max_reqs"))
    empty = Record(GET_VALUES_RESULT, 0, b"")
    assert records.read_records(sent(connection)) == [empty, empty]


def test_a_value_asked_for_twice_is_answered_once() -> None:
    connection = server_protocol()
    connection.receive_data(records.get_values("FCGI_MAX_REQS", "FCGI_MAX_REQS"))
    (answer,) = records.read_records(sent(connection))
    assert answer.content == records.pairs({"FCGI_MAX_REQS": "50"})


def test_management_records_are_answered_between_the_records_of_a_request() -> None:
    connection = server_protocol()
    question = records.get_values("FCGI_MAX_CONNS")
    first, second = records.begin(1), records.params(1, PARAMS)
    connection.receive_data(question + first + question + second + question)
    assert len(records.read_records(sent(connection))) == 3
    assert list(connection.requests) == [1]


# Roles.


def test_an_authorizer_is_complete_with_its_params() -> None:
    connection = server_protocol(roles=ALL_ROLES)
    request = begun(connection, records.begin(1, records.AUTHORIZER) + records.params(1))
    assert request.inbound is Inbound.ENDED
    with pytest.raises(RemoteProtocolError, match=r"STDIN record .* authorizer has no STDIN"):
        connection.receive_data(records.stdin(1, b"x"))


def test_a_filter_reads_stdin_and_then_data() -> None:
    connection = server_protocol(roles=ALL_ROLES)
    request = begun(connection, records.begin(1, records.FILTER) + records.params(1))
    states = [request.inbound]
    for piece in (records.stdin(1, b"in"), records.data(1, b"file")):
        connection.receive_data(piece)
        states.append(request.inbound)
    assert states == [Inbound.STDIN, Inbound.DATA, Inbound.ENDED]


def test_a_filter_gets_no_data_before_stdin_has_ended() -> None:
    connection = server_protocol(roles=ALL_ROLES)
    connection.receive_data(records.begin(1, records.FILTER) + records.params(1))
    with pytest.raises(RemoteProtocolError, match=r"DATA record .* STDIN has not ended"):
        connection.receive_data(records.data(1, b"x", end=False))


@pytest.mark.parametrize(
    "late",
    [
        records.stdin(1, b"x"),
        records.data(1, b"x"),
        records.params(1, PARAMS),
    ],
)
def test_a_filter_gets_nothing_after_data_has_ended(late: bytes) -> None:
    connection = server_protocol(roles=ALL_ROLES)
    begin = records.begin(1, records.FILTER)
    connection.receive_data(begin + records.params(1) + records.stdin(1) + records.data(1))
    with pytest.raises(RemoteProtocolError, match=r"record \(id 1"):
        connection.receive_data(late)


# Records that say nothing.

_STREAM_TYPES = [records.PARAMS, records.STDIN, records.STDOUT, records.STDERR, records.DATA]


@pytest.mark.parametrize("role", [records.RESPONDER, records.AUTHORIZER, records.FILTER])
def test_an_empty_record_out_of_place_costs_nothing(role: int) -> None:
    """Between any two records of a request, for it, for no request and for the connection."""
    steps = [records.begin(1, role), records.params(1, PARAMS, end=False), records.params(1)]
    ends = {0: records.PARAMS}
    if role != records.AUTHORIZER:
        ends[len(steps)] = records.STDIN
        steps += [records.stdin(1, b"body", end=False), records.stdin(1)]
    if role == records.FILTER:
        ends[len(steps)] = records.DATA
        steps += [records.data(1, b"file", end=False), records.data(1)]
    expected = said(server_protocol(roles=ALL_ROLES).receive_data(b"".join(steps)))
    next_said = said(server_protocol().receive_data(records.request(3)))
    for place in range(len(steps) + 1):
        # The stream that is under way would end.
        current = ends[max(start for start in ends if start <= place)]
        in_its_stream = place not in (0, len(steps))
        for kind in _STREAM_TYPES:
            for id in (0, 1, 2):
                if id == 1 and kind == current and in_its_stream:
                    continue
                stream = [*steps[:place], records.record(kind, id), *steps[place:]]
                connection = server_protocol(roles=ALL_ROLES)
                events = connection.receive_data(b"".join(stream) + records.request(3))
                assert said(events) == [*expected, *next_said]
                assert sent(connection) == b""


@pytest.mark.parametrize("role", [records.RESPONDER, records.AUTHORIZER])
@pytest.mark.parametrize("place", [1, 2, 3])
def test_data_of_a_request_that_has_no_file_is_ignored(role: int, place: int) -> None:
    """As libfcgi, php-fpm, Go, flup and uWSGI do."""
    steps = [records.begin(1, role), records.params(1, PARAMS)]
    if role == records.RESPONDER:
        steps.append(records.stdin(1, b"body"))
    expected = said(server_protocol(roles=ALL_ROLES).receive_data(b"".join(steps)))
    steps.insert(place, records.data(1, b"x" * 70000))
    connection = server_protocol(roles=ALL_ROLES)
    assert said(connection.receive_data(b"".join(steps))) == expected


def test_the_end_of_data_does_not_end_a_discarded_request_early() -> None:
    connection = server_protocol()
    connection.receive_data(records.begin(1, keep_conn=False) + records.params(1, PARAMS))
    (request,) = connection.requests.values()
    connection.end_request(request)
    connection.receive_data(records.data(1, b"x"))
    assert not connection.finished
    connection.receive_data(records.stdin(1, b"rest"))
    assert connection.finished


@pytest.mark.parametrize("role", [0, records.AUTHORIZER, records.FILTER, 4, 65535])
def test_a_role_that_is_not_served_is_refused_and_its_input_ignored(role: int) -> None:
    connection = server_protocol()
    (event,) = connection.receive_data(records.begin(7, role))
    assert isinstance(event, RoleRefused)
    assert event.request.role == role
    # Without a status lighttpd would take it for an authorizer's 200.
    stdout = b"Status: 500 Internal Server Error\r\n\r\n" if role == records.AUTHORIZER else b""
    expected = Answer(7, stdout, b"", 0, records.UNKNOWN_ROLE)
    assert records.read_answers(sent(connection)) == [expected]
    assert not connection.requests
    streams = records.params(7, PARAMS) + records.stdin(7, b"x") + records.data(7, b"x")
    assert connection.receive_data(streams) == []
    assert not connection.closing


# The end of requests and of the connection.


def test_an_abort_is_answered_at_once() -> None:
    connection = server_protocol()
    neighbour = begun(connection, records.request(2, PARAMS))
    request = begun(connection, records.begin(1) + records.params(1, PARAMS, end=False))
    (event,) = connection.receive_data(records.abort(1))
    assert event.request is request
    assert records.read_answers(sent(connection)) == [Answer(1, b"", b"", 0, 0)]
    assert list(connection.requests.values()) == [neighbour]
    assert neighbour.outbound is Outbound.OPEN
    assert connection.params_held == 0


def test_an_abort_in_every_state_ends_the_request() -> None:
    begin, params = records.begin(1, records.FILTER), records.params(1, PARAMS)
    stream = [begin, params[:-8], params[-8:], records.stdin(1, b"x"), records.data(1, b"x")]
    for count in range(1, len(stream) + 1):
        connection = server_protocol(roles=ALL_ROLES)
        request = begun(connection, b"".join(stream[:count]))
        assert said(connection.receive_data(records.abort(1))) == [("RequestAborted", 1, None)]
        assert [answer.id for answer in records.read_answers(sent(connection))] == [1]
        assert request.outbound is Outbound.ENDED
        complete = count == len(stream)
        assert request.inbound is (Inbound.ENDED if complete else Inbound.DISCARDED)
        assert not connection.requests


def test_an_abort_that_crosses_the_end_of_its_request_is_ignored() -> None:
    connection = server_protocol()
    connection.end_request(begun(connection, records.request(1)))
    sent(connection)
    assert connection.receive_data(records.abort(1)) == []
    assert not connection.unsent_size


def test_records_of_a_request_that_has_just_ended_are_ignored() -> None:
    connection = server_protocol()
    request = begun(connection, records.begin(1) + records.params(1) + records.stdin(1, end=False))
    connection.end_request(request)
    sent(connection)
    late = records.stdin(1, b"x" * 40000) + records.data(1, b"x") + records.params(1, PARAMS)
    assert connection.receive_data(late + late[:30000]) == []
    assert connection.receive_data(late[30000:] + records.abort(1)) == []
    assert not connection.requests
    assert connection.params_held == 0
    assert not connection.unsent_size


def test_nothing_is_kept_for_ids_that_never_began() -> None:
    connection = server_protocol()
    for id in range(1, 3000):
        streams = records.params(id, {"A": "b" * 99}, end=False) + records.stdin(id, b"x" * 99)
        assert connection.receive_data(streams + records.abort(id)) == []
    # The content of a record that is ignored is not gathered either.
    assert connection.receive_data(records.record(records.PARAMS, 9, bytes(65535))[:-1]) == []
    assert not connection.requests
    assert connection.params_held == 0
    assert not connection.unsent_size
    assert kept(connection) < 100


def kept(connection: object) -> int:
    """Bytes in all buffers that a connection has."""
    slots = itertools.chain(*(getattr(kind, "__slots__", ()) for kind in type(connection).__mro__))
    values = [getattr(connection, slot) for slot in slots]
    return sum(len(value) for value in values if isinstance(value, bytes | bytearray | memoryview))


def test_the_end_of_the_connection_aborts_what_is_open() -> None:
    connection = server_protocol()
    first = begun(connection, records.begin(1) + records.params(1, PARAMS, end=False))
    second = begun(connection, records.request(2))
    ended = begun(connection, records.begin(3, keep_conn=False))
    connection.end_request(ended)
    events = connection.receive_eof()
    assert said(events) == [("RequestAborted", 1, None), ("RequestAborted", 2, None)]
    assert [event.request for event in events] == [first, second]
    assert connection.finished
    assert connection.params_held == 0
    for request in (first, second, ended):
        connection.send_stdout(request, b"for nobody")
        connection.end_request(request)
    assert not connection.unsent_size


def test_the_end_of_an_idle_connection_says_nothing() -> None:
    connection = server_protocol()
    assert connection.receive_eof() == []
    assert connection.receive_eof() == []
    assert connection.finished


def test_only_what_happened_before_the_error_can_have_been_reported() -> None:
    """An error ends the connection: its requests are aborted with it, and none of them is lost."""
    connection = server_protocol()
    with pytest.raises(RemoteProtocolError):
        connection.receive_data(records.request(1) + records.record(END_REQUEST, 1, bytes(8)))
    assert said(connection.receive_eof()) == [("RequestAborted", 1, None)]
