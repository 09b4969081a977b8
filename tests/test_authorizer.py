"""The headers by which an authorizer gives variables to the web server."""

from __future__ import annotations

from typing import Any

import pytest

from vsgi_fcgi.authorizer import variables
from vsgi_fcgi.exceptions import ResponseError
from vsgi_fcgi.wsgi.headers import encode_header_block


def test_variables_are_headers() -> None:
    headers = variables({"REMOTE_USER": "j\xc3\xb6 k", "_x1": ""})
    assert headers == [("Variable-REMOTE_USER", "j\xc3\xb6 k"), ("Variable-_x1", "")]
    block, _ = encode_header_block("200 OK", [("Cache-Control", "no-store"), *headers])
    assert b"\r\nVariable-REMOTE_USER: j\xc3\xb6 k\r\n" in block


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"": "x"}, "'' is not the name of a variable"),
        ({"REMOTE-USER": "x"}, "'REMOTE-USER' is not the name of a variable"),
        ({"A B": "x"}, "'A B' is not the name of a variable"),
        ({"1A": "x"}, "'1A' is not the name of a variable"),
        ({"A\n": "x"}, "is not the name of a variable"),
        ({"\xc4": "x"}, "is not the name of a variable"),
        ({b"A": "x"}, "b'A' is not the name of a variable"),
        ({"A": 1}, "the variable A must be str, not int"),
        ({"A": "a\r\nB: c"}, r"the variable A holds '\r', which no header can"),
        ({"A": "a\0"}, r"the variable A holds '\x00', which no header can"),
        ({"A": "a\x7f"}, r"the variable A holds '\x7f', which no header can"),
        ({"A": " a"}, "the variable A begins or ends with a space: ' a'"),
        ({"A": "a "}, "the variable A begins or ends with a space: 'a '"),
        ({"A": "\u20ac"}, "the variable A holds '\u20ac', which no header can"),
    ],
    ids=ascii,
)
def test_what_would_not_arrive_as_it_is(values: dict[Any, Any], reason: str) -> None:
    with pytest.raises(ResponseError) as caught:
        variables(values)
    assert reason in str(caught.value)
