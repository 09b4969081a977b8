"""Test that recordings show no secrets, wherever records are cut."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fcgi import records

from vsgi_fcgi.protocol.records import decode_pairs
from vsgi_fcgi.recording import IN, OUT
from vsgi_fcgi.recording.records import Record, cut, hide_secrets

SECRET = "tHe-SeCrEt"

PARAMS = {
    "REQUEST_METHOD": "POST",
    "REQUEST_URI": f"/path?token={SECRET}",
    "QUERY_STRING": f"token={SECRET}",
    "HTTP_COOKIE": f"session={SECRET}",
    "HTTP_AUTHORIZATION": f"Bearer {SECRET}",
    "HTTP_PROXY_AUTHORIZATION": f"Basic {SECRET}",
    "HTTP_X_API_KEY": SECRET,
    "HTTP_REFERER": f"https://example.org/?{SECRET}",
    "SSL_CLIENT_CERT": SECRET * 30,
    "DATABASE_PASSWORD": SECRET,
    "REMOTE_USER": SECRET,
    SECRET: "x",
    "HTTP_HOST": "example.org",
}

HEAD = (
    b"Status: 200 OK\r\nSet-Cookie: session=tHe-SeCrEt\r\nContent-Type: text/plain\r\n"
    b"Location: /?tHe-SeCrEt\r\nX-Token: a\r\n tHe-SeCrEt\r\n\r\n"
)


def recorded(inward: bytes, outward: bytes = b"", bodies: int = 0) -> list[Record]:
    found = cut([(0.0, IN, inward, 0), (0.0, OUT, outward, 0)])
    hide_secrets(found, bodies)
    return found


def stream(kind: int, content: bytes, sizes: Iterable[int], end: bool = True) -> bytes:
    """A stream in records of the given sizes, and then in one record."""
    parts, at = [], 0
    for size in sizes:
        parts.append(records.record(kind, 1, content[at : at + size]) if size else b"")
        at += size
    parts.append(records.record(kind, 1, content[at:]) if content[at:] else b"")
    return b"".join(parts) + (records.record(kind, 1) if end else b"")


def contents(found: Iterable[Record], kind: int) -> bytes:
    return b"".join(each.content for each in found if each.kind == kind)


@given(sizes=st.lists(st.integers(1, 60), max_size=40))
def test_params_are_hidden_wherever_they_are_cut(sizes: list[int]) -> None:
    block = records.pairs(PARAMS)
    found = recorded(records.begin(1) + stream(records.PARAMS, block, sizes))
    shown = contents(found, records.PARAMS)
    assert SECRET.encode() not in shown
    assert len(shown) == len(block)
    params, _ = decode_pairs(shown, 100)
    assert params["REQUEST_URI"] == "/path?" + "*" * len(f"token={SECRET}")
    assert (params["REQUEST_METHOD"], params["HTTP_HOST"]) == ("POST", "example.org")
    assert params["HTTP_COOKIE"] == "*" * len(PARAMS["HTTP_COOKIE"])
    assert params["*" * len(SECRET)] == "*"


@given(sizes=st.lists(st.integers(1, 60), max_size=40), kept=st.integers(0, 1000))
def test_params_that_have_not_ended_are_hidden(sizes: list[int], kept: int) -> None:
    data = records.begin(1) + stream(records.PARAMS, records.pairs(PARAMS), sizes)
    found = recorded(data[: 16 + kept])
    if SECRET.encode() not in data[: 16 + kept]:
        return
    assert SECRET.encode() not in contents(found, records.PARAMS)


@pytest.mark.parametrize(
    "block",
    [
        # A name that is too long, so that the value is a part of the next name.
        b"\x20\x03REQUEST_METHODGET\x0b\x0aHTTP_COOKIEtHe-SeCrEt",
        b"\x09\x40HTTP_HOSTexample.org\x0b\x0aHTTP_COOKIEtHe-SeCrEt",
        b"\x09\x0bHTTP_HOSTexample.org\xff\xff\xff\xff\x0aHTTP_COOKIEtHe-SeCrEt",
        b"\x09\x0bHTTP_HOSTexample.org\x0b\x0aHTTP_COOKIEtHe-SeCrEt\x01",
    ],
)
def test_malformed_params_are_hidden(block: bytes) -> None:
    found = recorded(records.begin(1) + stream(records.PARAMS, block, []))
    assert SECRET.encode() not in contents(found, records.PARAMS)


@pytest.mark.parametrize("before", [b"", records.begin(1) + stream(records.PARAMS, b"", [])])
def test_params_without_their_beginning_are_hidden(before: bytes) -> None:
    block = records.pairs(PARAMS)
    found = recorded(before + stream(records.PARAMS, block, [20, 30]))
    assert not contents(found, records.PARAMS)


@given(sizes=st.lists(st.integers(1, 60), max_size=40), bodies=st.sampled_from((0, 5)))
def test_response_headers_and_bodies_are_hidden(sizes: list[int], bodies: int) -> None:
    body = b"the body" * 10
    outward = stream(records.STDOUT, HEAD + body, sizes) + stream(records.STDERR, body, [])
    inward = records.begin(1) + stream(records.STDIN, body, [])
    found = recorded(inward, outward, bodies)
    for kind in (records.STDIN, records.STDERR):
        assert contents(found, kind) == body[:bodies]
    shown = contents(found, records.STDOUT)
    assert SECRET.encode() not in shown
    if not bodies:
        assert b"the body" not in shown
    if not sizes:
        head = shown[: len(HEAD)]
        assert b"Status: 200 OK\r\nSet-Cookie:" + b"*" * 19 + b"\r\nContent-Type: text" in head
        assert head.endswith(b"X-Token:**\r\n***********\r\n\r\n")
        assert shown[len(HEAD) :] == body[:bodies]


@pytest.mark.parametrize("bodies", [0, 4096])
def test_a_response_without_its_beginning_is_hidden(bodies: int) -> None:
    """Its first record may be in the middle of the headers."""
    found = recorded(b"", stream(records.STDOUT, HEAD[20:], []), bodies)
    assert not contents(found, records.STDOUT)


@pytest.mark.parametrize("size", [1, 3])
def test_the_rest_of_headers_in_many_small_records_is_hidden(size: int) -> None:
    outward = stream(records.STDOUT, HEAD, [size] * (len(HEAD) // size))
    found = recorded(records.begin(1), outward, 4096)
    shown = contents(found, records.STDOUT)
    assert SECRET.encode() not in shown
    assert b"session" not in shown


def test_only_the_path_of_an_absolute_uri_would_be_shown() -> None:
    params = {"REQUEST_URI": f"http://user:{SECRET}@example.org/path"}
    found = recorded(records.begin(1) + records.params(1, params))
    assert decode_pairs(contents(found, records.PARAMS), 9)[0] == {
        "REQUEST_URI": "*" * len(params["REQUEST_URI"])
    }


def test_a_record_of_an_unknown_type_is_hidden() -> None:
    found = recorded(records.record(77, 0, SECRET.encode()))
    assert [(each.kind, each.length, each.content) for each in found] == [(77, 10, b"")]


@pytest.mark.parametrize(
    "outward",
    [
        b"tHe-SeCrEt\r\n\r\ntHe-SeCrEt",
        b"Content-Type: text/plain\r\n tHe-SeCrEt\r\n\r\n",
        b"Content-Type: text/plain\rSet-Cookie: tHe-SeCrEt\r\n\r\n",
        b"Content-Type: text/plain\r\nSet Cookie: tHe-SeCrEt\r\nDate: x\r\n\r\ntHe-SeCrEt",
    ],
)
def test_what_is_no_header_block_is_hidden(outward: bytes) -> None:
    found = recorded(records.begin(1), stream(records.STDOUT, outward, []), 4096)
    assert SECRET.encode() not in contents(found, records.STDOUT)


@pytest.mark.parametrize("inward", [records.begin(1), records.begin(1) * 2])
def test_a_response_after_the_end_of_a_request_is_hidden(inward: bytes) -> None:
    """Its request may have begun before the end of the one before was sent."""
    first = stream(records.STDOUT, b"Status: 200 OK\r\n\r\nbody", [])
    end = records.record(records.END_REQUEST, 1, bytes(8))
    found = recorded(inward, first + end + stream(records.STDOUT, HEAD, []), 4096)
    assert contents(found, records.STDOUT) == b"Status: 200 OK\r\n\r\nbody"
