from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsgi_fcgi.push.instruction import (
    HeldChannel,
    Hold,
    InstructionError,
    KeepAlive,
    read_headers,
    read_instruct,
    wants_instruction,
)

Pairs = list[tuple[str, str]]


def read(*headers: tuple[str, str]) -> Hold:
    hold = read_headers("200 OK", list(headers), 20)[2]
    assert hold is not None
    return hold


def stream(*headers: tuple[str, str]) -> Hold:
    return read(("Grip-Hold", "stream"), *headers)


def instruct(document: Any, *headers: tuple[str, str]) -> tuple[str, Pairs, bytes, Hold | None]:
    pairs = [("Content-Type", "application/grip-instruct"), *headers]
    return read_instruct("200 OK", pairs, json.dumps(document).encode(), 20)


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ([], False),
        ([("Content-Type", "text/plain"), ("Content-Length", "5"), ("", "")], False),
        ([("Grip-Hold", "stream")], True),
        ([("X-A", "b"), ("gRIP-channel", "a")], True),
        ([("content-type", "Application/grip-instruct; charset=utf-8")], True),
        ([("Content-Type", "application/grip-instructions")], False),
        ([("Grippe", "x")], False),
    ],
)
def test_an_instruction_is_found(headers: Pairs, wanted: bool) -> None:
    assert wants_instruction(headers) is wanted


def test_headers_of_a_held_response() -> None:
    headers = [
        ("Content-Type", "text/plain"),
        ("Grip-Hold", "response"),
        ("Grip-Channel", "a"),
        ("Content-Length", "5"),
        ("grip-timeout", "20"),
    ]
    assert read_headers("200 OK", headers, 20) == (
        "200 OK",
        [("Content-Type", "text/plain"), ("Content-Length", "5")],
        Hold(stream=False, channels=[HeldChannel("a")], timeout=20),
    )


def test_a_stream_has_no_length() -> None:
    headers = [("Grip-Hold", "stream"), ("Content-Length", "5"), ("ETag", '"x"')]
    assert read_headers("200 OK", headers, 20) == ("200 OK", [("ETag", '"x"')], Hold(stream=True))


def test_headers_without_a_hold_are_removed() -> None:
    headers = [("Grip-Channel", "a"), ("Grip-Nothing", "b"), ("Content-Length", "5")]
    assert read_headers("200 OK", headers, 20) == ("200 OK", [("Content-Length", "5")], None)


def test_channels() -> None:
    held = stream(
        ("Grip-Channel", 'a; prev-id=1; filter=skip-self; filter="build-id", b;prev-id="x,\\"y;"'),
        ("Grip-Channel", "c=d,,"),
        ("Grip-Channel", "é".encode().decode("latin-1")),
        ("Grip-Channel", "c=d; filter=require-sub"),
        ("Grip-Link", "</next>; rel=next"),
    )
    assert held.channels == [
        HeldChannel("a", "1", ("skip-self", "build-id")),
        HeldChannel("b", 'x,"y;'),
        HeldChannel("c=d", None, ("require-sub",)),
        HeldChannel("é"),
    ]


def test_meta() -> None:
    meta = stream(
        ("Grip-Set-Meta", 'user="a, \\"b\\""; x=1, id_format=%(c)s'), ("Grip-Set-Meta", "d")
    )
    assert meta.meta == {"user": 'a, "b"', "id_format": "%(c)s", "d": ""}


@pytest.mark.parametrize(
    ("value", "seconds"), [("20", 20), ("4", 5), ("0", 5), ("55", 55), ("2147483647", 2147483647)]
)
def test_timeouts(value: str, seconds: int) -> None:
    assert read(("Grip-Hold", "response"), ("Grip-Timeout", value)).timeout == seconds


@pytest.mark.parametrize(
    ("value", "keep_alive"),
    [
        ("x", KeepAlive(b"x", 55)),
        ("x; timeout=20; mode=interval", KeepAlive(b"x", 20, True)),
        ("x, y; timeout=0; mode=idle; format=raw", KeepAlive(b"x, y", 1)),
        ("\\n\\r\\\\n\\x00\\xFf; format=cstring", KeepAlive(b"\n\r\\n\x00\xff", 55)),
        ('"q"', KeepAlive(b'"q"', 55)),
        ("OgoK; format=base64", KeepAlive(b":\n\n", 55)),
    ],
)
def test_keep_alive(value: str, keep_alive: KeepAlive) -> None:
    assert stream(("Grip-Keep-Alive", value)).keep_alive == keep_alive


