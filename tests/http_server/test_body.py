"""Test bodies of HTTP requests: in chunks, and as `wsgi.input`."""

from __future__ import annotations

import pytest

from vsgi_fcgi.http.body import ChunkReader, RequestBody
from vsgi_fcgi.http.head import Head, RequestError


def read(data: bytes, step: int) -> tuple[bytes, bytes]:
    """Read a body in chunks that comes in steps; returns it and what follows."""
    reader, buffer, body = ChunkReader(200), bytearray(), b""
    for start in range(0, len(data), step):
        buffer += data[start : start + step]
        while piece := reader.take(buffer, 1000):
            body += piece
    assert reader.ended, "the end has not come"
    return body, bytes(buffer)


VALID = {
    "plain": b"3\r\nabc\r\n0\r\n\r\n",
    "leading zeros": b"0003\r\nabc\r\n000\r\n\r\n",
    "extension": b'3;a="b;";c\r\nabc\r\n0;d\r\n\r\n',
    "trailers": b"3\r\nabc\r\n0\r\nContent-Length: 9\r\nX-A:\r\n\r\n",
    "two chunks": b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
}

INVALID = {
    "empty size": b"\r\nabc\r\n0\r\n\r\n",
    "0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "plus": b"+3\r\nabc\r\n0\r\n\r\n",
    "minus": b"-3\r\nabc\r\n0\r\n\r\n",
    "space before": b" 3\r\nabc\r\n0\r\n\r\n",
    "space after": b"3 \r\nabc\r\n0\r\n\r\n",
    "underscore": b"0_3\r\nabc\r\n0\r\n\r\n",
    "17 digits": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "LF after the size": b"3\nabc\r\n0\r\n\r\n",
    "CR after the size": b"3\rabc\r\n0\r\n\r\n" + b"x" * 256,
    "LF in an extension": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "CR in an extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "NUL in an extension": b"3;a\0b\r\nabc\r\n0\r\n\r\n",
    "a word without semicolon": b"3 x\r\nabc\r\n0\r\n\r\n",
    "endless extension": b"3;" + b"a" * 300 + b"\r\nabc\r\n0\r\n\r\n",
    "LF after the data": b"3\r\nabc\n0\r\n\r\n",
    "other bytes after the data": b"3\r\nabcXX0\r\n\r\n",
    "longer than its size": b"3\r\nabcd\r\n0\r\n\r\n",
    "LF after the last chunk": b"0\n\r\n",
    "LF at the end": b"0\r\n\n",
    "trailer with a space": b"0\r\nX A: 1\r\n\r\n",
    "trailer with LF": b"0\r\nX-A: 1\n\r\n",
    "trailer without colon": b"0\r\nX-A\r\n\r\n",
    "folded trailer": b"0\r\nX-A: 1\r\n 2\r\n\r\n",
    "endless trailer": b"0\r\nX-A: " + b"x" * 300,
    "endless trailers": b"0\r\n" + b"A: 1\r\n" * 50,
}


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
@pytest.mark.parametrize("data", VALID.values(), ids=VALID)
def test_valid_chunks(data: bytes, step: int) -> None:
    body, rest = read(data + b"rest", step)
    assert body == b"abc"
    assert rest == b"rest"


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize("name", INVALID)
def test_invalid_chunks(name: str, step: int) -> None:
    with pytest.raises(RequestError) as caught:
        read(INVALID[name], step)
    assert caught.value.status == (431 if name.startswith("endless trailer") else 400)


class Pieces:
    """A connection on which a body comes in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.buffer = bytearray()
        self._pieces = list(pieces)

    def receive(self, size: int) -> bytes:
        if not self._pieces:
            raise RequestError(400, "The body ended early.")
        piece = self._pieces.pop(0)
        data, rest = piece[:size], piece[size:]
        if rest:
            self._pieces.insert(0, rest)
        return data

    def interrupt(self, error: Exception) -> None:
        """Nothing waits here."""


def body_of(length: int, *pieces: bytes) -> tuple[RequestBody, list[str]]:
    """A body with a length, or in chunks if that is 0."""
    ends: list[str] = []
    head = Head("POST", "/", 1, length, not length, True, False)
    return RequestBody(Pieces(*pieces), head, 100, lambda: ends.append("end")), ends


def test_read_waits_for_as_much_as_was_asked_for() -> None:
    body, ends = body_of(7, b"ab", b"cde", b"fg")
    assert body.read(4) == b"abcd"
    assert ends == []
    assert body.read(100) == b"efg"
    assert ends == ["end"]
    assert (body.read(1), body.read(), body.readline()) == (b"", b"", b"")


def test_read1_returns_what_has_come() -> None:
    body, _ = body_of(0, b"2\r\nab\r\n", b"3\r\ncde\r\n0\r\n\r\n")
    assert [body.read1(), body.read1(), body.read1()] == [b"ab", b"cde", b""]
    assert body.left == 0


def test_lines() -> None:
    body, _ = body_of(11, b"a\nb", b"cd\n\n", b"efgh")
    assert body.readline(1) == b"a"
    assert body.readline() == b"\n"
    assert body.read(1) == b"b"
    assert list(body) == [b"cd\n", b"\n", b"efgh"]


def test_lines_until_a_hint() -> None:
    body, _ = body_of(6, b"a\nb\nc\n")
    assert body.readlines(3) == [b"a\n", b"b\n"]
    assert body.readlines() == [b"c\n"]


def test_a_body_that_breaks_off_fails_each_time() -> None:
    body, ends = body_of(9, b"abc")
    for _ in range(2):
        with pytest.raises(RequestError):
            body.read()
    assert ends == []
    assert body.failure is not None
