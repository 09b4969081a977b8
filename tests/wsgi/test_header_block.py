"""Test header blocks of apps: which are sent, and which are refused before the first byte."""

from __future__ import annotations

import enum
from http import HTTPStatus
from typing import Any

import pytest

from vsgi_fcgi.exceptions import ResponseError
from vsgi_fcgi.wsgi.response import encode_header_block, error_response


class Text(str):
    """As frameworks have them: lazy, safe, or otherwise a str and more."""

    def __str__(self) -> str:
        return "for people"

    def __format__(self, spec: str) -> str:
        return "for people"


class Name(enum.StrEnum):
    TYPE = "X-Kind"


def test_a_block_has_the_status_the_headers_and_an_empty_line() -> None:
    headers = [("Content-Type", "text/plain"), ("Set-Cookie", "a"), ("Set-Cookie", "b"), ("X", "")]
    block, length = encode_header_block("200 OK", headers)
    assert block == (
        b"Status: 200 OK\r\nContent-Type: text/plain\r\n"
        b"Set-Cookie: a\r\nSet-Cookie: b\r\nX: \r\n\r\n"
    )
    assert length is None


def test_a_block_without_headers() -> None:
    assert encode_header_block("204 No Content", []) == (b"Status: 204 No Content\r\n\r\n", None)


def test_values_are_latin_1() -> None:
    block, _ = encode_header_block("200 G\xfct", [("X", "\xff\x80")])
    assert block == b"Status: 200 G\xfct\r\nX: \xff\x80\r\n\r\n"


def test_status_is_the_last_line_where_there_is_a_location() -> None:
    """HAProxy turns a response into a 302 if Location comes later (its issue 2865)."""
    for name in ("Location", "location"):
        headers = [("X", "y"), (name, "/new"), ("Content-Length", "0")]
        block, length = encode_header_block("201 Created", headers)
        assert block == (
            f"X: y\r\n{name}: /new\r\nContent-Length: 0\r\nStatus: 201 Created\r\n\r\n".encode()
        )
        assert length == 0


# Refused.


@pytest.mark.parametrize("character", ["\r", "\n", "\0"])
@pytest.mark.parametrize("form", ["{}", "{}a", "a{}", "a{}b", "a\r{}\nb: c"])
@pytest.mark.parametrize("place", ["status", "name", "value", "content-length"])
def test_cr_lf_and_nul_are_refused(place: str, form: str, character: str) -> None:
    bad = form.format(character)
    status = f"200 {bad}" if place == "status" else "200 OK"
    headers = {
        "status": ("X", "y"),
        "name": (bad, "y"),
        "value": ("X", bad),
        "content-length": ("Content-Length", f"1{bad}"),
    }
    before = [("Content-Type", "text/plain")]
    with pytest.raises(ResponseError):
        encode_header_block(status, [*before, headers[place]])
    with pytest.raises(ResponseError):
        encode_header_block(status, [headers[place], *before])


@pytest.mark.parametrize("character", ["\r", "\n", "\0"])
def test_what_was_valid_before_makes_nothing_else_valid(character: str) -> None:
    """Names and statuses that were found valid are not looked at again."""
    encode_header_block("200 Fine", [("X-Fine", "a")])
    for status, name in [(f"200 Fine{character}", "X-Fine"), ("200 Fine", f"X-Fine{character}")]:
        with pytest.raises(ResponseError):
            encode_header_block(status, [(name, "a")])


@pytest.mark.parametrize("value", ["€", "\u0100", "\ud800"])
def test_what_is_not_latin_1_is_refused(value: str) -> None:
    with pytest.raises(ResponseError, match="not latin-1"):
        encode_header_block("200 OK", [("X", value)])
    with pytest.raises(ResponseError, match="not latin-1"):
        encode_header_block(f"200 {value}", [])


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a:", ":", "(a)", "\xe9", "a\t", "\x7f", "a\x01", "a/b", "ä€", "X "]
)
def test_names_that_are_no_tokens_are_refused(name: str) -> None:
    with pytest.raises(ResponseError, match="not a header name"):
        encode_header_block("200 OK", [(name, "v")])


@pytest.mark.parametrize("name", [b"X", None, 1, ["X"]])
def test_names_that_are_not_str_are_refused(name: Any) -> None:
    with pytest.raises(ResponseError, match="str"):
        encode_header_block("200 OK", [(name, "v")])


@pytest.mark.parametrize("name", ["X", "Content-Length"])
@pytest.mark.parametrize("value", [b"1", None, 1, ["1"]])
def test_values_that_are_not_str_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ResponseError, match="str"):
        encode_header_block("200 OK", [(name, value)])


@pytest.mark.parametrize(
    "headers",
    [None, 5, ["text"], [("X",)], [("X", "y", "z")], [None], {"Content-Type": "a"}, "Content"],
)
def test_headers_that_are_no_list_of_pairs_are_refused(headers: Any) -> None:
    with pytest.raises(ResponseError, match=r"\(str, str\) tuples|header name"):
        encode_header_block("200 OK", headers)


@pytest.mark.parametrize(
    "status",
    [
        "",
        "OK",
        "2000 OK",
        "20 OK",
        "200OK",
        " 200 OK",
        "099 OK",
        "100 Continue",
        "101 Switching Protocols",
        "102",
        "103 Early Hints",
        "199 x",
        "\xb2\xb2\xb2 x",
        "200 \x01",
        "2x0",
    ],
)
def test_statuses_that_are_none_are_refused(status: str) -> None:
    with pytest.raises(ResponseError, match="status must be like"):
        encode_header_block(status, [])