def test_the_first_keep_alive_counts() -> None:
    hold = stream(("Grip-Keep-Alive", "a"), ("Grip-Keep-Alive", "b"))
    assert hold.keep_alive == KeepAlive(b"a", 55)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("304", "304 Not Modified"),
        ("404 Not here", "404 Not here"),
        ("299", "299 Undefined Reason"),
    ],
)
def test_status(value: str, status: str) -> None:
    assert read_headers("200 OK", [("Grip-Status", value)], 20) == (status, [], None)


def test_links() -> None:
    hold = stream(("Grip-Link", "</a?b=1,2;3>; rel=next, </gone>; rel=gone, </c>; rel=other"))
    assert (hold.next_uri, hold.next_timeout, hold.gone_uri) == ("/a?b=1,2;3", 120, "/gone")
    assert stream(("Grip-Link", '<n>; rel="next"; timeout=3')).next_timeout == 3


def test_a_link_without_a_hold_is_followed() -> None:
    headers = [("Grip-Link", "</next>; rel=next"), ("Content-Length", "5")]
    assert read_headers("200 OK", headers, 20) == (
        "200 OK",
        [],
        Hold(stream=True, next_uri="/next", follow=True),
    )


def test_only_exposed_headers_are_sent() -> None:
    headers = [("ETag", "1"), ("X-A", "2"), ("X-B", "3"), ("Grip-Expose-Headers", "x-a, x-b")]
    assert read_headers("200 OK", headers, 20)[1] == [("X-A", "2"), ("X-B", "3")]


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ([("Grip-Hold", "Stream")], "Grip-Hold: 'Stream' must be 'response' or 'stream'"),
        ([("Grip-Timeout", "-1")], "Grip-Timeout: '-1' is not a number of seconds"),
        ([("Grip-Timeout", "2147483648")], "is not a number of seconds"),
        ([("Grip-Timeout", "9" * 5000)], "is not a number of seconds"),
        ([("Grip-Channel", 'a; prev-id="b')], 'has an opening " without a closing one'),
        ([("Grip-Channel", "a; filter=b")], "'a' has the filter 'b'; filters are skip-self"),
        ([("Grip-Keep-Alive", "; format=raw")], "the content is empty"),
        ([("Grip-Keep-Alive", "x; mode=y")], "mode='y' must be idle or interval"),
        ([("Grip-Keep-Alive", "x; format=y")], "format='y' must be raw, cstring or base64"),
        ([("Grip-Keep-Alive", "x; timeout=y")], "Grip-Keep-Alive; timeout: 'y' is not"),
        ([("Grip-Keep-Alive", "\\t; format=cstring")], "unknown escape"),
        ([("Grip-Keep-Alive", "x\\; format=cstring")], "unknown escape"),
        ([("Grip-Keep-Alive", "?; format=base64")], "'?' is not base64"),
        ([("Grip-Keep-Alive", "\xfc; format=base64")], "'\xfc' is not base64"),
        ([("Grip-Status", "abc")], "Grip-Status: 'abc' does not begin with a status"),
        ([("Grip-Status", "101")], "does not begin with a status of 200 to 999"),
        ([("Grip-Link", "/next; rel=next")], "is not of the form <URI>; rel=next"),
        ([("Grip-Link", "<x>; rel=next; timeout=y")], "Grip-Link; timeout: 'y' is not"),
        ([("Grip-Channel", "a; prev-id=1")], "needs a Grip-Link"),
        ([("Grip-Channel", ",".join(map(str, range(21))))], "21 channels are more than"),
    ],
)
def test_errors(headers: Pairs, message: str) -> None:
    if headers[0][0] != "Grip-Hold":
        headers = [("Grip-Hold", "stream"), *headers]
    with pytest.raises(InstructionError, match=re.escape(message)):
        read_headers("200 OK", headers, 20)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["Hold", "Channel", "Timeout", "Keep-Alive", "Status", "Set-Meta", "Link", "X"]
            ),
            st.one_of(
                st.text(st.characters(max_codepoint=255), max_size=40),
                st.text(';,="\\<> aprev-id=filter:stream1', max_size=40),
            ),
        )
    )
)
def test_any_header_is_read_or_an_error(headers: Pairs) -> None:
    try:
        _, kept, _ = read_headers(
            "200 OK", [(f"Grip-{name}", value) for name, value in headers], 20
        )
    except InstructionError:
        return
    assert kept == []


