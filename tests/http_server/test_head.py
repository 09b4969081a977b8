"""Test heads of HTTP requests: which are accepted, and which are refused with which status."""

from __future__ import annotations

from typing import Any

import pytest

from vsgi_fcgi.http.config import HTTPConfig
from vsgi_fcgi.http.head import Head, RequestError, cut_head, parse_head

CONFIG = HTTPConfig(max_http_head_bytes=2000, max_http_target_bytes=300, max_http_headers=10)
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: x\r\n"
END = b"\r\n"


def parse(data: bytes) -> tuple[Head, dict[str, Any]]:
    """Cut a head off, and parse it."""
    buffer = bytearray(data)
    head = cut_head(buffer, 0, CONFIG)
    assert head is not None, "the head is not whole"
    environ: dict[str, Any] = {}
    return parse_head(head, environ, CONFIG), environ


def parse_slowly(data: bytes) -> None:
    """Do the same with a head that comes byte by byte."""
    buffer = bytearray()
    for index in range(len(data)):
        seen = len(buffer)
        buffer += data[index : index + 1]
        head = cut_head(buffer, seen, CONFIG)
        if head is not None:
            parse_head(head, {}, CONFIG)
            return


def target(text: bytes, method: bytes = b"GET") -> bytes:
    return method + b" " + text + b" HTTP/1.1\r\nHost: x\r\n\r\n"