@pytest.mark.parametrize("status", [200, b"200 OK", None, ["200 OK"], HTTPStatus.OK])
def test_statuses_that_are_not_str_are_refused(status: Any) -> None:
    with pytest.raises(ResponseError, match="status must be str"):
        encode_header_block(status, [])


def test_kinds_of_str_are_str_whatever_came_before() -> None:
    for number in range(2):
        block, _ = encode_header_block(
            Text(f"20{number} Kind"), [(Text(f"X-Kind{number}"), Text("a")), (Name.TYPE, "b")]
        )
        expected = f"Status: 20{number} Kind\r\nX-Kind{number}: a\r\nX-Kind: b\r\n\r\n"
        assert block == expected.encode()
        encode_header_block(f"20{number} Kind", [(f"X-Kind{number}", "a"), ("X-Kind", "b")])


def test_a_reason_is_optional() -> None:
    assert encode_header_block("299", [])[0] == b"Status: 299\r\n\r\n"


# Dropped.


@pytest.mark.parametrize(
    "name",
    [
        "Status",
        "STATUS",
        "Connection",
        "keep-alive",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "transfer-encoding",
        "Upgrade",
    ],
)
def test_what_is_the_web_servers_business_is_dropped(name: str) -> None:
    for _ in range(2):
        block, _ = encode_header_block("200 OK", [("A", "b"), (name, "404 No"), ("C", "d")])
        assert block == b"Status: 200 OK\r\nA: b\r\nC: d\r\n\r\n"


@pytest.mark.parametrize("name", ["WWW-Authenticate", "Proxy-Authenticate", "X-Status", "Statuses"])
def test_what_only_looks_like_it_is_kept(name: str) -> None:
    block, _ = encode_header_block("200 OK", [(name, "v")])
    assert f"\r\n{name}: v\r\n".encode() in block


# Content-Length.


@pytest.mark.parametrize("name", ["Content-Length", "content-length", "CONTENT-LENGTH"])
@pytest.mark.parametrize(
    ("value", "length"), [("0", 0), ("17", 17), (" 17 ", 17), ("17\t", 17), ("17, 17", 17)]
)
def test_content_length_is_written_as_plain_digits(name: str, value: str, length: int) -> None:
    """A padded one breaks h2o's and Caddy's answers."""
    block = f"Status: 200 OK\r\n{name}: {length}\r\nX: y\r\n\r\n".encode()
    assert encode_header_block("200 OK", [(name, value), ("X", "y")]) == (block, length)


def test_content_length_that_is_there_twice_is_sent_once() -> None:
    headers = [("Content-Length", "3"), ("X", "y"), ("content-length", " 3")]
    block = b"Status: 200 OK\r\nContent-Length: 3\r\nX: y\r\n\r\n"
    assert encode_header_block("200 OK", headers) == (block, 3)


@pytest.mark.parametrize("status", ["204 No Content", "205 Reset Content"])
def test_content_length_is_dropped_where_there_is_no_body(status: str) -> None:
    block, length = encode_header_block(status, [("Content-Length", "3"), ("X", "y")])
    assert (block, length) == (f"Status: {status}\r\nX: y\r\n\r\n".encode(), None)


def test_content_length_of_what_was_not_modified_is_kept() -> None:
    block, length = encode_header_block("304 Not Modified", [("Content-Length", "3")])
    assert (block, length) == (b"Status: 304 Not Modified\r\nContent-Length: 3\r\n\r\n", 3)


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "-1", "+1", "1.5", "1e3", "0x10", "1_000", "1 1", "\xb2", "٣", "x"),
        *("007", "00", "1, 2", "1,", "1,,1", "9" * 20, "\xa01"),
    ],
)
def test_content_length_that_is_no_number_is_refused(value: str) -> None:
    with pytest.raises(ResponseError, match="number of bytes"):
        encode_header_block("200 OK", [("Content-Length", value)])


def test_two_content_lengths_are_refused_when_they_differ() -> None:
    with pytest.raises(ResponseError, match="Content-Length"):
        encode_header_block("200 OK", [("Content-Length", "1"), ("content-length", "2")])


def test_a_million_names_are_not_kept() -> None:
    from vsgi_fcgi.wsgi import response

    for number in range(3000):
        encode_header_block(f"200 Reason {number}", [(f"X-{number}", "a")])
    # How large a cache is shows in memory only.
    assert len(response._names) <= 1024
    assert len(response._statuses) <= 1024


# Errors of the server itself.


@pytest.mark.parametrize("status", [400, 408, 413, 431, 500, 503])
def test_an_error_page(status: int) -> None:
    head, _, body = error_response(status).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == f"Status: {status} {HTTPStatus(status).phrase}"
    assert f"Content-Length: {len(body)}" in lines
    assert "Content-Type: text/html; charset=utf-8" in lines
    assert not any(line.startswith("Retry-After") for line in lines)
    assert HTTPStatus(status).phrase.encode() in body


def test_an_error_page_that_says_when_to_come_again() -> None:
    assert b"\r\nRetry-After: 7\r\n" in error_response(503, retry_after=7)


def test_an_error_page_for_head() -> None:
    whole = error_response(413)
    head = error_response(413, head_only=True)
    assert head.endswith(b"\r\n\r\n")
    assert whole.startswith(head)
    assert len(whole) > len(head)


def test_an_error_page_with_a_message() -> None:
    assert b"<p>Too much of it.</p>" in error_response(413, "Too much of it.")
