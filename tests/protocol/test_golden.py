"""Test records byte by byte, for every split of reads."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from support.fcgi.server_protocols import Said, byte_by_byte, said, sent, server_protocol

from vsgi_fcgi.exceptions import RemoteProtocolError

# version, type, id (2 bytes), content length (2 bytes), padding length, reserved; then the content
BEGIN = b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"
BEGIN_KEEP_CONN = b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x01\x00\x00\x00\x00\x00"
BEGIN_FILTER = b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x03\x01\x00\x00\x00\x00\x00"
PARAMS_A_IS_B = b"\x01\x04\x00\x01\x00\x04\x00\x00\x01\x01AB"
PARAMS_END = b"\x01\x04\x00\x01\x00\x00\x00\x00"
STDIN_END = b"\x01\x05\x00\x01\x00\x00\x00\x00"
DATA_END = b"\x01\x08\x00\x01\x00\x00\x00\x00"
NEXT = b"\x01\x09\x00\x00\x00\x00\x00\x00"
"""A GET_VALUES that asks for nothing: the record after those of a case."""
NEXT_ANSWER = b"\x01\x0a\x00\x00\x00\x00\x00\x00"


@dataclass
class Case:
    name: str
    received: bytes
    said: list[Said] = field(default_factory=list)
    sent: bytes = b""
    roles: tuple[int, ...] = (1,)


VALID = [
    Case(
        "the smallest request",
        BEGIN + PARAMS_END + STDIN_END,
        [("RequestStarted", 1, []), ("StdinEnded", 1, None)],
    ),
    Case(
        "a request with one param and a body of three bytes",
        BEGIN_KEEP_CONN
        + PARAMS_A_IS_B
        + PARAMS_END
        + b"\x01\x05\x00\x01\x00\x03\x00\x00abc"
        + STDIN_END,
        [
            ("RequestStarted", 1, [("A", "B")]),
            ("StdinReceived", 1, b"abc"),
            ("StdinEnded", 1, None),
        ],
    ),
    Case(
        "junk in every reserved byte, in the unused flags and in the padding",
        b"\x01\x01\x00\x01\x00\x08\x03\xff"
        b"\x00\x01\xfe\xff\xff\xff\xff\xff"
        b"\xff\x01\x05"
        b"\x01\x04\x00\x01\x00\x04\x04\x99"
        b"\x01\x01AB"
        b"\x01\x01\x00\x01"
        b"\x01\x04\x00\x01\x00\x00\x08\x99"
        b"\x01\x04\x00\x01\x00\x00\x00\x00"
        b"\x01\x05\x00\x01\x00\x02\x01\x99"
        b"hi"
        b"\x00"
        b"\x01\x05\x00\x01\x00\x00\x05\x99"
        b"STDIN",
        [
            ("RequestStarted", 1, [("A", "B")]),
            ("StdinReceived", 1, b"hi"),
            ("StdinEnded", 1, None),
        ],
    ),
    Case(
        "a pair split in the middle of its four-byte length",
        BEGIN + b"\x01\x04\x00\x01\x00\x03\x00\x00"
        b"\x01\x80\x00" + b"\x01\x04\x00\x01\x00\x02\x00\x00"
        b"\x00\x80" + b"\x01\x04\x00\x01\x00\x81\x00\x00" + b"A" + b"v" * 128 + PARAMS_END,
        [("RequestStarted", 1, [("A", "v" * 128)])],
    ),
    Case(
        "lengths below 128 in the four-byte form",
        BEGIN + b"\x01\x04\x00\x01\x00\x0a\x00\x00\x80\x00\x00\x01\x80\x00\x00\x01AB" + PARAMS_END,
        [("RequestStarted", 1, [("A", "B")])],
    ),
    Case(
        "an empty value, an empty name, bytes that are no text",
        BEGIN + b"\x01\x04\x00\x01\x00\x0a\x00\x00\x01\x00A\x00\x01B\x01\x01C\xff" + PARAMS_END,
        [("RequestStarted", 1, [("A", ""), ("", "B"), ("C", "\xff")])],
    ),
    Case(
        "a repeated param",
        BEGIN + b"\x01\x04\x00\x01\x00\x0c\x00\x00\x01\x01AB\x01\x01XY\x01\x01AC" + PARAMS_END,
        [("RequestStarted", 1, [("A", "B"), ("X", "Y"), ("A", "C")])],
    ),
    Case(
        "the highest id",
        b"\x01\x01\xff\xff\x00\x08\x00\x00"
        b"\x00\x01\x01\x00\x00\x00\x00\x00"
        b"\x01\x04\xff\xff\x00\x00\x00\x00",
        [("RequestStarted", 65535, [])],
    ),
    Case(
        "an abort while the params come",
        BEGIN_KEEP_CONN + PARAMS_A_IS_B + b"\x01\x02\x00\x01\x00\x00\x00\x00",
        [("RequestAborted", 1, None)],
        b"\x01\x06\x00\x01\x00\x00\x00\x00"
        b"\x01\x03\x00\x01\x00\x08\x00\x00"
        b"\x00\x00\x00\x00\x00\x00\x00\x00",
    ),
    Case(
        "an abort of a request that is complete",
        BEGIN + PARAMS_END + STDIN_END + b"\x01\x02\x00\x01\x00\x00\x00\x00",
        [("RequestStarted", 1, []), ("StdinEnded", 1, None), ("RequestAborted", 1, None)],
        b"\x01\x06\x00\x01\x00\x00\x00\x00"
        b"\x01\x03\x00\x01\x00\x08\x00\x00"
        b"\x00\x00\x00\x00\x00\x00\x00\x00",
    ),
    Case(
        "a role that is not served",
        BEGIN_FILTER + PARAMS_A_IS_B + PARAMS_END + STDIN_END + DATA_END,
        [("RoleRefused", 1, None)],
        b"\x01\x03\x00\x01\x00\x08\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00",
    ),
    Case(
        "a role that does not exist",
        b"\x01\x01\x00\x07\x00\x08\x00\x00\x01\x01\x00\x00\x00\x00\x00\x00",
        [("RoleRefused", 7, None)],
        b"\x01\x03\x00\x07\x00\x08\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00",
    ),
    Case(
        "a filter's two streams",
        BEGIN_FILTER
        + PARAMS_END
        + b"\x01\x05\x00\x01\x00\x01\x00\x00i"
        + STDIN_END
        + b"\x01\x08\x00\x01\x00\x01\x00\x00d"
        + DATA_END,
        [
            ("RequestStarted", 1, []),
            ("StdinReceived", 1, b"i"),
            ("StdinEnded", 1, None),
            ("DataReceived", 1, b"d"),
            ("DataEnded", 1, None),
        ],
        roles=(1, 3),
    ),
    Case(
        "an authorizer, which has params alone",
        b"\x01\x01\x00\x01\x00\x08\x00\x00"
        b"\x00\x02\x01\x00\x00\x00\x00\x00" + PARAMS_A_IS_B + PARAMS_END,
        [("RequestStarted", 1, [("A", "B")])],
        roles=(2,),
    ),
    Case(
        "an authorizer with an empty STDIN, as lighttpd sends it",
        b"\x01\x01\x00\x01\x00\x08\x00\x00"
        b"\x00\x02\x00\x00\x00\x00\x00\x00" + PARAMS_END + STDIN_END,
        [("RequestStarted", 1, [])],
        roles=(2,),
    ),
    Case("STDIN of an id that never began", b"\x01\x05\x00\x63\x00\x03\x01\x00abc\x00"),
    Case("PARAMS of an id that never began", b"\x01\x04\x00\x63\x00\x04\x00\x00\x7f\x7fab"),
    Case("DATA of an id that never began", b"\x01\x08\x00\x63\x00\x01\x00\x00d"),
    Case("an abort of an id that never began", b"\x01\x02\x00\x63\x00\x00\x00\x00"),
    Case("an abort with content, which means nothing", b"\x01\x02\x00\x63\x00\x02\x01\x00xy\x00"),
    Case(
        "a question about one known value and one unknown",
        b"\x01\x09\x00\x00\x00\x19\x07\x00"
        b"\x0f\x00FCGI_MPXS_CONNS"
        b"\x06\x00FCGI_X"
        b"\x00\x00\x00\x00\x00\x00\x00",
        [],
        b"\x01\x0a\x00\x00\x00\x12\x06\x00\x0f\x01FCGI_MPXS_CONNS1\0\0\0\0\0\0",
    ),
    Case(
        "an unknown management type",
        b"\x01\x0c\x00\x00\x00\x03\x05\x00abcdefgh",
        [],
        b"\x01\x0b\x00\x00\x00\x08\x00\x00\x0c\x00\x00\x00\x00\x00\x00\x00",
    ),
    Case(
        "the lowest and the highest unknown management type",
        b"\x01\x00\x00\x00\x00\x00\x00\x00\x01\xff\x00\x00\x00\x00\x00\x00",
        [],
        b"\x01\x0b\x00\x00\x00\x08\x00\x00"
        b"\x00\x00\x00\x00\x00\x00\x00\x00"
        b"\x01\x0b\x00\x00\x00\x08\x00\x00"
        b"\xff\x00\x00\x00\x00\x00\x00\x00",
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
    BadCase("version 2", b"\x02\x01\x00\x01\x00\x08\x00\x00", "version 2"),
    BadCase("version 0", b"\x00\x01\x00\x01\x00\x08\x00\x00", "version 0"),
    BadCase(
        "a wrong version in the middle", b"\x03\x05\x00\x01\x00\x00\x00\x00", "version 3", BEGIN
    ),
    BadCase("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01", "version 22"),
    BadCase("BEGIN of id 0", b"\x01\x01\x00\x00\x00\x08\x00\x00" + BEGIN[8:], "BEGIN_REQUEST"),
    BadCase("ABORT of id 0", b"\x01\x02\x00\x00\x00\x00\x00\x00", "ABORT_REQUEST record (id 0"),
    BadCase("PARAMS of id 0", b"\x01\x04\x00\x00\x00\x02\x00\x00\x00\x00", "PARAMS record (id 0"),
    BadCase("STDIN of id 0", b"\x01\x05\x00\x00\x00\x01\x00\x00x", "STDIN record (id 0"),
    BadCase("DATA of id 0", b"\x01\x08\x00\x00\x00\x01\x00\x00x", "DATA record (id 0"),
    BadCase(
        "BEGIN with a body of 7 bytes",
        b"\x01\x01\x00\x01\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00",
        "BEGIN_REQUEST record (id 1, 7 bytes)",
    ),
    BadCase(
        "BEGIN with a body of 16 bytes",
        b"\x01\x01\x00\x01\x00\x10\x00\x00\x00\x01" + bytes(14),
        "BEGIN_REQUEST record (id 1, 16 bytes)",
    ),
    BadCase("BEGIN without a body", b"\x01\x01\x00\x01\x00\x00\x00\x00", "BEGIN_REQUEST"),
    BadCase("BEGIN on an id whose params come", BEGIN, "BEGIN_REQUEST record (id 1", BEGIN),
    BadCase(
        "BEGIN on an id whose request runs",
        BEGIN_KEEP_CONN,
        "BEGIN_REQUEST record (id 1",
        BEGIN_KEEP_CONN + PARAMS_END + STDIN_END,
    ),
    BadCase("END_REQUEST", b"\x01\x03\x00\x01\x00\x08\x00\x00" + bytes(8), "END_REQUEST", BEGIN),
    BadCase("END_REQUEST of no request", b"\x01\x03\x00\x09\x00\x08\x00\x00" + bytes(8), "END_REQ"),
    BadCase("STDOUT", b"\x01\x06\x00\x01\x00\x01\x00\x00x", "STDOUT record (id 1", BEGIN),
    BadCase("STDERR", b"\x01\x07\x00\x01\x00\x01\x00\x00x", "STDERR record (id 1", BEGIN),
    BadCase("STDOUT of id 0", b"\x01\x06\x00\x00\x00\x01\x00\x00x", "STDOUT record (id 0"),
    BadCase("GET_VALUES_RESULT", b"\x01\x0a\x00\x00\x00\x00\x00\x00", "GET_VALUES_RESULT"),
    BadCase("UNKNOWN_TYPE", b"\x01\x0b\x00\x00\x00\x08\x00\x00\x0c" + bytes(7), "UNKNOWN_TYPE"),
    BadCase(
        "GET_VALUES of a request", b"\x01\x09\x00\x01\x00\x00\x00\x00", "GET_VALUES record (id 1"
    ),
    BadCase("type 12 of a request", b"\x01\x0c\x00\x01\x00\x00\x00\x00", "type 12 record (id 1"),
    BadCase("type 0 of a request", b"\x01\x00\x00\x01\x00\x00\x00\x00", "type 0 record (id 1"),
    BadCase(
        "GET_VALUES with a length past its end",
        b"\x01\x09\x00\x00\x00\x03\x00\x00\x05\x00F",
        "GET_VALUES record (id 0, 3 bytes)",
    ),
    BadCase(
        "GET_VALUES that ends in a length",
        b"\x01\x09\x00\x00\x00\x03\x00\x00\x80\x00\x00",
        "GET_VALUES record (id 0, 3 bytes)",
    ),
    BadCase("STDIN before the params ended", b"\x01\x05\x00\x01\x00\x01\x00\x00x", "STDIN", BEGIN),
    BadCase(
        "PARAMS after their end",
        PARAMS_A_IS_B,
        "PARAMS record (id 1",
        BEGIN + PARAMS_A_IS_B + PARAMS_END,
    ),
    BadCase(
        "STDIN after its end",
        b"\x01\x05\x00\x01\x00\x01\x00\x00x",
        "STDIN record (id 1",
        BEGIN + PARAMS_END + STDIN_END,
    ),
]


def names(case: Case | BadCase) -> str:
    return case.name


@pytest.mark.parametrize("case", VALID, ids=names)
def test_valid_records_fed_whole(case: Case) -> None:
    connection = server_protocol(roles=case.roles)
    assert said(connection.receive_data(case.received)) == case.said
    assert sent(connection) == case.sent


@pytest.mark.parametrize("case", VALID, ids=names)
def test_valid_records_fed_byte_by_byte(case: Case) -> None:
    connection = server_protocol(roles=case.roles)
    assert said(byte_by_byte(connection, case.received)) == case.said
    assert sent(connection) == case.sent


@pytest.mark.parametrize("split", range(1, len(NEXT) + 1))
@pytest.mark.parametrize("case", VALID, ids=names)
def test_valid_records_fed_with_the_start_of_the_next(case: Case, split: int) -> None:
    connection = server_protocol(roles=case.roles)
    assert said(connection.receive_data(case.received + NEXT[:split])) == case.said
    assert connection.receive_data(NEXT[split:]) == []
    assert sent(connection) == case.sent + NEXT_ANSWER


@pytest.mark.parametrize("case", INVALID, ids=names)
def test_invalid_records_fed_whole(case: BadCase) -> None:
    connection = server_protocol()
    connection.receive_data(case.before)
    with pytest.raises(RemoteProtocolError) as raised:
        connection.receive_data(case.received)
    assert case.message in str(raised.value)


@pytest.mark.parametrize("case", INVALID, ids=names)
def test_invalid_records_fed_byte_by_byte(case: BadCase) -> None:
    connection = server_protocol()
    byte_by_byte(connection, case.before)
    with pytest.raises(RemoteProtocolError) as raised:
        byte_by_byte(connection, case.received)
    assert case.message in str(raised.value)


@pytest.mark.parametrize("case", INVALID, ids=names)
def test_invalid_records_fed_with_what_is_around_them(case: BadCase) -> None:
    connection = server_protocol()
    with pytest.raises(RemoteProtocolError) as raised:
        connection.receive_data(case.before + case.received + NEXT + BEGIN)
    assert case.message in str(raised.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"\x01\x01\x00\x01\xff\xff\x00\x00", "BEGIN_REQUEST record (id 1, 65535 bytes)"),
        (b"\x01\x03\x00\x01\x00\x08\x00\x00", "END_REQUEST record (id 1, 8 bytes)"),
        (b"\x01\x06\x00\x01\x00\x63\x00\x00", "STDOUT record (id 1, 99 bytes)"),
        (b"\x01\x07\x00\x01\x00\x01\x00\x00", "STDERR record (id 1, 1 bytes)"),
        (b"\x01\x04\x00\x00\x00\x01\x00\x00", "PARAMS record (id 0, 1 bytes)"),
        (b"\x01\x0b\x00\x00\x00\x08\x00\x00", "UNKNOWN_TYPE record (id 0, 8 bytes)"),
        (b"\x01\x63\x00\x01\xff\xff\x00\x00", "type 99 record (id 1, 65535 bytes)"),
    ],
)
def test_what_no_web_server_may_send_is_refused_at_its_header(header: bytes, message: str) -> None:
    """It is refused before its content arrives, which may be 64 KiB, or may never arrive."""
    with pytest.raises(RemoteProtocolError) as raised:
        server_protocol().receive_data(header)
    assert message in str(raised.value)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_an_http_request_is_recognised(method: str) -> None:
    connection = server_protocol()
    with pytest.raises(RemoteProtocolError, match=f"HTTP request.*{method}.*must speak FastCGI"):
        connection.receive_data(f"{method} /index HTTP/1.1\r\nHost: a\r\n\r\n".encode())


def test_an_http_request_is_refused_at_its_first_byte() -> None:
    with pytest.raises(RemoteProtocolError, match="version 71"):
        server_protocol().receive_data(b"G")


def test_receiving_nothing_says_nothing() -> None:
    connection = server_protocol()
    for data in (b"", BEGIN[:5], b"", BEGIN[5:12], b"", BEGIN[12:] + PARAMS_A_IS_B[:-1], b""):
        assert connection.receive_data(data) == []
    events = connection.receive_data(PARAMS_A_IS_B[-1:] + PARAMS_END)
    assert said(events) == [("RequestStarted", 1, [("A", "B")])]