REFUSED = {
    # Framing (RFC 9112, sections 6 and 7)
    "unknown transfer coding": (501, POST + b"Transfer-Encoding: xchunked\r\n\r\n"),
    "a coding before chunked": (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    "identity": (501, POST + b"Transfer-Encoding: identity\r\n\r\n"),
    "empty transfer coding": (400, POST + b"Transfer-Encoding:\r\n\r\n"),
    "quoted transfer coding": (501, POST + b'Transfer-Encoding: "chunked"\r\n\r\n'),
    "chunked with a parameter": (501, POST + b"Transfer-Encoding: chunked;a=b\r\n\r\n"),
    "chunked is not the last": (400, POST + b"Transfer-Encoding: chunked, identity\r\n\r\n"),
    "chunked twice": (400, POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n"),
    "two Transfer-Encodings": (
        400,
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
    ),
    "the same Transfer-Encoding twice": (400, POST + b"Transfer-Encoding: chunked\r\n" * 2 + END),
    "vertical tab before chunked": (400, POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n"),
    "chunks in HTTP/1.0": (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "length and chunks": (
        400,
        POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    "chunks and length": (
        400,
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
    ),
    "length and an unknown coding": (
        400,
        POST + b"Content-Length: 4\r\nTransfer-Encoding: x\r\n\r\n",
    ),
    "two lengths": (400, POST + b"Content-Length: 3\r\nContent-Length: 40\r\n\r\n"),
    "list of lengths": (400, POST + b"Content-Length: 5, 5\r\n\r\n"),
    "length with plus": (400, POST + b"Content-Length: +5\r\n\r\n"),
    "length with minus": (400, POST + b"Content-Length: -5\r\n\r\n"),
    "hexadecimal length": (400, POST + b"Content-Length: 0x5\r\n\r\n"),
    "length with underscore": (400, POST + b"Content-Length: 1_0\r\n\r\n"),
    "length with exponent": (400, POST + b"Content-Length: 3e1\r\n\r\n"),
    "empty length": (400, POST + b"Content-Length:\r\n\r\n"),
    "length beyond 64 bits": (400, POST + b"Content-Length: 18446744073709551621\r\n\r\n"),
    "length of 20 digits": (400, POST + b"Content-Length: 10446744073709551621\r\n\r\n"),
    # Lines and fields (sections 2.2 and 5)
    "bare LF after the request line": (400, b"GET /a HTTP/1.1\nHost: x\r\n\r\n"),
    "bare LF after a field": (400, GET + b"A: 1\nB: 2\r\n\r\n"),
    "bare LF only": (400, b"GET /a HTTP/1.1\nHost: x\n\n"),
    "bare LF at the end": (400, GET + b"\n"),
    "bare CR in a value": (400, GET + b"A: 1\rB: 2\r\n\r\n"),
    "bare CR before CRLF": (400, GET + b"A: 1\r\r\n\r\n"),
    "bare CR in the target": (400, target(b"/a\rb")),
    "NUL in a value": (400, GET + b"A: 1\x002\r\n\r\n"),
    "NUL in a name": (400, GET + b"A\0B: 1\r\n\r\n"),
    "control character in a value": (400, GET + b"A: 1\x1b2\r\n\r\n"),
    "DEL in a value": (400, GET + b"A: 1\x7f2\r\n\r\n"),
    "folded line": (400, GET + b"A: 1\r\n 2\r\n\r\n"),
    "folded Transfer-Encoding": (400, POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n"),
    "space before the first field": (400, b"GET /a HTTP/1.1\r\n Host: x\r\n\r\n"),
    "space before the colon": (400, POST + b"Content-Length : 3\r\n\r\n"),
    "tab before the colon": (400, POST + b"Content-Length\t: 3\r\n\r\n"),
    "empty name": (400, GET + b": 1\r\n\r\n"),
    "no colon": (400, GET + b"A\r\n\r\n"),
    "parenthesis in a name": (400, GET + b"A(B: 1\r\n\r\n"),
    "name outside ASCII": (400, GET + b"A\xe9: 1\r\n\r\n"),
    # Host (section 3.2)
    "no Host": (400, b"GET /a HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, GET + b"Host: y\r\n\r\n"),
    "the same Host twice": (400, GET + b"HOST: x\r\n\r\n"),
    "two Hosts in HTTP/1.0": (400, b"GET /a HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n"),
    "Host with a space": (400, b"GET /a HTTP/1.1\r\nHost: x y\r\n\r\n"),
    "Host with a path": (400, b"GET /a HTTP/1.1\r\nHost: x/y\r\n\r\n"),
    "Host with a user": (400, b"GET /a HTTP/1.1\r\nHost: u@x\r\n\r\n"),
    "list of Hosts": (400, b"GET /a HTTP/1.1\r\nHost: x, y\r\n\r\n"),
    # The request line (section 3)
    "two spaces before the target": (400, target(b" /a")),
    "two spaces after the target": (400, target(b"/a ")),
    "tabs": (400, b"GET\t/a\tHTTP/1.1\r\nHost: x\r\n\r\n"),
    "space in the target": (400, target(b"/a b")),
    "space after the version": (400, b"GET /a HTTP/1.1 \r\nHost: x\r\n\r\n"),
    "space before the method": (400, b" " + target(b"/a")),
    "HTTP/0.9": (400, b"GET /a\r\n\r\n"),
    "lower case": (400, b"GET /a http/1.1\r\nHost: x\r\n\r\n"),
    "minor version of two digits": (400, b"GET /a HTTP/1.10\r\nHost: x\r\n\r\n"),
    "another protocol": (400, b"OPTIONS /a RTSP/1.0\r\nHost: x\r\n\r\n"),
    "invalid method": (400, target(b"/a", b"G(T")),
    "control character in the target": (400, target(b"/\x01")),
    "DEL in the target": (400, target(b"/\x7f")),
    "fragment": (400, target(b"/a#b")),
    "target without a slash": (400, target(b"a")),
    "asterisk for GET": (400, target(b"*")),
    "another scheme": (400, target(b"ftp://y/a")),
    "no host in the target": (400, target(b"http:///a")),
    "user in the target": (400, target(b"http://u@y/a")),
    "CONNECT": (501, target(b"y:1", b"CONNECT")),
    "the preface of HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/2.0": (505, b"GET /a HTTP/2.0\r\nHost: x\r\n\r\n"),
    "HTTP/0.9 by name": (505, b"GET /a HTTP/0.9\r\nHost: x\r\n\r\n"),
    # Limits
    "bare LF before an unknown transfer coding": (
        400,
        b"POST /a HTTP/1.1\r\n\nTransfer-Encoding: x\r\n\r\n",
    ),
    "head too long, and a bare LF after it": (431, GET + b"A: " + b"x" * 1980 + b"\r\n\r\na\nb"),
    "head too long, and a bare LF beyond the maximum": (
        431,
        GET + b"A: " + b"x" * 1980 + b"\n" + b"B: c\r\n\r\n",
    ),
    "not a method, and too long": (400, b"\x16" + b"x" * 400 + b"\r\n\r\n"),
    "too many fields": (431, GET + b"A: 1\r\n" * 10 + END),
    "head too long": (431, GET + b"A: " + b"x" * 1980 + b"\r\n\r\n"),
    "target too long": (414, target(b"/" * 301)),
}


@pytest.mark.parametrize(("status", "data"), REFUSED.values(), ids=REFUSED)
def test_refused(status: int, data: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        parse(data)
    assert caught.value.status == status


@pytest.mark.parametrize(("status", "data"), REFUSED.values(), ids=REFUSED)
def test_refused_however_it_comes(status: int, data: bytes) -> None:
    """Byte by byte, the same is refused, with the same status."""
    with pytest.raises(RequestError) as caught:
        parse_slowly(data)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (400, b"\x16\x03\x01\x02\x00"),
        (400, b"GET /a HTTP/1.1\n"),
        (400, b"GET /a\r\n"),
        (400, GET + b"A: 1\n"),
        (505, b"PRI * HTTP/2.0\r\n"),
        (414, b"GET /" + b"x" * 400),
        (431, GET + b"A: " + b"x" * 2000),
    ],
)
def test_refused_before_its_end(status: int, data: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        cut_head(bytearray(data), 0, CONFIG)
    assert caught.value.status == status


@pytest.mark.parametrize("data", [b"\r", b"\r\n", b"GE", GET, GET + b"\r", GET + b"A"])
def test_not_refused_before_its_end(data: bytes) -> None:
    assert cut_head(bytearray(data), 0, CONFIG) is None


def test_what_follows_stays() -> None:
    buffer = bytearray(b"\r\n\r\n" + GET + END + b"rest")
    assert cut_head(buffer, 0, CONFIG) == GET + END
    assert buffer == b"rest"


def test_the_environ() -> None:
    head, environ = parse(
        b"PATCH /a%20%C3%A9//b?c=%20&d HTTP/1.1\r\nhost:x:80\r\nContent-Type: a/b\r\n"
        b"Content-Length:  007 \r\nX-One: a\r\nx-one:\tb \r\nCookie: a=1\r\ncookie: b=2\r\n"
        b"X_One: evil\r\nX-High: \xe9\r\n\r\n"
    )
    assert environ == {
        "REQUEST_METHOD": "PATCH",
        "PATH_INFO": "/a \xc3\xa9//b",
        "QUERY_STRING": "c=%20&d",
        "REQUEST_URI": "/a%20%C3%A9//b?c=%20&d",
        "RAW_URI": "/a%20%C3%A9//b?c=%20&d",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": "a/b",
        "CONTENT_LENGTH": "7",
        "HTTP_HOST": "x:80",
        "HTTP_X_ONE": "a, b",
        "HTTP_COOKIE": "a=1; b=2",
        "HTTP_X_HIGH": "\xe9",
    }
    assert head == Head("PATCH", "/a%20%C3%A9//b?c=%20&d", 1, 7, False, True, False)


@pytest.mark.parametrize(
    ("text", "path", "query", "uri", "host"),
    [
        (b"http://y:1/a?b", "/a", "b", "/a?b", "y:1"),
        (b"HTTP://y", "/", "", "/", "y"),
        (b"https://[::1]?b", "/", "b", "/?b", "[::1]"),
        (b"//y/a", "//y/a", "", "//y/a", "x"),
        (b"/a?b?c", "/a", "b?c", "/a?b?c", "x"),
        (b"/\xc3\xa9", "/\xc3\xa9", "", "/\xc3\xa9", "x"),
    ],
)
def test_targets(text: bytes, path: str, query: str, uri: str, host: str) -> None:
    _, environ = parse(target(text))
    assert environ["PATH_INFO"] == path
    assert environ["QUERY_STRING"] == query
    assert environ["REQUEST_URI"] == uri
    assert environ["HTTP_HOST"] == host


def test_the_asterisk() -> None:
    _, environ = parse(target(b"*", b"OPTIONS"))
    assert (environ["PATH_INFO"], environ["REQUEST_URI"]) == ("", "*")


@pytest.mark.parametrize("host", [b"x.example:8000", b"[::1]:80", b"", b"a_b", b"xn--a"])
def test_hosts(host: bytes) -> None:
    _, environ = parse(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert environ["HTTP_HOST"] == host.decode()


def test_any_method_is_passed_on() -> None:
    assert parse(target(b"/", b"FROB-1"))[0].method == "FROB-1"


@pytest.mark.parametrize(
    ("line", "field", "kept"),
    [
        (b"HTTP/1.1", b"", True),
        (b"HTTP/1.1", b"Connection: x, Close\r\n", False),
        (b"HTTP/1.1", b"Connection: keep-alive\r\n", True),
        (b"HTTP/1.2", b"", True),
        (b"HTTP/1.0", b"", False),
        (b"HTTP/1.0", b"Connection: Keep-Alive\r\n", True),
        (b"HTTP/1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
def test_keep_alive(line: bytes, field: bytes, kept: bool) -> None:
    head, environ = parse(b"GET / " + line + b"\r\nHost: x\r\n" + field + END)
    assert head.keep_alive is kept
    assert environ["SERVER_PROTOCOL"] == ("HTTP/1.0" if line == b"HTTP/1.0" else "HTTP/1.1")


@pytest.mark.parametrize(
    ("fields", "length", "chunked"),
    [
        (b"", 0, False),
        (b"Content-Length: 3\r\n", 3, False),
        (b"Transfer-Encoding: Chunked\r\n", 0, True),
        (b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n", 3, False),
        (b"Connection: Upgrade\r\nUpgrade: x\r\nTransfer-Encoding: chunked\r\n", 0, True),
    ],
)
def test_framing(fields: bytes, length: int, chunked: bool) -> None:
    head, _ = parse(POST + fields + END)
    assert (head.length, head.chunked, head.keep_alive) == (length, chunked, True)


@pytest.mark.parametrize(("line", "expected"), [(b"HTTP/1.1", True), (b"HTTP/1.0", False)])
def test_expect(line: bytes, expected: bool) -> None:
    data = b"POST / " + line + b"\r\nHost: x\r\nContent-Length: 1\r\nExpect: 100-Continue\r\n\r\n"
    assert parse(data)[0].expects_continue is expected
