"""The head of an HTTP/1.1 request: find its end, parse it strictly, and add it to an environ.

llhttp (from the package httptools) parses the headers, and rejects those that are invalid by RFC
9112. The request line is parsed here, because llhttp accepts two spaces in it, accepts RTSP and
ICE, and rejects unregistered methods. Host, the target, and transfer codings other than chunked are
checked here as well, because llhttp does not check them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from vsgi_fcgi.http.config import HTTPConfig

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"

# A target must not contain bytes from 0x80 on, but curl does not encode them and every web server
# accepts them. They are harmless: no parser treats them as the end of a line or as a separator.
_REQUEST_LINE: Final = re.compile(rb"(%s) ([!-~\x80-\xff]+) HTTP/([0-9])\.([0-9])" % TOKEN)
_METHOD_BEGINS: Final = re.compile(TOKEN)
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_ABSOLUTE: Final = re.compile(r"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
_HOST: Final = re.compile(
    r"(?:[A-Za-z0-9\-._~%!$&'()*+,;=]*|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9\-._~]+)?\])(?::[0-9]*)?"
)
_TRANSFER_ENCODING: Final = re.compile(rb"(?im)^transfer-encoding:[ \t]*([^\r\n]*?)[ \t]*\r$")
_CONTENT_LENGTH: Final = re.compile(rb"(?im)^content-length[ \t]*:")

# The request lines that llhttp gets in place of the real one, by minor version.
_LINES: Final = (b"GET / HTTP/1.0\r\n", b"GET / HTTP/1.1\r\n")

_METHOD_BYTES: Final = 64
"""Maximum bytes of the request line in addition to the target."""

_LENGTH_DIGITS: Final = 19
"""Maximum digits of a Content-Length; `int` rejects very long numbers with an error of its own."""

_KEY_BYTES: Final = 64
_MAX_KEYS: Final = 1024
_keys: dict[bytes, str | None] = {}
"""Environ keys by header name; the size is bounded because a client may invent names."""


class RequestError(OSError):
    """An invalid request, or one over a limit: the app does not get it, and the connection ends.

    Attributes:
        status: the HTTP status for the client.
        reason: a sentence for the client and the log, without any data from the client.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(slots=True)
class Head:
    """The part of a request's head that the server itself needs.

    Attributes:
        method: the method.
        target: the request target as the client sent it; it has no control characters.
        minor: the minor version: 0 for HTTP/1.0, otherwise 1.
        length: bytes of the body; 0 for a chunked body.
        chunked: whether the body is chunked.
        keep_alive: whether the client keeps the connection open.
        expects_continue: whether the client waits for "100 Continue".
    """

    method: str
    target: str
    minor: int
    length: int
    chunked: bool
    keep_alive: bool
    expects_continue: bool


def cut_head(buffer: bytearray, checked: int, config: HTTPConfig) -> bytes | None:
    """Remove a complete head from the front of a buffer.

    Args:
        buffer: the received bytes.
        checked: the number of bytes that an earlier call has checked.
        config: the limits.

    Returns:
        The head including its empty line, or None if it is incomplete.

    Raises:
        RequestError: the buffer cannot become a valid head.
    """
    while buffer.startswith(b"\r\n"):
        # Some clients send an empty line after a body (RFC 9112, section 2.2).
        del buffer[:2]
    end = buffer.find(b"\r\n\r\n", max(0, checked - 3)) + 4
    if end > 3 and end <= config.max_http_head_bytes:
        head = bytes(buffer[:end])
        del buffer[:end]
        return head
    _check_beginning(buffer, checked, end if end > 3 else len(buffer), config)
    return None


