"""The CGI header block that starts STDOUT (RFC 3875, section 6): validate and encode."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

from vsgi_fcgi.exceptions import ResponseError

_PLAIN: Final = 0
_CONTENT_LENGTH: Final = 1
_DROPPED: Final = 2
_LOCATION: Final = 3

HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that concern one connection and are not passed on (RFC 9110, section 7.6.1)."""

# PEP 3333 forbids hop-by-hop headers to apps, and the web server makes its own. "Status" is CGI's,
# made of the status that start_response got: a second one would let a header change it.
_SPECIAL: Final = {
    "content-length": _CONTENT_LENGTH,
    "location": _LOCATION,
    "status": _DROPPED,
    **dict.fromkeys(HOP_BY_HOP, _DROPPED),
}

TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_STATUS: Final = re.compile(r"[1-9][0-9][0-9](?: [^\x00-\x08\x0a-\x1f\x7f]*)?")

# What was found valid once is not looked at again. Bounded: an app may make names up.
_MAX_CACHED: Final = 1024
_names: dict[str, int] = {}
_statuses: set[str] = set()


def encode_header_block(
    status: object, headers: Iterable[tuple[str, str]]
) -> tuple[bytes, int | None]:
    """Make the header block of a response.

    Args:
        status: the status line of the response, such as ``200 OK``.
        headers: names and values as an app gives them to ``start_response``.

    Returns:
        The block with its empty line, and the Content-Length if there is one.

    Raises:
        ResponseError: something in them is not allowed (PEP 3333, "The start_response()
            Callable"); nothing was sent.
    """
    # The type first: what is equal to a valid status may still be written otherwise.
    if type(status) is not str or status not in _statuses:
        status = _check_status(status)
    length = None
    located = False
    lines = ["Status: " + status]
    try:
        for name, value in headers:
            kind = _names.get(name)
            if kind is None:
                kind = _check_name(name)
            if kind:
                if kind == _DROPPED:
                    continue
                if kind == _LOCATION:
                    located = True
                else:
                    length = _parse_length(value, length)
            lines.append(name + ": " + value)
    except (TypeError, ValueError) as error:
        raise ResponseError(f"headers must be (str, str) tuples: {error}") from None
    if located:
        # In CGI a Location without a Status means 302, and to HAProxy (its issue 2865) so does one
        # that comes after it: the last of the two counts.
        lines.append(lines.pop(0))
    lines.append("\r\n")
    count = len(lines)
    text = "\r\n".join(lines)
    # One look at the whole block instead of three at each value: what we put in is counted.
    if text.count("\n") != count or text.count("\r") != count or "\0" in text:
        for line in lines[:-1]:
            if "\n" in line or "\r" in line or "\0" in line:
                raise ResponseError(f"CR, LF or NUL in the header {line!r}")
    try:
        return text.encode("latin-1"), length
    except UnicodeEncodeError as error:
        raise ResponseError(
            f"a header holds {text[error.start]!r}, which is not latin-1: encode it first"
        ) from None


def _check_status(status: object) -> str:
    if not isinstance(status, str):
        raise ResponseError(f"the status must be str, not {type(status).__name__}")
    status = str.__str__(status)
    if not _STATUS.fullmatch(status):
        raise ResponseError(f"the status must be like '200 OK', not {status!r}")
    if len(_statuses) < _MAX_CACHED:
        _statuses.add(status)
    return status


def _check_name(name: Any) -> int:
    if not isinstance(name, str):
        raise ResponseError(f"header names must be str, not {type(name).__name__}")
    if not TOKEN.fullmatch(name):
        raise ResponseError(f"{name!r} is not a header name")
    kind = _SPECIAL.get(name.lower(), _PLAIN)
    if len(_names) < _MAX_CACHED:
        _names[name] = kind
    return kind


def _parse_length(value: Any, before: int | None) -> int:
    if not isinstance(value, str):
        raise TypeError(f"Content-Length is {type(value).__name__}")
    text = value if value.isdecimal() else value.strip()
    if not (text.isascii() and text.isdecimal()):
        raise ResponseError(f"Content-Length must be a number of bytes, not {value!r}")
    length = int(text)
    if before is not None and before != length:
        raise ResponseError(f"Content-Length is both {before} and {length}")
    return length


def error_page(
    status: int, message: str = "", *, retry_after: int | None = None
) -> tuple[str, list[tuple[str, str]], bytes]:
    """A page for an error that the server itself reports.

    Args:
        status: the HTTP status.
        message: what the client is told; the status's own description if empty. It must hold
            nothing of the inside.
        retry_after: seconds for a Retry-After header.

    Returns:
        The status line, the headers and the body.
    """
    phrase = HTTPStatus(status).phrase
    text = message or HTTPStatus(status).description or phrase
    body = (
        "<!doctype html>\n<html lang=en>\n"
        f"<title>{status} {phrase}</title>\n<h1>{phrase}</h1>\n<p>{text}</p>\n"
    ).encode()
    headers = [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    if retry_after is not None:
        headers.append(("Retry-After", str(retry_after)))
    return f"{status} {phrase}", headers, body


def error_response(
    status: int, message: str = "", *, head_only: bool = False, retry_after: int | None = None
) -> bytes:
    """A whole CGI response for an error that the server itself reports.

    Args:
        status: the HTTP status.
        message: as of `error_page`.
        head_only: leave the body out (HEAD).
        retry_after: seconds for a Retry-After header.
    """
    line, headers, body = error_page(status, message, retry_after=retry_after)
    block, _ = encode_header_block(line, headers)
    return block if head_only else block + body
