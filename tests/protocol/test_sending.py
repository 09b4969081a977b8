"""Test the records that the server sends, the end of connections, and early responses."""

from __future__ import annotations

import pytest
from support.fcgi import records
from support.fcgi.records import END_REQUEST, STDERR, STDOUT, Answer, Record
from support.fcgi.server_protocols import begun, said, sent, server_protocol

from vsgi_fcgi.exceptions import LocalProtocolError
from vsgi_fcgi.protocol import Inbound, Outbound, ProtocolStatus
from vsgi_fcgi.protocol.constants import Buffer
from vsgi_fcgi.protocol.events import REQUEST_COST
from vsgi_fcgi.protocol.records import drop_sent, keep_rest

END = bytes(8)
"""The body of END_REQUEST for success."""


def test_an_answer_is_a_stream_and_its_end() -> None:
    connection = server_protocol()
    request = begun(connection, records.request(258))
    assert connection.send_stdout(request, b"hello") == 8 + 5
    assert connection.send_stdout(request, b"") == 0
    connection.end_request(request, app_status=7)
    assert records.read_records(sent(connection)) == [
        Record(STDOUT, 258, b"hello"),
        Record(STDOUT, 258, b""),
        Record(END_REQUEST, 258, b"\x00\x00\x00\x07\x00\x00\x00\x00"),
    ]


def test_an_answer_without_output_has_an_empty_stdout() -> None:
    connection = server_protocol()
    connection.end_request(begun(connection, records.request(1)))
    expected = [Record(STDOUT, 1, b""), Record(END_REQUEST, 1, END)]
    assert records.read_records(sent(connection)) == expected


def test_an_app_status_of_32_bits() -> None:
    connection = server_protocol()
    connection.end_request(begun(connection, records.request(1)), app_status=0xFFFFFFFF)
    assert records.read_answers(sent(connection)) == [Answer(1, b"", b"", 0xFFFFFFFF, 0)]


@pytest.mark.parametrize("status", [ProtocolStatus.CANT_MPX_CONN, ProtocolStatus.OVERLOADED])
def test_a_request_that_the_protocol_refuses(status: ProtocolStatus) -> None:
    connection = server_protocol()
    connection.end_request(begun(connection, records.request(1)), protocol_status=status)
    assert records.read_answers(sent(connection)) == [Answer(1, b"", b"", 0, int(status))]


