"""Test the headers with which an authorizer gives variables to the web server."""

from __future__ import annotations

from typing import Any

import pytest

from vsgi_fcgi.authorizer import variables
from vsgi_fcgi.exceptions import ResponseError
from vsgi_fcgi.wsgi.response import encode_header_block


def test_variables_are_headers() -> None:
    headers = variables({"REMOTE_USER": "j\xc3\xb6 k", "_x1": ""})
    assert headers == [("Variable-REMOTE_USER", "j\xc3\xb6 k"), ("Variable-_x1", "")]
    block, _ = encode_header_block("200 OK", [("Cache-Control", "no-store"), *headers])
    assert b"\r\nVariable-REMOTE_USER: j\xc3\xb6 k\r\n" in block


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"": "x"}, "'' is not a valid variable name"),
        ({"REMOTE-USER": "x"}, "'REMOTE-USER' is not a valid variable name"),
        ({"A B": "x"}, "'A B' is not a valid variable name"),
        ({"1A": "x"}, "'1A' is not a valid variable name"),
        ({"A\n": "x"}, "is not a valid variable name"),
        ({"\xc4": "x"}, "is not a valid variable name"),
        ({b"A": "x"}, "b'A' is not a valid variable name"),
        ({"A": 1}, "variable A: must be str, not int"),
        ({"A": "a\r\nB: c"}, r"variable A: a header cannot contain '\r'"),
        ({"A": "a\0"}, r"variable A: a header cannot contain '\x00'"),
        ({"A": "a\x7f"}, r"variable A: a header cannot contain '\x7f'"),
        ({"A": " a"}, "variable A: ' a' begins or ends with a space"),
        ({"A": "a "}, "variable A: 'a ' begins or ends with a space"),
        ({"A": "\u20ac"}, "variable A: a header cannot contain '\u20ac'"),
    ],
    ids=ascii,
)
def test_what_would_not_arrive_as_it_is(values: dict[Any, Any], reason: str) -> None:
    with pytest.raises(ResponseError) as caught:
        variables(values)
    assert reason in str(caught.value)
