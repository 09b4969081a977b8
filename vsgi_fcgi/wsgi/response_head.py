"""The CGI header block that starts STDOUT (RFC 3875, section 6): read it."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from vsgi_fcgi.exceptions import ResponseError
from vsgi_fcgi.wsgi.headers import HOP_BY_HOP, TOKEN

_END: Final = re.compile(rb"\r?\n\r?\n")
_STATUS: Final = re.compile(r"([1-9][0-9][0-9])(?:[ \t]+(.*))?")
_LONGEST_END: Final = 4
_LONGEST_LENGTH: Final = 19
"""Digits of a Content-Length: 9 EiB have no more."""

Buffer = bytes | bytearray | memoryview


class ResponseHead:
    """The status and the headers of a response.

    Attributes:
        status: the HTTP status.
        reason: its phrase.
        headers: names and values in their order, without those that concern one connection
            (RFC 9110, section 7.6.1) and without Status.
        length: the Content-Length; None if there is none.
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
        """Whether such a status may have a body (RFC 9110, section 6.4.1)."""
        return self.status >= 200 and self.status not in (204, 205, 304)


class ResponseHeadReader:
    """Gathers a header block, which may come in pieces.

    Args:
        limit: bytes that it may have.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._block = bytearray()

    def feed(self, data: Buffer) -> tuple[ResponseHead, bytes] | None:
        """Take in a piece of STDOUT.

        Returns:
            The head, and what came of the body with it; None if the head is not complete.

        Raises:
            ResponseError: this is no header block, or it is too long.
        """
        block = self._block
        looked = max(0, len(block) - _LONGEST_END)
        block += data
        found = _END.search(block, looked)
        if found is None:
            if block.startswith((b"\n", b"\r\n")):
                raise ResponseError("the answer has no headers")
            if len(block) > self._limit:
                raise ResponseError(f"the headers of the answer are over {self._limit} bytes")
            return None
        if found.start() > self._limit:
            raise ResponseError(f"the headers of the answer are over {self._limit} bytes")
        head = parse_response_head(bytes(block[: found.start()]))
        return head, bytes(block[found.end() :])


def parse_response_head(block: bytes) -> ResponseHead:
    """Read a header block.

    Without Status it is 302 if there is a Location, else 200 (RFC 3875, section 6.2).

    Args:
        block: the lines, without the empty one that ends them.

    Raises:
        ResponseError: a line is no header, or the status or the length no number.
    """
    status, reason, location = 0, "", False
    length: int | None = None
    headers: list[tuple[str, str]] = []
    for line in block.decode("latin-1").split("\n"):
        name, colon, value = line.removesuffix("\r").partition(":")
        if not colon or not TOKEN.fullmatch(name):
            raise ResponseError(f"the answer has a line that is no header: {line[:80]!r}")
        value = value.strip(" \t")
        if "\r" in value or "\0" in value:
            raise ResponseError(f"the header {name} of the answer holds CR or NUL")
        lower = name.lower()
        if lower == "status":
            match = _STATUS.fullmatch(value)
            if match is None:
                raise ResponseError(f"the answer has the status {value[:80]!r}")
            status, reason = int(match[1]), match[2] or ""
            continue
        if lower in HOP_BY_HOP:
            continue
        if lower == "location":
            location = True
        elif lower == "content-length":
            if not (value.isascii() and value.isdecimal()) or len(value) > _LONGEST_LENGTH:
                raise ResponseError(f"the answer has the Content-Length {value[:80]!r}")
            if length is not None:
                if length != int(value):
                    raise ResponseError(f"the answer has two Content-Lengths, {length}, {value}")
                continue
            length = int(value)
        headers.append((name, value))
    if not status:
        status = 302 if location else 200
    if not reason:
        reason = HTTPStatus(status).phrase if status in _KNOWN else "Unknown"
    return ResponseHead(status, reason, headers, length)


_KNOWN: Final = frozenset(map(int, HTTPStatus))
