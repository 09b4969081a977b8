"""Test the client's records byte by byte in both directions, for every split of reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from support.fcgi.client_protocols import Said, byte_by_byte, said, sent

from vsgi_fcgi.exceptions import RemoteProtocolError
from vsgi_fcgi.protocol import ClientEvent, ClientProtocol, Role

# version, type, id (2 bytes), content length (2 bytes), padding length, reserved; then the content
BEGIN = b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x01\x00\x00\x00\x00\x00"
PARAMS_A_IS_B = b"\x01\x04\x00\x01\x00\x04\x00\x00\x01\x01AB"
PARAMS_END = b"\x01\x04\x00\x01\x00\x00\x00\x00"
STDIN_END = b"\x01\x05\x00\x01\x00\x00\x00\x00"
DATA_END = b"\x01\x08\x00\x01\x00\x00\x00\x00"
STDOUT_END = b"\x01\x06\x00\x01\x00\x00\x00\x00"
STDERR_END = b"\x01\x07\x00\x01\x00\x00\x00\x00"
END = b"\x01\x03\x00\x01\x00\x08\x00\x00" + bytes(8)
ENDED: Said = ("RequestEnded", 1, (0, 0))
NEXT = b"\x01\x0a\x00\x00\x00\x00\x00\x00"
"""An empty GET_VALUES_RESULT: the record after those of a case."""
NEXT_SAID: Said = ("ValuesReceived", 0, {})


def whole(connection: ClientProtocol) -> None:
    connection.end_stdin(connection.begin_request(b"\x01\x01AB"))


def without_keep_conn(connection: ClientProtocol) -> None:
    connection.begin_request(b"", keep_conn=False)


def with_body(connection: ClientProtocol) -> None:
    request = connection.begin_request(b"")
    connection.send_stdin(request, b"abc")
    connection.send_stdin(request, b"")
    connection.send_stdin(request, memoryview(b"de"))
    connection.end_stdin(request)


def authorizer(connection: ClientProtocol) -> None:
    connection.begin_request(b"\x01\x01AB", Role.AUTHORIZER)


def filter_(connection: ClientProtocol) -> None:
    request = connection.begin_request(b"", Role.FILTER)
    connection.send_stdin(request, b"i")
    connection.end_stdin(request)
    connection.send_data(request, b"d")
    connection.end_data(request)


def aborted(connection: ClientProtocol) -> None:
    request = connection.begin_request(b"")
    connection.abort(request)
    connection.abort(request)
    connection.send_stdin(request, b"late")
    connection.end_stdin(request)


def two_in_turns(connection: ClientProtocol) -> None:
    first, second = connection.begin_request(b""), connection.begin_request(b"")
    connection.send_stdin(second, b"2")
    connection.end_stdin(first)
    connection.end_stdin(second)


def question(connection: ClientProtocol) -> None:
    connection.get_values(["FCGI_MPXS_CONNS"])


@pytest.mark.parametrize(
    ("do", "expected"),
    [
        (whole, BEGIN + PARAMS_A_IS_B + PARAMS_END + STDIN_END),
        (without_keep_conn, BEGIN[:10] + bytes(6) + PARAMS_END),
        (
            with_body,
            BEGIN
            + PARAMS_END
            + b"\x01\x05\x00\x01\x00\x03\x00\x00abc"
            + b"\x01\x05\x00\x01\x00\x02\x00\x00de"
            + STDIN_END,
        ),
        (authorizer, BEGIN[:9] + b"\x02" + BEGIN[10:] + PARAMS_A_IS_B + PARAMS_END),
        (
            filter_,
            BEGIN[:9]
            + b"\x03"
            + BEGIN[10:]
            + PARAMS_END
            + b"\x01\x05\x00\x01\x00\x01\x00\x00i"
            + STDIN_END
            + b"\x01\x08\x00\x01\x00\x01\x00\x00d"
            + DATA_END,
        ),
        (aborted, BEGIN + PARAMS_END + b"\x01\x02\x00\x01\x00\x00\x00\x00"),
        (
            two_in_turns,
            BEGIN
            + PARAMS_END
            + BEGIN[:3]
            + b"\x02"
            + BEGIN[4:]
            + b"\x01\x04\x00\x02\x00\x00\x00\x00"
            + b"\x01\x05\x00\x02\x00\x01\x00\x002"
            + STDIN_END
            + b"\x01\x05\x00\x02\x00\x00\x00\x00",
        ),
        (question, b"\x01\x09\x00\x00\x00\x11\x07\x00\x0f\x00FCGI_MPXS_CONNS" + bytes(7)),
    ],
)
def test_what_is_sent(do: Callable[[ClientProtocol], None], expected: bytes) -> None:
    connection = ClientProtocol()
    do(connection)
    assert sent(connection) == expected
    assert sent(connection) == b""


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        (1, [1]),
        (16384, [16384]),
        (16385, [16385]),
        (65529, [65528, 1]),
        (200_000, [65528] * 3 + [3416]),
    ],
)
def test_a_large_block_is_cut_into_records(size: int, parts: list[int]) -> None:
    connection = ClientProtocol()
    connection.begin_request(b"x" * size)
    data = sent(connection)[len(BEGIN) :]
    for part in parts:
        assert data[:8] == b"\x01\x04\x00\x01" + part.to_bytes(2, "big") + b"\x00\x00"
        data = data[8 + part :]
    assert data == PARAMS_END


@dataclass
class Case:
    name: str
    received: bytes
    said: list[Said] = field(default_factory=list)


VALID = [
    Case("an empty answer", STDOUT_END + END, [ENDED]),
    Case("an answer without the end of its stream", END, [ENDED]),
    Case(
        "two pieces",
        b"\x01\x06\x00\x01\x00\x02\x00\x00ab\x01\x06\x00\x01\x00\x01\x00\x00c" + STDOUT_END + END,
        [("StdoutReceived", 1, b"abc"), ENDED],
    ),
    Case(
        "STDERR before, between and after, and its end",
        b"\x01\x07\x00\x01\x00\x01\x00\x00e\x01\x06\x00\x01\x00\x01\x00\x00o"
        b"\x01\x07\x00\x01\x00\x01\x00\x00f"
        + STDOUT_END
        + b"\x01\x07\x00\x01\x00\x01\x00\x00g"
        + STDERR_END
        + END,
        [
            ("StderrReceived", 1, b"e"),
            ("StdoutReceived", 1, b"o"),
            ("StderrReceived", 1, b"fg"),
            ENDED,
        ],
    ),
    Case("the end of STDOUT twice, as some send it", STDOUT_END + STDOUT_END + END, [ENDED]),
    Case(
        "the ends of streams behind the end of the request",
        END + STDOUT_END + STDERR_END + STDERR_END,
        [ENDED],
    ),
    Case(
        "empty records of streams that only a web server sends, and of id 0",
        STDIN_END + PARAMS_END + DATA_END + b"\x01\x06\x00\x00\x00\x00\x00\x00" + END,
        [ENDED],
    ),
    Case(
        "junk in the padding and in every reserved byte",
        b"\x01\x06\x00\x01\x00\x02\x03\xffhi\xff\x00\x01"
        b"\x01\x06\x00\x01\x00\x00\x05\x99STDIN"
        b"\x01\x03\x00\x01\x00\x08\x02\x99\x00\x00\x01\x02\x00\xff\xff\xff??",
        [("StdoutReceived", 1, b"hi"), ("RequestEnded", 1, (258, 0))],
    ),
    Case(
        "a status that is no success",
        b"\x01\x03\x00\x01\x00\x08\x00\x00\xff\xff\xff\xff\x03\x00\x00\x00",
        [("RequestEnded", 1, (0xFFFFFFFF, 3))],
    ),
    Case(
        "values",
        b"\x01\x0a\x00\x00\x00\x12\x06\x00\x0f\x01FCGI_MPXS_CONNS1" + bytes(6),
        [("ValuesReceived", 0, {"FCGI_MPXS_CONNS": "1"})],
    ),
    Case("no values", NEXT, [NEXT_SAID]),
    Case(
        "a type that is not known there",
        b"\x01\x0b\x00\x00\x00\x08\x00\x00\x0c" + bytes(7),
        [("TypeRefused", 0, 12)],
    ),
]


@dataclass
class BadCase:
    name: str
    received: bytes
    message: str
    """What the message must hold: it names the record."""
    before: bytes = b""
    """Valid records in front."""


INVALID = [
    BadCase("version 2", b"\x02\x06\x00\x01\x00\x00\x00\x00", "version 2"),
    BadCase("STDOUT of no request", b"\x01\x06\x00\x02\x00\x01\x00\x00x", "STDOUT record (id 2, 1"),
    BadCase("STDERR of no request", b"\x01\x07\x00\x02\x00\x01\x00\x00x", "STDERR record (id 2, 1"),
    BadCase("STDOUT of id 0", b"\x01\x06\x00\x00\x00\x01\x00\x00x", "STDOUT record (id 0, 1"),
    BadCase("END of no request", END[:3] + b"\x02" + END[4:], "END_REQUEST record (id 2, 8"),
    BadCase("END twice", END, "END_REQUEST record (id 1, 8 bytes): no request", END),
    BadCase("END of 7 bytes", b"\x01\x03\x00\x01\x00\x07\x00\x00" + bytes(7), "must have 8 bytes"),
    BadCase("END of 16 bytes", b"\x01\x03\x00\x01\x00\x10\x00\x00" + bytes(16), "must have 8"),
    BadCase(
        "STDOUT after its end",
        b"\x01\x06\x00\x01\x00\x01\x00\x00x",
        "STDOUT record (id 1, 1 bytes): the stream has ended",
        STDOUT_END,
    ),
    BadCase("STDOUT after END", b"\x01\x06\x00\x01\x00\x01\x00\x00x", "no request", END),
    BadCase("BEGIN", BEGIN, "BEGIN_REQUEST record (id 1, 8 bytes): an application must not"),
    BadCase("ABORT", b"\x01\x02\x00\x01\x00\x00\x00\x00", "ABORT_REQUEST"),
    BadCase("PARAMS", PARAMS_A_IS_B, "PARAMS record (id 1"),
    BadCase("STDIN", b"\x01\x05\x00\x01\x00\x01\x00\x00x", "STDIN record (id 1"),
    BadCase("DATA", b"\x01\x08\x00\x01\x00\x01\x00\x00x", "DATA record (id 1"),
    BadCase("GET_VALUES", b"\x01\x09\x00\x00\x00\x00\x00\x00", "GET_VALUES record (id 0"),
    BadCase("type 0", b"\x01\x00\x00\x01\x00\x00\x00\x00", "type 0 record (id 1"),
    BadCase("type 12", b"\x01\x0c\x00\x00\x00\x00\x00\x00", "type 12 record (id 0"),
    BadCase("values of a request", b"\x01\x0a\x00\x01\x00\x00\x00\x00", "must have id 0"),
    BadCase("UNKNOWN_TYPE of a request", b"\x01\x0b\x00\x01\x00\x08\x00\x00" + bytes(8), "id 0"),
    BadCase("a short UNKNOWN_TYPE", b"\x01\x0b\x00\x00\x00\x01\x00\x00\x0c", "must have 8 bytes"),
    BadCase("values cut in a length", b"\x01\x0a\x00\x00\x00\x01\x00\x00\x80", "GET_VALUES_RESULT"),
    BadCase(
        "too many values",
        b"\x01\x0a\x00\x00\x00\xc3\x00\x00" + b"".join(b"\x01\x00%c" % n for n in range(65)),
        "65 params, but the limit is 64",
    ),
]


def names(case: Case | BadCase) -> str:
    return case.name


def asked() -> ClientProtocol:
    """A connection on which a request with id 1 waits for its answer."""
    connection = ClientProtocol()
    whole(connection)
    return connection


@pytest.mark.parametrize("case", VALID, ids=names)
def test_valid_records_fed_whole(case: Case) -> None:
    assert said(asked().receive_data(case.received)) == case.said


@pytest.mark.parametrize("case", VALID, ids=names)
def test_valid_records_fed_byte_by_byte(case: Case) -> None:
    assert said(byte_by_byte(asked(), case.received)) == case.said


@pytest.mark.parametrize("split", range(1, len(NEXT)))
@pytest.mark.parametrize("case", VALID, ids=names)
def test_valid_records_fed_with_the_start_of_the_next(case: Case, split: int) -> None:
    connection = asked()
    assert said(connection.receive_data(case.received + NEXT[:split])) == case.said
    assert said(connection.receive_data(NEXT[split:])) == [NEXT_SAID]


@pytest.mark.parametrize("case", INVALID, ids=names)
def test_invalid_records_fed_whole(case: BadCase) -> None:
    connection = asked()
    connection.receive_data(case.before)
    with pytest.raises(RemoteProtocolError) as raised:
        connection.receive_data(case.received)
    assert case.message in str(raised.value)


@pytest.mark.parametrize("case", INVALID, ids=names)
def test_invalid_records_fed_byte_by_byte(case: BadCase) -> None:
    connection = asked()
    byte_by_byte(connection, case.before)
    with pytest.raises(RemoteProtocolError) as raised:
        byte_by_byte(connection, case.received)
    assert case.message in str(raised.value)


@pytest.mark.parametrize("case", INVALID, ids=names)
def test_what_came_before_an_error_is_told(case: BadCase) -> None:
    """Else it would depend on how the bytes were cut whether an answer is whole."""
    connection = asked()
    events = connection.receive_data(case.before)
    again = asked()
    both: list[ClientEvent] = []
    with pytest.raises(RemoteProtocolError):
        again.receive_data(case.before + case.received + NEXT, both)
    assert said(both) == said(events)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"\x01\x01\x00\x01\xff\xff\x00\x00", "BEGIN_REQUEST record (id 1, 65535 bytes)"),
        (b"\x01\x03\x00\x01\xff\xff\x00\x00", "END_REQUEST record (id 1, 65535 bytes)"),
        (b"\x01\x06\x00\x63\x00\x63\x00\x00", "STDOUT record (id 99, 99 bytes)"),
        (b"\x01\x0b\x00\x00\xff\xff\x00\x00", "UNKNOWN_TYPE record (id 0, 65535 bytes)"),
        (b"\x01\x63\x00\x00\xff\xff\x00\x00", "type 99 record (id 0, 65535 bytes)"),
    ],
)
def test_what_no_application_may_send_is_refused_at_its_header(header: bytes, message: str) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        asked().receive_data(header)
    assert message in str(raised.value)


def test_an_http_response_is_recognised() -> None:
    with pytest.raises(RemoteProtocolError, match=r"HTTP response.*must speak FastCGI"):
        asked().receive_data(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n")