@pytest.mark.parametrize("respond", [False, True])
@pytest.mark.parametrize("kind", [bytes, memoryview])
@pytest.mark.parametrize(
    ("size", "parts"),
    [
        (0, []),
        (1, [1]),
        (65527, [65527]),
        (65528, [65528]),
        (65529, [65528, 1]),
        (131056, [65528, 65528]),
        (200000, [65528, 65528, 65528, 3416]),
    ],
)
def test_output_is_cut_into_records_of_at_most_65528_bytes(
    size: int, parts: list[int], kind: type[bytes] | type[memoryview], respond: bool
) -> None:
    connection = server_protocol()
    request = begun(connection, records.request(1))
    data = bytes(range(250)) * (size // 250 + 1)
    data = data[:size]
    if respond:
        connection.respond(request, kind(data), app_status=1)
    else:
        assert connection.send_stdout(request, kind(data)) == size + 8 * len(parts)
        connection.end_request(request, app_status=1)
    out = sent(connection)
    found = [record for record in records.read_records(out) if record.kind == STDOUT]
    assert [len(record.content) for record in found] == [*parts, 0]
    assert records.read_answers(out) == [Answer(1, data, b"", 1, 0)]


def test_large_output_is_not_copied() -> None:
    connection = server_protocol()
    request = begun(connection, records.request(1))
    data = bytes(100000)
    connection.send_stdout(request, data)
    views = [part for part in connection.data_to_send() if isinstance(part, memoryview)]
    assert [view.obj is data for view in views] == [True, True]


def test_what_is_left_of_buffers_keeps_at_most_twice_its_size_alive() -> None:
    data = bytes(100_000)
    (rest,) = drop_sent([data], 40_000)
    assert isinstance(rest, memoryview)
    assert rest.obj is data
    assert drop_sent([data], 60_000) == [bytes(40_000)]
    assert type(drop_sent([data], 60_000)[0]) is bytes
    # Two views of one object are more together than each of them.
    halves: list[Buffer] = [memoryview(data)[:50_000], memoryview(data)[50_000:]]
    assert all(isinstance(rest, memoryview) for rest in keep_rest(halves, 0))
    assert [type(rest) for rest in keep_rest([b"head", halves[0][:40_000]], 4)] == [bytes]
    # What takes long to copy stays.
    large = bytes(10_000_000)
    assert [type(rest) for rest in drop_sent([large], 6_000_000)] == [memoryview]


def test_stderr_is_sent_whole_with_its_end() -> None:
    connection = server_protocol()
    request = begun(connection, records.request(1))
    assert connection.send_stderr(request, b"e" * 65529) == 65529 + 3 * 8
    connection.send_stdout(request, b"o")
    connection.end_request(request)
    out = sent(connection)
    assert records.read_answers(out) == [Answer(1, b"o", b"e" * 65529, 0, 0)]
    kinds = [record.kind for record in records.read_records(out)]
    assert kinds == [STDERR, STDERR, STDERR, STDOUT, STDOUT, END_REQUEST]


def test_what_is_sent_is_taken_once() -> None:
    connection = server_protocol()
    request = begun(connection, records.request(1))
    connection.send_stdout(request, b"x")
    assert sent(connection)
    assert sent(connection) == b""


# The end of an answer is the end of its id.


def test_nothing_is_sent_for_a_request_that_has_ended() -> None:
    connection = server_protocol()
    request = begun(connection, records.request(1))
    connection.end_request(request)
    sent(connection)
    assert connection.send_stdout(request, b"late") == 0
    assert connection.send_stderr(request, b"late") == 0
    connection.end_request(request)
    connection.respond(request, b"late")
    connection.break_off(request)
    assert sent(connection) == b""
    assert not connection.closing


@pytest.mark.parametrize("how", ["ended", "aborted"])
def test_output_is_dropped_by_request_though_its_id_lives_again(how: str) -> None:
    """nginx gives id 1 to the next request at once."""
    connection = server_protocol()
    old = begun(connection, records.request(1, {"N": "old"}))
    if how == "ended":
        connection.end_request(old)
    else:
        connection.receive_data(records.abort(1))
    sent(connection)
    new = begun(connection, records.request(1, {"N": "new"}))
    assert new is not old
    connection.send_stdout(old, b"of the old")
    connection.send_stderr(old, b"of the old")
    connection.end_request(old, app_status=9)
    connection.respond(old, b"of the old")
    assert connection.requests == {1: new}
    connection.send_stdout(new, b"of the new")
    connection.end_request(new)
    assert records.read_answers(sent(connection)) == [Answer(1, b"of the new", b"", 0, 0)]


def test_an_id_may_be_reused_as_soon_as_its_end_is_on_its_way() -> None:
    connection = server_protocol()
    for number in range(3000):
        request = begun(connection, records.request(1, {"N": str(number)}))
        assert request.params == {"N": str(number)}
        connection.respond(request, str(number).encode())
        assert not connection.requests
    answers = records.read_answers(sent(connection))
    assert [answer.stdout for answer in answers] == [str(n).encode() for n in range(3000)]


# The end of the connection.


def test_a_connection_that_is_kept_is_never_finished() -> None:
    connection = server_protocol()
    connection.respond(begun(connection, records.request(1)), b"x")
    assert not connection.closing
    assert not connection.finished


@pytest.mark.parametrize("respond", [False, True])
def test_a_connection_that_is_not_kept_is_finished_with_its_request(respond: bool) -> None:
    connection = server_protocol()
    request = begun(connection, records.request(1, keep_conn=False))
    assert not connection.finished
    if respond:
        connection.respond(request, b"x")
    else:
        connection.end_request(request)
    assert connection.finished


def test_a_connection_is_finished_when_its_last_request_is() -> None:
    connection = server_protocol()
    first = begun(connection, records.request(1, keep_conn=False))
    second = begun(connection, records.request(2))
    connection.end_request(first)
    assert connection.closing
    assert not connection.finished
    connection.end_request(second)
    assert connection.finished


def test_a_connection_that_is_closing_begins_nothing_more() -> None:
    connection = server_protocol()
    first = begun(connection, records.request(1, keep_conn=False))
    second = begun(connection, records.begin(2) + records.params(2))
    connection.end_request(first)
    assert connection.receive_data(records.request(3) + records.request(1)) == []
    assert connection.requests == {2: second}
    assert said(connection.receive_data(records.stdin(2))) == [("StdinEnded", 2, None)]


# Early answers.


def test_an_early_answer_without_keep_conn_waits_for_the_end_of_the_input() -> None:
    connection = server_protocol()
    start = (
        records.begin(1, keep_conn=False) + records.params(1) + records.stdin(1, b"a", end=False)
    )
    request = begun(connection, start)
    connection.discard(request)
    connection.respond(request, b"413")
    assert [answer.stdout for answer in records.read_answers(sent(connection))] == [b"413"]
    assert request.inbound is Inbound.DISCARDING
    assert connection.closing
    assert not connection.finished
    assert connection.receive_data(records.stdin(1, b"b" * 99999, end=False)) == []
    assert not connection.finished
    assert connection.receive_data(records.stdin(1)) == []
    assert connection.finished
    assert request.inbound is Inbound.DISCARDED


def test_an_answer_that_is_early_of_itself_discards_too() -> None:
    connection = server_protocol()
    request = begun(connection, records.begin(1, keep_conn=False) + records.params(1))
    connection.end_request(request)
    assert request.inbound is Inbound.DISCARDING
    assert not connection.finished
    connection.receive_data(records.stdin(1, b"x"))
    assert connection.finished


def test_an_early_answer_to_a_filter_waits_for_the_end_of_data() -> None:
    connection = server_protocol(roles={records.FILTER})
    begin = records.begin(1, records.FILTER, keep_conn=False)
    connection.end_request(begun(connection, begin + records.params(1)))
    connection.receive_data(records.stdin(1, b"x") + records.data(1, b"x", end=False))
    assert not connection.finished
    connection.receive_data(records.data(1))
    assert connection.finished


def test_an_unserved_role_without_keep_conn_waits_for_the_end_of_its_input() -> None:
    connection = server_protocol()
    connection.receive_data(records.begin(1, records.AUTHORIZER, keep_conn=False))
    assert records.read_answers(sent(connection))
    assert not connection.finished
    assert connection.receive_data(records.params(1, {"A": "b"})) == []
    assert connection.finished


def test_an_early_answer_with_keep_conn_frees_the_id_at_once() -> None:
    connection = server_protocol()
    request = begun(connection, records.begin(1) + records.params(1))
    connection.discard(request)
    connection.end_request(request)
    assert not connection.requests
    assert connection.receive_data(records.stdin(1, b"rest", end=True)) == []
    assert said(connection.receive_data(records.request(1, body=b"own"))) == [
        ("RequestStarted", 1, []),
        ("StdinReceived", 1, b"own"),
        ("StdinEnded", 1, None),
    ]


def test_input_that_ends_before_the_early_answer_leaves_the_request_open() -> None:
    connection = server_protocol()
    request = begun(connection, records.begin(1, keep_conn=False) + records.params(1))
    connection.discard(request)
    assert connection.receive_data(records.stdin(1, b"x")) == []
    assert connection.requests == {1: request}
    connection.respond(request, b"x")
    assert connection.finished


def test_to_discard_again_what_has_ended_by_now_waits_for_nothing() -> None:
    connection = server_protocol()
    request = begun(connection, records.begin(1, keep_conn=False) + records.params(1))
    connection.discard(request)
    connection.receive_data(records.stdin(1))
    connection.discard(request)
    connection.end_request(request)
    assert connection.finished


def test_discarding_can_be_given_up() -> None:
    connection = server_protocol()
    early = begun(connection, records.begin(1, keep_conn=False) + records.params(1))
    running = begun(connection, records.begin(2) + records.params(2))
    connection.end_request(early)
    connection.give_up_discarding()
    assert early.inbound is Inbound.DISCARDED
    assert connection.requests == {2: running}
    assert running.inbound is Inbound.STDIN
    assert connection.receive_data(records.stdin(1, b"late")) == []
    connection.end_request(running)
    assert connection.finished


def test_an_abort_ends_discarding() -> None:
    connection = server_protocol()
    request = begun(connection, records.begin(1, keep_conn=False) + records.params(1))
    connection.end_request(request)
    sent(connection)
    assert connection.receive_data(records.abort(1)) == []
    assert connection.finished
    assert not connection.unsent_size


@pytest.mark.parametrize("keep_conn", [False, True])
@pytest.mark.parametrize("discard", [False, True])
def test_params_of_a_request_answered_early_are_let_go(keep_conn: bool, discard: bool) -> None:
    """As when nothing more of them comes for too long (408)."""
    connection = server_protocol()
    start = records.begin(1, keep_conn=keep_conn) + records.params(1, {"A": "b"}, end=False)
    request = begun(connection, start)
    assert connection.params_held == REQUEST_COST + 4
    if discard:
        connection.discard(request)
    connection.respond(request, b"408")
    assert connection.params_held == 0
    assert len(request.block) == 0
    connection.receive_data(records.params(1, {"C": "d"}, end=False))
    assert connection.params_held == 0


# Broken answers.


def test_a_broken_answer_has_no_end() -> None:
    connection = server_protocol()
    request = begun(connection, records.request(1))
    connection.send_stdout(request, b"half")
    connection.break_off(request)
    assert records.read_records(sent(connection)) == [Record(STDOUT, 1, b"half")]
    assert connection.finished
    assert request.outbound is Outbound.ENDED
    assert connection.receive_data(records.stdin(1, b"x") + records.request(1)) == []


def test_an_answer_is_not_broken_off_beside_others() -> None:
    connection = server_protocol()
    first = begun(connection, records.request(1))
    second = begun(connection, records.request(2))
    with pytest.raises(LocalProtocolError, match="other requests"):
        connection.break_off(first)
    assert first.outbound is Outbound.OPEN
    # Nor later: more requests may be on their way.
    connection.end_request(second)
    with pytest.raises(LocalProtocolError, match="other requests"):
        connection.break_off(first)


def test_an_answer_is_not_broken_off_for_who_asked_for_values() -> None:
    connection = server_protocol()
    connection.receive_data(records.get_values("FCGI_MPXS_CONNS"))
    request = begun(connection, records.request(1))
    with pytest.raises(LocalProtocolError, match="other requests"):
        connection.break_off(request)


def test_a_broken_answer_may_end_with_an_invalid_header() -> None:
    connection = server_protocol()
    request = begun(connection, records.request(1))
    connection.break_off(request, invalid_record=True)
    assert sent(connection) == bytes(8)
    assert connection.finished


def test_a_broken_answer_lets_go_of_params() -> None:
    connection = server_protocol()
    request = begun(connection, records.begin(1) + records.params(1, {"A": "b"}, end=False))
    connection.break_off(request)
    assert connection.params_held == 0
