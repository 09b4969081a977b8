from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsgi_fcgi.push.items import (
    Item,
    ItemError,
    ResponsePart,
    StreamPart,
    answer_of,
    make_item,
    read_items,
    write_items,
)


def read(**values: Any) -> Item:
    (item,) = read_items(json.dumps({"items": [{"channel": "a", **values}]}).encode(), 1000)
    return item


def stream(**values: Any) -> StreamPart | None:
    return read(formats={"http-stream": values}).stream


def response(**values: Any) -> ResponsePart | None:
    return read(formats={"http-response": values}).response


def test_streams() -> None:
    assert stream(content="é") == StreamPart("é".encode())
    assert stream(**{"content-bin": "/w==", "content-filters": []}) == StreamPart(
        b"\xff", filters=()
    )
    assert stream(action="close") == StreamPart(action="close")
    assert stream(action="hint") == StreamPart(action="hint")


def test_responses() -> None:
    assert response(body="x") == ResponsePart(body=b"x")
    assert response(
        code=404, reason="No", headers={"X-A": "b", "Grip-X": "c"}, body="é"
    ) == ResponsePart(404, "No", (("X-A", "b"),), "é".encode())
    patch = [{"op": "remove", "path": "/a"}]
    assert response(**{"body-patch": patch, "content-filters": ["var-subst"]}) == ResponsePart(
        body_patch=patch, filters=("var-subst",)
    )
    assert response(action="hint") == ResponsePart(action="hint")


def test_a_publisher_cannot_use_headers_that_web_servers_obey() -> None:
    obeyed = [
        *("X-Sendfile", "x-sendfile2", "X-LIGHTTPD-send-file", "X-Accel-Redirect"),
        *("X-Accel-Expires", "X-Reproxy-URL", "Grip-Hold"),
    ]
    headers = [[name, "/etc/passwd"] for name in obeyed]
    part = response(body="", headers=[*headers, ["X-Send", "1"], ["X-Reproxy-URLs", "2"]])
    assert part == ResponsePart(headers=(("X-Send", "1"), ("X-Reproxy-URLs", "2")))


def test_items() -> None:
    formats = {"http-stream": {"content": "x"}, "ws-message": {"content": "y"}}
    values: dict[str, Any] = {"id": "1", "prev-id": "0", "meta": {"user": "u"}, "formats": formats}
    assert read(**values) == Item("a", "1", "0", StreamPart(b"x"), None, {"user": "u"}, 1)
    assert read(**{"http-stream": {"content": "x"}}) == Item("a", stream=StreamPart(b"x"), size=1)
    assert read(formats={"carrier-pigeon": {}}) == Item("a")
    assert read_items(b'{"items": []}', 1) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is not JSON"),
        (b"\xff", "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"[]", "the body must be an object"),
        (b"{}", "'items' must be a list"),
        (b'{"items": [1]}', "an item must be an object"),
        (b'{"items": [{}]}', "'channel' of an item must be a string"),
    ],
)
def test_errors_in_the_body(body: bytes, message: str) -> None:
    with pytest.raises(ItemError, match=re.escape(message)):
        read_items(body, 1000)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "the item for 'a' has no format"),
        ({"formats": {}}, "the item for 'a' has no format"),
        ({"id": 1, "formats": {"x": 1}}, "'id' must be a string"),
        ({"channel": "a\n"}, "'channel' of an item must not have control characters"),
        ({"channel": "\ud800"}, "half of a surrogate pair"),
        ({"meta": {"a": 1}, "formats": {"x": 1}}, "'a' of 'meta' must be a string"),
        ({"formats": {"http-stream": {}}}, "neither 'content' nor 'content-bin'"),
        ({"formats": {"http-stream": {"content": 1}}}, "must be a string"),
        ({"formats": {"http-stream": {"content": "\ud800"}}}, "half of a surrogate pair"),
        ({"formats": {"http-stream": {"content-bin": "é"}}}, "is not base64"),
        (
            {"formats": {"http-stream": {"content": "x" * 1001}}},
            "more than --max-item-bytes (1000)",
        ),
        ({"formats": {"http-stream": {"action": "x"}}}, "must be send, close or hint"),
        ({"formats": {"http-stream": {"action": []}}}, "must be send, close or hint"),
        ({"formats": {"http-response": {}}}, "neither 'body', 'body-bin' nor 'body-patch'"),
        ({"formats": {"http-response": {"body": "", "code": 99}}}, "must be 200 to 999"),
        ({"formats": {"http-response": {"body": "", "headers": [1]}}}, "must be pairs"),
        (
            {"formats": {"http-response": {"body": "", "headers": {"a:": "b"}}}},
            "'a:' in 'headers' of 'http-response' is not a name of a header",
        ),
        (
            {"formats": {"http-response": {"body": "", "headers": {"a": "b\r\nc"}}}},
            "must not have control characters",
        ),
        (
            {"formats": {"http-response": {"body-patch": [{"op": "copy", "path": "/"}]}}},
            "'op' must be one of add, remove, replace, move, test",
        ),
    ],
)
def test_errors_in_an_item(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ItemError, match=re.escape(message)):
        read(**values)


