"""Parse the header blocks of other FastCGI applications, for the client and the relay.

A header block stands at the start of STDOUT (RFC 3875, section 6).
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from vsgi_fcgi.exceptions import ResponseError
from vsgi_fcgi.wsgi.environ import HOP_BY_HOP
from vsgi_fcgi.wsgi.response import TOKEN, parse_content_length

_END: Final = re.compile(rb"\r?\n\r?\n")
_RECEIVED_STATUS: Final = re.compile(r"([1-9][0-9][0-9])(?:[ \t]+(.*))?")
_LONGEST_END: Final = 4
_PART_OF_END: Final = re.compile(rb"(?:\r?\n)?\r?\Z")

# Every response of vsgi_fcgi begins like this and has no interim responses.
_IS_FINAL: Final = re.compile(rb"Status: [2-9]")
_INTERIM: Final = re.compile(rb"(?:\A|\n)status[ \t]*:[ \t]*(1[0-9][0-9])(?![0-9])", re.IGNORECASE)
_SWITCHES: Final = "the response switches protocols, but the client did not request an upgrade"

Buffer = bytes | bytearray | memoryview


def _least_size(incomplete: bytearray) -> int:
    """Return the minimum size of a block whose end has not arrived, or not completely."""
    found = _PART_OF_END.search(incomplete, max(0, len(incomplete) - _LONGEST_END + 1))
    assert found is not None  # It also matches nothing.
    return found.start()


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
            size = _least_size(block) if found is None else found.start()
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
            size = _least_size(block) if found is None else found.start()
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
