"""Encode and parse CGI header blocks (RFC 3875, section 6), and make error pages.

`encode_header_block` runs for every response. It validates names and statuses once and caches the
result, because an app uses the same few again and again. It does not search each value for CR, LF
and NUL; it joins all lines and compares the number of line ends in the block with the number of
lines. Only a mismatch makes it search for the header at fault.

`ResponseHeadReader` and `InterimFilter` parse the header blocks of other FastCGI applications for
the client and the relay.
"""

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
"""Headers of one connection, which must not be forwarded (RFC 9110, section 7.6.1)."""

# PEP 3333 does not allow an app to send hop-by-hop headers, and the web server makes its own.
# "Status" is the first line of a CGI header block: a header of this name would override the status
# that start_response got.
_SPECIAL: Final = {
    "content-length": _CONTENT_LENGTH,
    "location": _LOCATION,
    "status": _DROPPED,
    **dict.fromkeys(HOP_BY_HOP, _DROPPED),
}

TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LENGTH: Final = re.compile(r"0|[1-9][0-9]{0,18}")
"""A Content-Length in bytes; 9 EiB have 19 digits."""

_WITHOUT_LENGTH: Final = ("204", "205")
"""Statuses without Content-Length: a response never has a body (RFC 9110, sections 8.6, 15.3.6)."""

_STATUS: Final = re.compile(r"[2-9][0-9][0-9](?: [^\x00-\x08\x0a-\x1f\x7f]*)?")

# Valid names and statuses. The size is bounded because an app may invent names.
_MAX_CACHED: Final = 1024
_names: dict[str, int] = {}
_statuses: set[str] = set()


def encode_header_block(
    status: object, headers: Iterable[tuple[str, str]]
) -> tuple[bytes, int | None]:
    """Validate and encode the header block of a response.

    Args:
        status: the status line, such as ``200 OK``.
        headers: names and values, as an app passes them to ``start_response``.

    Returns:
        The block with its empty line, and the Content-Length or None.

    Raises:
        ResponseError: PEP 3333 ("The start_response() Callable") does not allow the status or a
            header.
    """
    # A subclass of str can be equal to a valid status and still have a different text.
    if type(status) is not str or status not in _statuses:
        status = _check_status(status)
    length: int | None = None
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
                elif status.startswith(_WITHOUT_LENGTH):
                    continue
                else:
                    if not isinstance(value, str):
                        raise TypeError(f"Content-Length is {type(value).__name__}")
                    before, length = length, parse_content_length(value)
                    if length is None:
                        raise ResponseError(
                            f"Content-Length must be a number of bytes, not {value[:80]!r}"
                        )
                    if before is not None:
                        if before != length:
                            raise ResponseError(f"Content-Length is both {before} and {length}")
                        continue
                    value = str(length)
            lines.append(name + ": " + value)
    except (TypeError, ValueError) as error:
        raise ResponseError(f"headers must be (str, str) tuples: {error}") from None
    if located:
        # In CGI, Location without Status means 302. HAProxy (issue 2865) also returns 302 if
        # Location comes after Status, so Status must be the last line.
        lines.append(lines.pop(0))
    lines.append("\r\n")
    count = len(lines)
    text = "\r\n".join(lines)
    # Three searches in the whole block replace three searches in each value. Any additional CR or
    # LF is from a header.
    if text.count("\n") != count or text.count("\r") != count or "\0" in text:
        for line in lines[:-1]:
            if "\n" in line or "\r" in line or "\0" in line:
                raise ResponseError(f"CR, LF or NUL in the header {line!r}")
    try:
        return text.encode("latin-1"), length
    except UnicodeEncodeError as error:
        raise ResponseError(
            f"a header contains {text[error.start]!r}, which is not latin-1: encode it first"
        ) from None


def _check_status(status: object) -> str:
    if not isinstance(status, str):
        raise ResponseError(f"the status must be str, not {type(status).__name__}")
    status = str.__str__(status)
    if not _STATUS.fullmatch(status):
        # 1xx is an interim status and never the final one (RFC 9110, section 15.2): the client
        # would wait for the final response. lighttpd grants access if an authorizer returns 100.
        raise ResponseError(
            f"the status must be like '200 OK', with a code of 200 to 999, not {status!r}"
        )
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


