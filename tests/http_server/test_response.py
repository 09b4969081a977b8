"""Test responses: from the values of an app to the bytes for the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vsgi_fcgi.exceptions import ResponseError
from vsgi_fcgi.http.head import Head
from vsgi_fcgi.http.response import Response


def respond(
    app: Callable[[Response], Any], method: str = "GET", minor: int = 1, keep: bool = True
) -> tuple[Response, bytes]:
    """Let a function answer; returns the response and all that was sent but the date."""
    sent: list[bytes] = []
    head = Head(method, "/", minor, 0, False, keep, False)
    response = Response(head, sent.append, lambda: keep)
    app(response)
    response.finish()
    lines = b"".join(sent).split(b"\r\n")
    assert any(line.startswith(b"Date: ") for line in lines)
    return response, b"\r\n".join(line for line in lines if not line.startswith(b"Date: "))


def test_a_body_whose_length_is_unknown_comes_in_chunks() -> None:
    def app(response: Response) -> None:
        write = response.start("200 OK", [("X-A", "1")])
        write(b"ab")
        write(b"")
        write(b"c" * 70000)

    _, data = respond(app)
    head = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert data == head + b"2\r\nab\r\n11170\r\n" + b"c" * 70000 + b"\r\n0\r\n\r\n"


def test_an_empty_body_has_a_length() -> None:
    _, data = respond(lambda response: response.start("200 OK", []))
    assert data == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def test_a_body_is_no_longer_than_its_length() -> None:
    def app(response: Response) -> None:
        response.start("200 OK", [("content-length", " 3 "), ("Content-Length", "3, 3")])
        response.write(b"ab")
        response.write(b"cd")
        response.write(b"e")

    _, data = respond(app)
    assert data == b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"


def test_a_body_that_is_shorter_than_its_length_is_an_error() -> None:
    with pytest.raises(ResponseError):
        respond(lambda response: response.start("200 OK", [("Content-Length", "3")])(b"ab"))


@pytest.mark.parametrize(
    ("method", "status", "length"),
    [("HEAD", "200 OK", True), ("GET", "304 Not Modified", True), ("GET", "204 None", False)],
)
def test_without_a_body(method: str, status: str, length: bool) -> None:
    def app(response: Response) -> None:
        response.start(status, [("Content-Length", "3")])(b"abc")

    _, data = respond(app, method)
    expected = b"Content-Length: 3\r\n" if length else b""
    assert data == b"HTTP/1.1 %s\r\n%s\r\n" % (status.encode(), expected)


def test_headers_of_the_connection_are_not_the_apps() -> None:
    headers = [("Connection", "x"), ("transfer-encoding", "chunked"), ("Keep-Alive", "1")]
    _, data = respond(lambda response: response.start("200", headers))
    assert data == b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("minor", "keep", "length", "expected"),
    [
        (1, True, True, None),
        (1, False, True, b"Connection: close"),
        (0, True, True, b"Connection: keep-alive"),
        (0, False, True, b"Connection: close"),
        (0, True, False, b"Connection: close"),
    ],
)
def test_the_connection(minor: int, keep: bool, length: bool, expected: bytes | None) -> None:
    def app(response: Response) -> None:
        response.start("200 OK", [("Content-Length", "2")] if length else [])(b"ab")

    response, data = respond(app, minor=minor, keep=keep)
    lines = data.split(b"\r\n")
    assert [line for line in lines if line.startswith(b"Connection")] == (
        [] if expected is None else [expected]
    )
    assert response.keep_alive is (keep and length)
    assert response.ends_by_close is not length
    assert data.endswith(b"\r\n\r\nab")


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("100 Continue", []),
        ("102 Processing", []),
        ("2000 OK", []),
        ("OK", []),
        ("200 OK\r\nX: 1", []),
        ("200 OK", [("X-A", "1\r\nX-B: 2")]),
        ("200 OK", [("X-A", "1\nX-B: 2")]),
        ("200 OK", [("X-A", "\0")]),
        ("200 OK", [("X A", "1")]),
        ("200 OK", [("", "1")]),
        ("200 OK", [("Content-Length", "+3")]),
        ("200 OK", [("Content-Length", "3"), ("Content-Length", "4")]),
        ("200 OK", [("X-A", "\u20ac")]),
    ],
)
def test_refused(status: str, headers: list[tuple[str, str]]) -> None:
    def app(response: Response) -> None:
        response.start(status, headers)
        response.write(b"x")

    sent: list[bytes] = []
    head = Head("GET", "/", 1, 0, False, True, False)
    with pytest.raises(ResponseError):
        app(Response(head, sent.append, lambda: True))
    assert sent == []


def test_an_app_may_think_better_of_it_until_the_head_is_sent() -> None:
    error = ValueError("x")

    def app(response: Response) -> None:
        response.start("200 OK", [("Content-Length", "9")])
        with pytest.raises(ResponseError):
            response.start("500 Error", [])
        response.start("500 Error", [], (ValueError, error, None))(b"ab")
        with pytest.raises(ValueError, match="x"):
            response.start("501 Error", [], (ValueError, error, None))

    _, data = respond(app)
    assert data.startswith(b"HTTP/1.1 500 Error\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")


def test_an_app_that_does_not_begin() -> None:
    with pytest.raises(ResponseError):
        respond(lambda response: response.write(b"x"))
    with pytest.raises(ResponseError):
        respond(lambda response: None)