_text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=5)
_filters = st.none() | st.lists(_text, max_size=2).map(tuple)
_streams = st.builds(StreamPart, st.binary(max_size=9), filters=_filters) | st.builds(
    StreamPart, action=st.sampled_from(["close", "hint"])
)
_name = st.text("abcXYZ-", min_size=1, max_size=5).map(lambda name: "X" + name)
_common: dict[str, Any] = {
    "code": st.integers(200, 999),
    "reason": _text,
    "headers": st.lists(st.tuples(_name, _text), max_size=2).map(tuple),
    "filters": _filters,
}
_patch = st.lists(
    st.fixed_dictionaries({"op": st.just("add"), "path": st.just("/a"), "value": st.integers()})
)
_responses = (
    st.builds(ResponsePart, body=st.binary(max_size=9), **_common)
    | st.builds(ResponsePart, body_patch=_patch, **_common)
    | st.builds(ResponsePart, action=st.sampled_from(["close", "hint"]))
)
_formats = st.tuples(st.none() | _streams, st.none() | _responses).filter(any)


@given(_text, _formats, st.none() | _text, st.none() | _text, st.dictionaries(_text, _text))
def test_what_is_written_is_read_again(
    channel: str,
    formats: tuple[StreamPart | None, ResponsePart | None],
    id: str | None,
    prev_id: str | None,
    meta: dict[str, str],
) -> None:
    item = make_item(
        channel,
        http_stream=formats[0],
        http_response=formats[1],
        id=id,
        prev_id=prev_id,
        meta=meta,
    )
    assert read_items(write_items([item]), item.size) == [item]


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["formats", "channel", "http-stream", "http-response", "body", "content", "headers"]
            ),
            inner,
            max_size=2,
        )
    ),
    max_leaves=5,
)


_values = st.dictionaries(st.sampled_from(["channel", "formats", "meta", "id"]), _json)


@given(st.lists(_values, max_size=2))
def test_any_json_is_read_or_an_error(items: Any) -> None:
    try:
        read_items(json.dumps({"items": items}).encode(), 1000)
    except ItemError:
        return
    assert all("channel" in item for item in items)


def test_an_item_in_other_formats_only_is_not_passed_on() -> None:
    body = b'{"items": [{"channel": "a", "formats": {"ws-message": {"content": "x"}}}]}'
    sent = [*read_items(body, 1000), Item("b", stream=StreamPart(b"x"), size=1)]
    assert read_items(write_items(sent), 1000) == sent[1:]


def test_make_item() -> None:
    item = make_item("a", http_stream="é", http_response=b"b", id="1", meta={"c": "d"})
    assert item == Item(
        "a", "1", None, StreamPart("é".encode()), ResponsePart(body=b"b"), {"c": "d"}, 3
    )
    with pytest.raises(ItemError, match="an item needs http_stream or http_response"):
        make_item("a")
    with pytest.raises(ItemError, match="'id' must be a string"):
        make_item("a", http_stream="b", id=1)  # type: ignore[arg-type]


def test_an_answer_inherits_headers() -> None:
    headers = [("Content-Type", "text/plain"), ("X-A", "1"), ("x-a", "2"), ("Content-Length", "3")]
    part = ResponsePart(headers=(("X-A", "ü"), ("X-C", "3"), ("Content-Length", "9")), body=b"b")
    assert answer_of(part, headers, b"app") == (
        "200 OK",
        [("Content-Type", "text/plain"), ("X-A", "Ã¼"), ("X-C", "3")],
        b"b",
    )
    assert answer_of(ResponsePart(404, "Gone fishing"), [], b"app") == (
        "404 Gone fishing",
        [],
        b"",
    )


def test_an_answer_patches_the_body_of_the_app() -> None:
    part = ResponsePart(body_patch=[{"op": "add", "path": "/b", "value": 2}])
    assert answer_of(part, [], b'{"c": 1}\r\n')[2] == b'{"b":2,"c":1}\r\n'
    with pytest.raises(ItemError, match="'body-patch': the body of the app's response is not"):
        answer_of(part, [], b"text")
