"""Fuzz the HTTP front: heads of requests and chunked bodies."""

from __future__ import annotations

from typing import Any

from fuzz.driver import Target
from fuzz.pieces import pieces
from vsgi_fcgi.http.body import ChunkReader
from vsgi_fcgi.http.config import HTTPConfig
from vsgi_fcgi.http.head import RequestError, cut_head, parse_head
from vsgi_fcgi.protocol.records import decode_pairs, encode_pairs
from vsgi_fcgi.wsgi.environ import environ_to_params

CONFIG = HTTPConfig(max_http_head_bytes=600, max_http_target_bytes=90, max_http_headers=6)
_TRAILER_BYTES = 100
_STATUSES = (400, 414, 431, 501, 505)


class _Connection:
    """Reads requests from one connection, as the server does."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self._bodies: list[bytearray] = []
        self._buffer = bytearray()
        self._checked = 0
        self._left = 0
        self._chunks: ChunkReader | None = None

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while self._step():
            pass
        # A body is taken out as it arrives, so only a head or a line of it may wait.
        assert len(self._buffer) <= CONFIG.max_http_head_bytes

    def _step(self) -> bool:
        """Process what is complete, and return whether there may be more."""
        if self._chunks is not None:
            piece = self._chunks.take(self._buffer, 7)
            self._bodies[-1] += piece
            if self._chunks.ended:
                self._chunks = None
            return bool(piece) or self._chunks is None
        if self._left:
            piece = bytes(self._buffer[: self._left])
            del self._buffer[: self._left]
            self._bodies[-1] += piece
            self._left -= len(piece)
            return bool(piece)
        data = cut_head(self._buffer, self._checked, CONFIG)
        if data is None:
            self._checked = len(self._buffer)
            return False
        self._checked = 0
        assert len(data) <= CONFIG.max_http_head_bytes
        environ: dict[str, Any] = {}
        head = parse_head(data, environ, CONFIG)
        assert not (head.chunked and head.length)
        _check_environ(data, environ)
        environ["head"] = repr(head)
        self.requests.append(environ)
        self._bodies.append(bytearray())
        self._left = head.length
        self._chunks = ChunkReader(_TRAILER_BYTES) if head.chunked else None
        return True

    def outcome(self) -> list[tuple[dict[str, Any], bytes]]:
        return [
            (environ, bytes(body))
            for environ, body in zip(self.requests, self._bodies, strict=True)
        ]


def _check_environ(data: bytes, environ: dict[str, Any]) -> None:
    """Check what the app gets, and that the same request can be written from it again."""
    assert not any(
        {"\r", "\n", "\0"} & set(value) for name, value in environ.items() if name != "PATH_INFO"
    ), environ
    names = [name for name in environ if name.startswith(("HTTP_", "CONTENT_"))]
    # One more for the host of an absolute target, if there is no Host header.
    assert len(names) <= CONFIG.max_http_headers + 1
    params = environ_to_params({**environ, "wsgi.url_scheme": "http"})
    assert list(decode_pairs(encode_pairs(params), 1000)[0].items()) == params
    target = environ["REQUEST_URI"]
    lines = [f"{environ['REQUEST_METHOD']} {target} {environ['SERVER_PROTOCOL']}"]
    lines += [f"{name.removeprefix('HTTP_').replace('_', '-')}: {environ[name]}" for name in names]
    again: dict[str, Any] = {}
    text = "\r\n".join([*lines, "", ""]).encode("latin-1")
    # What was joined or completed may be longer than what came.
    roomy = HTTPConfig(max_http_head_bytes=5000, max_http_target_bytes=1000)
    parse_head(text, again, roomy)
    written = {name: value.rstrip(" \t") for name, value in environ.items()}
    assert again == written, (again, written)


def _outcome(data: list[bytes]) -> tuple[object, int]:
    connection = _Connection()
    try:
        for piece in data:
            connection.feed(piece)
    except RequestError as error:
        _STATUSES.index(error.status)
        error.reason.encode("ascii")
        return connection.outcome(), error.status
    return connection.outcome(), 0


def http(data: bytes) -> object:
    """Read the requests of one connection, with their bodies.

    - Only RequestError leaves the readers.
    - Nothing is kept beyond the limits.
    - The input in pieces gives the same requests and bodies, and the same status of an error.
    - An accepted request can be passed on as params, and written and parsed again.
    - The app gets no line end and no NUL but in a decoded path.
    """
    whole, cut = _outcome([data]), _outcome(pieces(data))
    assert cut[1] == whole[1], (cut, whole)
    # A body may be cut by an error in the same read.
    assert cut == whole, (cut, whole)
    requests = whole[0]
    assert isinstance(requests, list)
    return whole[1], *(
        (environ["head"][:40], len(environ), len(body) > 0) for environ, body in requests[:4]
    )


_GET = b"GET /a?b HTTP/1.1\r\nHost: x\r\n"
_POST = b"POST / HTTP/1.1\r\nHost: x\r\n"

TARGETS = (
    Target(
        "http",
        http,
        (
            _GET + b"\r\n" + _GET + b"\r\n",
            _POST + b"Content-Length: 3\r\n\r\nabc\r\n" + _GET + b"Connection: close\r\n\r\n",
            _POST + b"Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n" + _GET,
            b"GET http://y:80/%41?c HTTP/1.0\r\nCookie: a\r\nCookie: b\r\nX_Y: z\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nExpect: 100-continue\r\n"
            b"Content-Length: 0001\r\n\r\nx",
            _GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
            _GET + b"A: " + b"x" * 560 + b"\r\n\r\n",
            b"GET /" + b"x" * 88 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        ),
        (
            b"\r\n",
            b"\n",
            b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n",
            b"Host: x\r\n",
            b"HTTP/1.0",
            b"%0a",
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"0\r\n\r\n",
            b"ffffffff",
            b"Upgrade: x\r\n",
            b"Connection: upgrade\r\n",
            b"http://y",
            b"?",
            b" ",
            b"\t",
            b": ",
            b"3\r\nabc\r\n",
            b"Content-Type: a\r\n",
            b"X-Y: 1\r\n",
            b"x" * 64,
        ),
        {
            "a bare LF before an unknown transfer coding": (
                b"POST / HTTP/1.1\r\n\nTransfer-Encoding: x\r\n\r\n"
            ),
            "a bare LF after a head that is too long": (
                _GET + b"A: " + b"x" * 600 + b"\r\n\r\na\nb"
            ),
            "a bare LF beyond the maximum": _GET + b"A: " + b"x" * 600 + b"\nB: c\r\n\r\n",
            "no method, and a line that is too long": b"\x01" + b"x" * 300 + b"\r\nHost: h\r\n\r\n",
        },
    ),
)