def test_an_instruction_in_the_body() -> None:
    hold = {
        "mode": "stream",
        "channels": [{"name": "a", "prev-id": "1", "filters": ["var-subst"]}, {"name": "b"}],
        "keep-alive": {"content": "x", "timeout": 7},
        "meta": {"user": "u"},
    }
    response = {"code": 202, "reason": "Ok", "headers": {"X-A": "ü"}, "body": "é"}
    link = ("Grip-Link", "</next>; rel=next")
    assert instruct({"hold": hold, "response": response}, link, ("X-B", "c")) == (
        "202 Ok",
        [("X-A", "Ã¼")],
        "é".encode(),
        Hold(
            stream=True,
            channels=[HeldChannel("a", "1", ("var-subst",)), HeldChannel("b")],
            keep_alive=KeepAlive(b"x", 7),
            next_uri="/next",
            meta={"user": "u"},
        ),
    )


def test_an_instruction_in_the_body_has_defaults() -> None:
    assert instruct({"hold": {"channels": []}}) == ("200 OK", [], b"", Hold(stream=False))
    assert instruct({"response": {"code": 404, "headers": [["A", "b"]], "body-bin": "/w=="}}) == (
        "404 Not Found",
        [("A", "b")],
        b"\xff",
        None,
    )


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "the body must be an object"),
        ({}, "the body has neither 'hold' nor 'response'"),
        ({"hold": 1}, "'hold' must be an object"),
        ({"hold": {}}, "'hold' must have 'channels'"),
        ({"hold": {"channels": [{}]}}, "'name' of a channel must be a string"),
        ({"hold": {"channels": [], "mode": "x"}}, "'mode' of 'hold': 'x' must be"),
        ({"hold": {"channels": [], "timeout": "x"}}, "'timeout' of 'hold' must be a number"),
        ({"hold": {"channels": [], "timeout": -1}}, "'timeout' of 'hold' must not be -1"),
        ({"hold": {"channels": [], "timeout": True}}, "'timeout' of 'hold' must be a number"),
        ({"hold": {"channels": [], "meta": {"a": 1}}}, "'meta' must be a string"),
        ({"response": {"code": 1000}}, "'code' must be 200 to 999"),
        ({"response": {"headers": [["a"]]}}, "'headers' must be pairs"),
        ({"response": {"headers": {"a b": "c"}}}, "'a b' is not a name of a header"),
        ({"response": {"headers": {"a": "b\r\nc: d"}}}, "has a control character"),
        ({"response": {"body-bin": "?"}}, "'?' is not base64"),
        ({"response": {"body-bin": "\xfc"}}, "'\xfc' is not base64"),
        ({"hold": {"channels": [{"name": "\ud800"}]}}, "half of a surrogate pair"),
        ({"hold": {"channels": [{"name": "a", "prev-id": "\ud800"}]}}, "half of a surrogate"),
        ({"hold": {"channels": [], "meta": {"\ud800": "a"}}}, "half of a surrogate pair"),
        ({"hold": {"channels": [], "meta": {"a": "\ud800"}}}, "half of a surrogate pair"),
        ({"response": {"body": 1}}, "'body' of 'response' must be a string"),
    ],
)
def test_errors_in_the_body(document: Any, message: str) -> None:
    with pytest.raises(InstructionError, match=re.escape(message)):
        instruct(document)


def test_a_body_that_is_not_json_is_an_error() -> None:
    for body in (b"", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(InstructionError, match="the body is not JSON"):
            read_instruct("200 OK", [], body, 20)
    with pytest.raises(InstructionError, match="the status is '404 Not Found', but must be 200"):
        read_instruct("404 Not Found", [], b"{}", 20)