def _check_beginning(buffer: bytearray, checked: int, end: int, config: HTTPConfig) -> None:
    """Check a head that is incomplete or too long, and ends at ``end`` so far."""
    line_end = buffer.find(b"\n")
    if line_end < 0:
        if buffer and buffer != b"\r" and _METHOD_BEGINS.match(buffer) is None:
            # TLS, for example.
            raise RequestError(400, "This is not an HTTP request.")
        if len(buffer) > config.max_http_target_bytes + _METHOD_BYTES:
            raise RequestError(414, "The request line is too long.")
    elif checked <= line_end:
        _parse_request_line(bytes(buffer[: line_end + 1]), config)
    # What comes after the maximum makes no difference, so that reads of any size get one status.
    end = min(end, config.max_http_head_bytes)
    if _BARE_LF.search(buffer, max(0, checked - 1), end) is not None:
        raise RequestError(400, "A line of the head ends without CR.")
    if len(buffer) > config.max_http_head_bytes:
        raise RequestError(431, "The headers are too long.")


def _parse_request_line(line: bytes, config: HTTPConfig) -> tuple[str, str, int]:
    """Parse a request line with its CRLF into the method, the target and the minor version."""
    if len(line) > config.max_http_target_bytes + _METHOD_BYTES and _METHOD_BEGINS.match(line):
        raise RequestError(414, "The request line is too long.")
    found = _REQUEST_LINE.fullmatch(line[:-2]) if line.endswith(b"\r\n") else None
    if found is None:
        raise RequestError(400, "The request line is invalid.")
    method, target, major, minor = found.groups()
    if major != b"1":
        raise RequestError(505, "This server supports only HTTP/1.1 and HTTP/1.0.")
    if len(target) > config.max_http_target_bytes:
        raise RequestError(414, "The target of the request is too long.")
    if method == b"CONNECT":
        raise RequestError(501, "This server is not a proxy.")
    # HTTP/1.2 would be processed as HTTP/1.1 (RFC 9110, section 2.5).
    return method.decode("ascii"), target.decode("latin-1"), int(minor != b"0")