def parse_content_length(value: str) -> int | None:
    """Parse the value of a response's Content-Length header.

    Padding is ignored, and so are further copies of a number in a list (RFC 9110, section 8.6).

    Args:
        value: the value of the header.

    Returns:
        The length in bytes, or None if the value is not a plain number. A number with a sign or
        with leading zeros is not plain.
    """
    # Nearly all values take this path, which costs less than the pattern below.
    if value.isdecimal() and value.isascii() and value[0] != "0" and len(value) < 19:
        return int(value)
    parts = {part.strip(" \t") for part in value.split(",")}
    text = parts.pop()
    return int(text) if not parts and _LENGTH.fullmatch(text) else None


def error_page(
    status: int, message: str = "", *, retry_after: int | None = None
) -> tuple[str, list[tuple[str, str]], bytes]:
    """Make the page for an error that the server reports itself.

    Args:
        status: the HTTP status.
        message: the text for the client; the standard description of the status if empty. It must
            not reveal internal details.
        retry_after: the Retry-After header in seconds; None to omit it.

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
    """Make the whole CGI response for an error that the server reports itself.

    Args:
        status: the HTTP status.
        message: see `error_page`.
        head_only: whether to omit the body, for HEAD.
        retry_after: the Retry-After header in seconds; None to omit it.
    """
    line, headers, body = error_page(status, message, retry_after=retry_after)
    block, _ = encode_header_block(line, headers)
    return block if head_only else block + body


# Parse the header block at the start of STDOUT (RFC 3875, section 6).

_END: Final = re.compile(rb"\r?\n\r?\n")
_RECEIVED_STATUS: Final = re.compile(r"([1-9][0-9][0-9])(?:[ \t]+(.*))?")
_LONGEST_END: Final = 4

# Every response of vsgi_fcgi begins like this and has no interim responses.
_IS_FINAL: Final = re.compile(rb"Status: [2-9]")
_INTERIM: Final = re.compile(rb"(?:\A|\n)status[ \t]*:[ \t]*(1[0-9][0-9])(?![0-9])", re.IGNORECASE)
_SWITCHES: Final = "the response switches protocols, but the client did not request an upgrade"

Buffer = bytes | bytearray | memoryview


def _too_long(limit: int) -> ResponseError:
    return ResponseError(f"the headers of the response are over {limit} bytes")


class ResponseHead:
    """The status and the headers of a response.

    Attributes:
        status: the HTTP status.
        reason: the reason phrase.
        headers: names and values in their order, without Status and without the headers of one
            connection (RFC 9110, section 7.6.1).
        length: the Content-Length in bytes; None if the header is missing.
    """

    __slots__ = ("headers", "length", "reason", "status")

    def __init__(
        self, status: int, reason: str, headers: list[tuple[str, str]], length: int | None
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.length = length

    @property
    def has_body(self) -> bool:
        """Whether the status allows a body (RFC 9110, section 6.4.1)."""
        return self.status >= 200 and self.status not in (204, 205, 304)


class ResponseHeadReader:
    """Collects a header block from the pieces of STDOUT, and skips interim responses before it.

    An interim response (1xx) is a header block of its own; php-fpm sends 103 in this way.

    Args:
        limit: maximum total size in bytes of the block and of the interim responses before it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._skipped = 0
        self._block = bytearray()

    def feed(self, data: Buffer) -> tuple[ResponseHead, bytes] | None:
        """Process a piece of STDOUT.

        Returns:
            The head and the first bytes of the body; None if the head is incomplete.

        Raises:
            ResponseError: the header block is invalid or too long.
        """
        block = self._block
        looked = max(0, len(block) - _LONGEST_END)
        block += data
        while True:
            found = _END.search(block, looked)
            size = len(block) if found is None else found.start()
            if found is None and block.startswith((b"\n", b"\r\n")):
                raise ResponseError("the response has no headers")
            if self._skipped + size > self._limit:
                raise _too_long(self._limit)
            if found is None:
                return None
            head = parse_response_head(bytes(block[:size]))
            if head.status >= 200:
                return head, bytes(block[found.end() :])
            if head.status == 101:
                raise ResponseError(_SWITCHES)
            self._skipped += found.end()
            del block[: found.end()]
            looked = 0


