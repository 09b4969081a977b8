"""Run an app for one request, and send its response as PEP 3333 requires.

`run_app` calls the app, passes each piece of the body through `Response`, and hands the result to a
`ResponseSink`, which belongs to the server. `Response` is the state behind ``start_response``: the
header block that was not sent yet, and how much of Content-Length is left.

`encode_header_block` runs for every response. It validates names and statuses once and caches the
result, because an app uses the same few again and again. It does not search each value for CR, LF
and NUL; it joins all lines and compares the number of line ends in the block with the number of
lines. Only a mismatch makes it search for the header at fault.

Header block and body leave in one piece if they are small. The most frequent response, a list with
one piece of the announced length, takes a short path in `Response.respond_whole` with one call of
the sink.

Values from an app are annotated as Any, because an app may pass anything: mypyc would otherwise
check the type before this module can report the error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Protocol, final

from vsgi_fcgi.exceptions import ClientDisconnected, RequestTimeout, ResponseError
from vsgi_fcgi.wsgi.environ import HOP_BY_HOP, Environ, request_line
from vsgi_fcgi.wsgi.files import SendableFile

# The header block.

_PLAIN: Final = 0
_CONTENT_LENGTH: Final = 1
_DROPPED: Final = 2
_LOCATION: Final = 3

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


# The response.

Headers = list[tuple[str, str]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType]
StartResponse = Callable[..., Callable[[bytes], object]]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

_LENGTH_LINE = re.compile(rb"(?i)\r\ncontent-length:[^\r]*\r\n")

_JOIN_SIZE = 131072
"""Maximum bytes of a body that are copied to send them together with the header block."""

_COPIED = 16384
"""Up to this many bytes, the body of a short path is joined to the header block."""


class ResponseSink(Protocol):
    """The destination of a response: all that `run_app` knows about the server.

    Attributes:
        cancelled: whether the web server aborted the request.
        closed: whether the response has ended.
    """

    @property
    def cancelled(self) -> bool:
        """Whether the web server aborted the request."""

    @property
    def closed(self) -> bool:
        """Whether the response has ended."""

    def write(self, data: bytes, last: bool = False) -> None:
        """Send a piece of STDOUT; this may wait until the web server reads.

        Args:
            data: the piece.
            last: no other piece follows, but the app has not ended yet.

        Raises:
            ClientDisconnected: the web server aborted the request.
        """

    def finish(self, data: bytes = b"", app_status: int = 0, more: bytes = b"") -> None:
        """Send the last piece and end the request; do nothing after the first call.

        Args:
            data: the piece.
            app_status: the application status.
            more: bytes that follow ``data``, if joining them would cost more than it saves.
        """

    def break_off(self) -> None:
        """End the request in such a way that the client detects an incomplete response."""

    def report(self, message: str, error: BaseException | None = None) -> None:
        """Log a message, and the traceback of an error if there is one."""


@final
class Response:
    """The state behind the ``start_response`` of one request.

    Args:
        sink: the destination.
        head_only: whether the request is HEAD, so that no body is sent.

    Attributes:
        head_only: whether the request is HEAD.
        sent: whether the header block was sent.
    """

    __slots__ = ("_body", "_head", "_left", "_length", "_sink", "_too_long", "head_only", "sent")

    def __init__(self, sink: ResponseSink, head_only: bool) -> None:
        self._sink = sink
        self._head: bytes | None = None
        self._length: int | None = None
        self._left: int | None = None
        self._body = not head_only
        self._too_long = False
        self.head_only = head_only
        self.sent = False

    def start_response(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], object]:
        """Set the status and the headers: the callable that PEP 3333 passes to an app.

        Args:
            status: the status line.
            headers: names and values.
            exc_info: the exception to which this response is the answer; it allows a second call.

        Returns:
            The ``write`` callable of PEP 3333.

        Raises:
            ResponseError: the call, the status or a header is not allowed.
        """
        if exc_info:
            try:
                if self.sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # break the reference cycle of frame and traceback
        elif self._head is not None:
            raise ResponseError("start_response was called a second time without exc_info")
        self._head, self._length = encode_header_block(status, headers)
        # These statuses never have a body (RFC 9110, sections 6.4.1 and 15.3.6).
        self._body = not self.head_only and status[:3] not in ("204", "205", "304")
        self._left = self._length if self._body else None
        return self.write

    def write(self, data: Any) -> None:
        """Send a piece of the body, and the header block before the first piece.

        Raises:
            ResponseError: the response has ended.
        """
        if self._sink.closed:
            # An app may have kept the callable. What it writes would never be sent or released.
            raise ResponseError("write() was called after the end of the response")
        taken = self.take(data)
        if data and not self.sent:
            head = self.head()
            if len(taken) <= _JOIN_SIZE:
                self._sink.write(head + taken, self._left == 0)
                return
            self._sink.write(head)
        if taken:
            self._sink.write(taken)

    def take(self, data: Any) -> bytes:
        """Count a piece of the body against Content-Length.

        Returns:
            The bytes to send: none if the response has no body, and none beyond Content-Length.
        """
        piece = data if type(data) is bytes else _as_bytes(data)
        if not self._body:
            return b""
        if self._left is not None:
            self._left -= len(piece)
            if self._left < 0:
                piece = self._cut(piece)
        return piece

    def head(self) -> bytes:
        """Return the header block, and mark it as sent.

        Raises:
            ResponseError: the app has not called ``start_response``.
        """
        if self._head is None:
            raise ResponseError("the app returned a body without calling start_response")
        self.sent = True
        return self._head

    def _cut(self, data: bytes) -> bytes:
        """Cut a piece of the body that exceeds Content-Length, and log that once."""
        assert self._left is not None
        if not self._too_long:
            self._too_long = True
            self._sink.report(
                f"the app sends more than its Content-Length of {self._length} bytes; "
                "the rest is dropped"
            )
        data = data[: self._left]
        self._left = 0
        return data

    def offload(self, file: SendableFile) -> bool:
        """Offload a file to the web server if that is allowed and the status is 200.

        Returns:
            Whether the file was offloaded; the response has ended then.
        """
        head = self._head
        if self.sent or not self._body or head is None or not head.startswith(b"Status: 200"):
            return False
        header = file.offload(self._length)
        if header is None:
            return False
        # The web server determines the length; it may send a part of the file for a range request.
        self._sink.finish(_LENGTH_LINE.sub(b"\r\n", head[:-2]) + header + b"\r\n")
        return True

    def end(self) -> None:
        """End the response after the whole body, or report that the body is too short."""
        if self._left:
            self._sink.report(
                f"the app sent {self._left} bytes less than its Content-Length of {self._length}"
            )
            if self.sent:
                self._sink.break_off()
            else:
                self._sink.finish(error_response(500), app_status=1)
        else:
            self._sink.finish(b"" if self.sent else self.head())

    @property
    def wants_more(self) -> bool:
        """Whether further pieces from the app can change the response."""
        return (self._body and not self._too_long) or not self.sent

    def respond_whole(self, chunks: list[Any] | tuple[Any, ...]) -> None:
        """Send a whole body: in one piece with the header block, if it is small."""
        if len(chunks) == 1 and not self.sent:
            head, data, left = self._head, chunks[0], self._left
            # The most frequent response: no further call is needed.
            if (
                head is not None
                and self._body
                and type(data) is bytes
                and len(data) <= _JOIN_SIZE
                and (left is None or left == len(data))
            ):
                self.sent = True
                if len(data) > _COPIED:
                    self._sink.finish(head, 0, data)
                else:
                    self._sink.finish(head + data)
                return
        taken = [self.take(chunk) for chunk in chunks]
        if self._left:
            if self.sent:
                for part in taken:
                    self._sink.write(part)
            self.end()
            return
        parts = taken if self.sent else [self.head(), *taken]
        if sum(map(len, parts)) <= _JOIN_SIZE:
            self._sink.finish(b"".join(parts))
        else:
            for part in parts:
                if part:
                    self._sink.write(part)
            self._sink.finish()


def _as_bytes(data: Any) -> bytes:
    if isinstance(data, bytes):
        return data
    raise ResponseError(f"the app must yield bytes, not {type(data).__name__}")


def run_app(app: App, environ: Environ, sink: ResponseSink) -> None:
    """Run an app for one request and send its response.

    This function catches every exception of the app, and logs it with its traceback. If no byte
    was sent, the client gets an error page; otherwise the response is broken off. The sink has been
    finished or broken off when this function returns.

    Args:
        app: the WSGI app.
        environ: the environ of the request.
        sink: the destination of the response.
    """
    response = Response(sink, environ.get("REQUEST_METHOD") == "HEAD")
    try:
        iterable: Any = app(environ, response.start_response)
        if type(iterable) is list or type(iterable) is tuple:
            response.respond_whole(iterable)
            return
        try:
            if isinstance(iterable, SendableFile) and response.offload(iterable):
                return
            for data in iterable:
                if sink.cancelled:
                    return
                if data or type(data) is not bytes:
                    response.write(data)
                if not response.wants_more:
                    break
        finally:
            _close(iterable, sink)
        response.end()
    except BaseException as error:
        # This includes SystemExit and GreenletExit: an app may end its request but not its worker.
        _fail(response, environ, sink, error)
    finally:
        if sink.cancelled:
            sink.finish()


def _close(iterable: Any, sink: ResponseSink) -> None:
    """Call the iterable's close() if it exists (PEP 3333, "The Application Object")."""
    close = getattr(iterable, "close", None)
    if close is not None:
        try:
            close()
        except BaseException as error:
            sink.report("close() of the response failed", error)


def _fail(response: Response, environ: Environ, sink: ResponseSink, error: BaseException) -> None:
    if sink.cancelled and isinstance(error, (ClientDisconnected, RequestTimeout)):
        return
    request = request_line(environ)
    if response.sent:
        sink.report(f"the app failed in the middle of its response to {request}", error)
        sink.break_off()
    else:
        sink.report(f"the app failed on {request}", error)
        sink.finish(error_response(500, head_only=response.head_only), app_status=1)