class _Fields:
    """The object whose methods httptools calls."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.found.append((name, value))


def parse_head(data: bytes, environ: dict[str, Any], config: HTTPConfig) -> Head:
    """Parse a head, and add its values to an environ as PEP 3333 requires.

    Args:
        data: the head, from `cut_head`.
        environ: the keys that do not depend on the request; the others are added.
        config: the limits.

    Raises:
        RequestError: the head is invalid or over a limit.
    """
    line_end = data.index(b"\n") + 1
    method, target, minor = _parse_request_line(data[:line_end], config)
    fields = _Fields()
    try:
        HttpRequestParser(fields).feed_data(_LINES[minor] + data[line_end:])
    except HttpParserUpgrade:
        # The head is complete. A server may ignore an upgrade, and this one does.
        pass
    except HttpParserError as error:
        raise _explained(data, error) from None
    if len(fields.found) > config.max_http_headers:
        raise RequestError(431, "There are too many headers.")
    for name, raw in fields.found:
        try:
            key = _keys[name]
        except KeyError:
            key = _key_of(name)
        if key is None:
            continue
        value = raw.decode("latin-1").rstrip(" \t")
        if key in environ:
            value = _join(key, environ[key], value)
        environ[key] = value
    path, query, uri = _split_target(method, target, minor, environ)
    environ["REQUEST_METHOD"] = method
    environ["REQUEST_URI"] = environ["RAW_URI"] = uri
    environ["PATH_INFO"] = (
        unquote_to_bytes(path.encode("latin-1")).decode("latin-1") if "%" in path else path
    )
    environ["QUERY_STRING"] = query
    environ["SERVER_PROTOCOL"] = "HTTP/1.1" if minor else "HTTP/1.0"
    return Head(
        method,
        target,
        minor,
        _length_of(environ) if "CONTENT_LENGTH" in environ else 0,
        "HTTP_TRANSFER_ENCODING" in environ and _is_chunked(environ, minor),
        _keeps_alive(environ.get("HTTP_CONNECTION"), minor),
        minor == 1 and environ.get("HTTP_EXPECT", "").lower() == "100-continue",
    )


def _explained(data: bytes, error: HttpParserError) -> RequestError:
    """Return the error for a head that llhttp has rejected."""
    # An unknown transfer coding gets a 501 (RFC 9112, section 6.1); llhttp's errors have no codes.
    coded = _TRANSFER_ENCODING.findall(data)
    codings = {coding.strip().lower() for value in coded for coding in value.split(b",")}
    unknown = codings - {b""} and b"chunked" not in codings and not _CONTENT_LENGTH.search(data)
    # A line end without CR gets a 400 also if the head is read in pieces (`cut_head`).
    if unknown and _BARE_LF.search(data) is None:
        return RequestError(501, "The transfer coding of the request is unknown.")
    return RequestError(400, f"The headers are invalid: {error}.")


def _key_of(name: bytes) -> str | None:
    """Return the environ key for a header, or None if the header must be dropped."""
    key: str | None = name.decode("ascii").upper().replace("-", "_")
    if b"_" in name:
        # X_Forwarded_For would get the same key as X-Forwarded-For; nginx drops it as well.
        key = None
    elif key not in ("CONTENT_LENGTH", "CONTENT_TYPE"):
        key = f"HTTP_{key}"
    if len(_keys) < _MAX_KEYS and len(name) <= _KEY_BYTES:
        _keys[name] = key
    return key


def _join(key: str, first: str, second: str) -> str:
    """Join the values of a repeated header (RFC 9110, section 5.2)."""
    if key == "HTTP_HOST":
        raise RequestError(400, "There are two Host headers.")
    return f"{first}{'; ' if key == 'HTTP_COOKIE' else ', '}{second}"


def _split_target(
    method: str, target: str, minor: int, environ: dict[str, Any]
) -> tuple[str, str, str]:
    """Check the target and Host, and return the path, the query and the value of REQUEST_URI."""
    host = environ.get("HTTP_HOST")
    if host is None:
        if minor:
            raise RequestError(400, "The Host header is missing.")
    elif _HOST.fullmatch(host) is None:
        raise RequestError(400, "The Host header is invalid.")
    if "#" in target:
        raise RequestError(400, "The target of the request has a fragment.")
    if target[0] == "/":
        path, _, query = target.partition("?")
        return path, query, target
    if target == "*" and method == "OPTIONS":
        return "", "", target
    found = _ABSOLUTE.fullmatch(target)
    if found is None or not found[1] or _HOST.fullmatch(found[1]) is None:
        raise RequestError(400, "The target of the request is invalid.")
    # The host in the target replaces the Host header (RFC 9112, section 3.2.2).
    environ["HTTP_HOST"] = found[1]
    rest = found[2]
    if not rest.startswith("/"):
        rest = f"/{rest}"
    path, _, query = rest.partition("?")
    return path, query, rest


def _length_of(environ: dict[str, Any]) -> int:
    text: str = environ["CONTENT_LENGTH"]
    if text.startswith("0"):
        text = environ["CONTENT_LENGTH"] = text.lstrip("0") or "0"
    if len(text) > _LENGTH_DIGITS:
        raise RequestError(400, "The Content-Length is too large.")
    return int(text)


def _is_chunked(environ: dict[str, Any], minor: int) -> bool:
    if not minor:
        # The request may have passed a proxy that does not know chunks (RFC 9112, section 6.1).
        raise RequestError(400, "HTTP/1.0 does not allow Transfer-Encoding.")
    coding = environ["HTTP_TRANSFER_ENCODING"].lower()
    if coding != "chunked":
        raise RequestError(501 if coding else 400, "The transfer coding of the request is unknown.")
    return True


def _keeps_alive(connection: str | None, minor: int) -> bool:
    if connection is None:
        return bool(minor)
    options = {option.strip().lower() for option in connection.split(",")}
    return "close" not in options and (bool(minor) or "keep-alive" in options)