class InterimFilter:
    """Removes interim responses (1xx) before the final response, and changes nothing else.

    Args:
        limit: maximum total size in bytes of the header block and of the interim responses.
    """

    __slots__ = ("_block", "_limit", "_looked", "_skipped")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._skipped = 0
        self._looked = 0
        self._block = bytearray()

    @staticmethod
    def is_final(data: Buffer) -> bool:
        """Return True if STDOUT that begins with this data cannot have an interim response."""
        return _IS_FINAL.match(data) is not None

    def feed(self, data: Buffer) -> bytes | None:
        """Process a piece of STDOUT, until the final header block is complete.

        Returns:
            The received data from the final block on; None if the block is incomplete.

        Raises:
            ResponseError: the header blocks are too long, or one of them switches protocols.
        """
        block = self._block
        block += data
        while True:
            found = _END.search(block, self._looked)
            size = len(block) if found is None else found.start()
            if self._skipped + size > self._limit:
                raise _too_long(self._limit)
            if found is None:
                self._looked = max(0, len(block) - _LONGEST_END)
                return None
            self._looked = 0
            interim = _INTERIM.search(block, 0, size)
            if interim is None:
                return bytes(block)
            if interim[1] == b"101":
                raise ResponseError(_SWITCHES)
            self._skipped += found.end()
            del block[: found.end()]

    def end(self) -> bytes:
        """Process the end of a response without a complete final header block.

        Returns:
            All received data, if it contains no interim response.

        Raises:
            ResponseError: the response ended after an interim response.
        """
        if self._skipped or _INTERIM.search(self._block):
            raise ResponseError("the response ended before the end of the headers")
        return bytes(self._block)


def parse_response_head(block: bytes) -> ResponseHead:
    """Parse a header block.

    Without a Status header, the status is 302 if there is a Location header, and otherwise 200
    (RFC 3875, section 6.2).

    Args:
        block: the lines, without the empty line that ends them.

    Raises:
        ResponseError: a line is not a header, or the status or the length is invalid.
    """
    status, reason, location = 0, "", False
    length: int | None = None
    headers: list[tuple[str, str]] = []
    for line in block.decode("latin-1").split("\n"):
        name, colon, value = line.removesuffix("\r").partition(":")
        if not colon or not TOKEN.fullmatch(name):
            raise ResponseError(f"the response has a line that is not a header: {line[:80]!r}")
        value = value.strip(" \t")
        if "\r" in value or "\0" in value:
            raise ResponseError(f"the header {name} of the response contains CR or NUL")
        lower = name.lower()
        if lower == "status":
            match = _RECEIVED_STATUS.fullmatch(value)
            if match is None:
                raise ResponseError(f"the response has the invalid status {value[:80]!r}")
            if status and status != int(match[1]):
                raise ResponseError(f"the response has two statuses, {status} and {match[1]}")
            status, reason = int(match[1]), match[2] or ""
            continue
        if lower in HOP_BY_HOP:
            continue
        if lower == "location":
            location = True
        elif lower == "content-length":
            before, length = length, parse_content_length(value)
            if length is None:
                raise ResponseError(f"the response has the invalid Content-Length {value[:80]!r}")
            if before is not None:
                if length != before:
                    raise ResponseError(
                        f"the response has two Content-Lengths, {before} and {length}"
                    )
                continue
            value = str(length)
        headers.append((name, value))
    if not status:
        status = 302 if location else 200
    if length is not None and status in (204, 205):
        # RFC 9110, sections 8.6 and 15.3.6: such a response has neither a body nor a length.
        length = None
        headers = [header for header in headers if header[0].lower() != "content-length"]
    if not reason:
        reason = HTTPStatus(status).phrase if status in _KNOWN else "Unknown"
    return ResponseHead(status, reason, headers, length)


_KNOWN: Final = frozenset(map(int, HTTPStatus))
