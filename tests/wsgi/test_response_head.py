"""Test reading the header block of a CGI response, cut at any place."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsgi_fcgi.exceptions import ResponseError
from vsgi_fcgi.wsgi.response import encode_header_block
from vsgi_fcgi.wsgi.response_head import (
    InterimFilter,
    ResponseHead,
    ResponseHeadReader,
    parse_response_head,
)

LIMIT = 100


def read(*pieces: bytes, limit: int = LIMIT) -> tuple[ResponseHead, bytes]:
    """Feed pieces; the last one must complete the head."""
    reader = ResponseHeadReader(limit)
    for piece in pieces[:-1]:
        assert reader.feed(piece) is None
    found = reader.feed(pieces[-1])
    assert found is not None
    return found


def facts(head: ResponseHead) -> tuple[int, str, list[tuple[str, str]], int | None]:
    return head.status, head.reason, head.headers, head.length


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (b"A: b", (200, "OK", [("A", "b")], None)),
        (b"Status: 404 Not Here\r\nA: b", (404, "Not Here", [("A", "b")], None)),
        (b"status:404", (404, "Not Found", [], None)),
        (b"Status: 599", (599, "Unknown", [], None)),
        (b"Status: 200\t OK", (200, "OK", [], None)),
        (b"Location: /x", (302, "Found", [("Location", "/x")], None)),
        (b"Status: 201\nLOCATION: /x", (201, "Created", [("LOCATION", "/x")], None)),
        (b"Location: /x\r\nStatus: 201 Made", (201, "Made", [("Location", "/x")], None)),
        (b"Content-Length: 12", (200, "OK", [("Content-Length", "12")], 12)),
        (b"Content-Length: 12 , 12\t", (200, "OK", [("Content-Length", "12")], 12)),
        (b"Status: 204\nContent-Length: 12\nA: b", (204, "No Content", [("A", "b")], None)),
        (b"Content-Length: 12\nStatus: 205", (205, "Reset Content", [], None)),
        (
            b"Status: 304\nContent-Length: 12",
            (304, "Not Modified", [("Content-Length", "12")], 12),
        ),
        (b"Status: 404\nStatus: 404 Not Here", (404, "Not Here", [], None)),
        (
            b"Content-Length: 12\r\ncontent-length: 12",
            (200, "OK", [("Content-Length", "12")], 12),
        ),
        (
            b"X:  a b\t \r\nX:c\nEmpty:",
            (200, "OK", [("X", "a b"), ("X", "c"), ("Empty", "")], None),
        ),
        (b"A: caf\xe9:x", (200, "OK", [("A", "caf\xe9:x")], None)),
        (
            b"Connection: close\r\nTransfer-Encoding: chunked\r\nKeep-Alive: 1\r\nA: b",
            (200, "OK", [("A", "b")], None),
        ),
    ],
)
def test_header_blocks(
    block: bytes, expected: tuple[int, str, list[tuple[str, str]], int | None]
) -> None:
    assert facts(parse_response_head(block)) == expected


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (b"<html>", "not a header: '<html>'"),
        (b"A: b\nno colon", "not a header: 'no colon'"),
        (b": no name", "not a header"),
        (b"A b: c", "not a header"),
        (b"A: b\n folded", "not a header: ' folded'"),
        (b"HTTP/1.1 200 OK", "not a header"),
        (b"A: b\rc", "the header A of the response contains CR or NUL"),
        (b"A: b\0", "contains CR or NUL"),
        (b"Status: OK", "the invalid status 'OK'"),
        (b"Status: 99", "the invalid status '99'"),
        (b"Status: 2000", "the invalid status '2000'"),
        (b"Status: 020", "the invalid status '020'"),
        (b"Status:", "the invalid status ''"),
        (b"Content-Length: -1", "the invalid Content-Length '-1'"),
        (b"Content-Length: 1 2", "the invalid Content-Length '1 2'"),
        (b"Content-Length:", "the invalid Content-Length ''"),
        (b"Content-Length: 0x10", "the invalid Content-Length"),
        (b"Content-Length: 012", "the invalid Content-Length '012'"),
        (b"Content-Length: 1, 2", "the invalid Content-Length '1, 2'"),
        (b"Status: 200\nStatus: 404", "two statuses, 200 and 404"),
        (b"Content-Length: \xb2", "the invalid Content-Length"),
        (b"Content-Length: " + b"9" * 5000, "the invalid Content-Length '999"),
        (b"Content-Length: 1\nContent-Length: 2", "two Content-Lengths, 1 and 2"),
    ],
)
def test_what_is_no_header_block(block: bytes, message: str) -> None:
    with pytest.raises(ResponseError) as raised:
        parse_response_head(block)
    assert message in str(raised.value)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\n\r\n", b"\r\n\n"])
def test_every_end_of_a_block_cut_anywhere(end: bytes) -> None:
    whole = b"Status: 201 Made\r\nA: b" + end + b"\r\n\r\nbody"
    for cut in range(1, len(whole)):
        reader = ResponseHeadReader(LIMIT)
        found = reader.feed(whole[:cut])
        if found is None:
            found = reader.feed(memoryview(whole)[cut:])
            assert found is not None
            assert found[1] == b"\r\n\r\nbody"
        else:
            assert found[1] == whole[cut - len(found[1]) : cut]
        assert facts(found[0]) == (201, "Made", [("A", "b")], None)


def test_byte_by_byte() -> None:
    reader = ResponseHeadReader(LIMIT)
    block = b"A: b\r\nC: d\r\n\r\n"
    results = [reader.feed(bytes((value,))) for value in block]
    assert results[:-1] == [None] * (len(block) - 1)
    assert results[-1] is not None
    assert results[-1][0].headers == [("A", "b"), ("C", "d")]


@pytest.mark.parametrize(
    "start", [b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b"\r\nbody", b"\nA: b\n\n"]
)
def test_no_headers_at_all(start: bytes) -> None:
    with pytest.raises(ResponseError):
        ResponseHeadReader(LIMIT).feed(start)


def test_a_head_of_just_the_limit_and_one_byte_more() -> None:
    name = b"A: "
    fits = name + b"b" * (LIMIT - len(name))
    assert read(fits, b"\r\n\r\nrest")[1] == b"rest"
    assert read(fits + b"\n\nrest")[1] == b"rest"
    # The end of a head does not count, however it is cut.
    assert read(fits + b"\r\n\r", b"\nrest")[1] == b"rest"
    filter = InterimFilter(LIMIT)
    assert filter.feed(fits + b"\r\n\r") is None
    assert filter.feed(b"\nrest") == fits + b"\r\n\r\nrest"
    for pieces in ([fits + b"b\r\n\r\n"], [fits, b"b"], [fits + b"\n", b"\r", b"\r"]):
        with pytest.raises(ResponseError, match="over 100 bytes"):
            read(*pieces)


def test_a_head_that_never_ends_is_refused_at_its_limit() -> None:
    reader = ResponseHeadReader(LIMIT)
    for _ in range(LIMIT // 10):
        assert reader.feed(b"A: bcdefg\n") is None
    with pytest.raises(ResponseError, match="over 100 bytes"):
        reader.feed(b"A")


INTERIM = b"Status: 103 Early Hints\r\nLink: </a.css>\r\n\r\n"


def test_interim_answers_are_skipped_cut_anywhere() -> None:
    """An upstream may send 103 in a header block of its own."""
    whole = INTERIM + b"Status: 102\n\nStatus: 201 Made\r\nA: b\r\n\r\nbody"
    for cut in range(1, len(whole)):
        reader = ResponseHeadReader(LIMIT)
        found = reader.feed(whole[:cut]) or reader.feed(whole[cut:])
        assert found is not None
        assert facts(found[0]) == (201, "Made", [("A", "b")], None)
        assert b"body".startswith(found[1])


def test_interim_answers_count_for_the_limit() -> None:
    reader = ResponseHeadReader(LIMIT)
    assert reader.feed(INTERIM) is None
    assert reader.feed(INTERIM) is None
    with pytest.raises(ResponseError, match="over 100 bytes"):
        reader.feed(INTERIM)


def test_a_switch_of_protocols_is_refused() -> None:
    with pytest.raises(ResponseError, match="switches protocols"):
        ResponseHeadReader(LIMIT).feed(b"Status: 101\r\nUpgrade: x\r\n\r\n")


@pytest.mark.parametrize(
    ("status", "has_body"), [(100, False), (200, True), (204, False), (205, False), (304, False)]
)
def test_which_statuses_have_a_body(status: int, has_body: bool) -> None:
    assert parse_response_head(b"Status: %d" % status).has_body is has_body


VALUE = st.text(st.characters(min_codepoint=33, max_codepoint=255, blacklist_characters="\x7f"))


@settings(max_examples=100, deadline=None)
@given(
    st.integers(200, 599),
    st.lists(st.tuples(st.from_regex(r"X-[A-Za-z0-9-]{1,9}", fullmatch=True), VALUE), max_size=6),
    st.binary(max_size=30),
    st.data(),
)
def test_what_the_server_writes_is_what_the_client_reads(
    status: int, headers: list[tuple[str, str]], body: bytes, data: st.DataObject
) -> None:
    block, _ = encode_header_block(f"{status} As it is", headers)
    whole = block + body
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    reader = ResponseHeadReader(10_000)
    found, rest = None, b""
    for start, end in pairwise([0, *cuts, len(whole)]):
        piece = whole[start:end]
        if found is not None:
            rest += piece
            continue
        answer = reader.feed(piece)
        if answer is not None:
            found, rest = answer
    assert found is not None
    assert facts(found) == (status, "As it is", headers, None)
    assert rest == body


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_head_or_an_error(junk: bytes) -> None:
    reader = ResponseHeadReader(LIMIT)
    try:
        found = reader.feed(junk + b"\n\n")
    except ResponseError:
        return
    assert found is not None
    assert 100 <= found[0].status <= 999
    assert all("\n" not in value and "\r" not in value for _, value in found[0].headers)
