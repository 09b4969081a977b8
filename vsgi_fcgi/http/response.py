"""The response to a request: validate the status and headers of the app, and frame the body."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import Any, Final

from vsgi_fcgi.exceptions import ResponseError
from vsgi_fcgi.http.head import Head
from vsgi_fcgi.wsgi.environ import HOP_BY_HOP
from vsgi_fcgi.wsgi.response import TOKEN, parse_content_length

_STATUS: Final = re.compile(r"[2-9][0-9][0-9](?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_WITHOUT_BODY: Final = ("204", "304")
_JOIN_SIZE: Final = 65536
"""Maximum bytes of a piece that are copied to send them together with its framing."""

_PLAIN, _LENGTH, _DATE, _DROPPED = range(4)
_SPECIAL: Final = {
    "content-length": _LENGTH,
    "date": _DATE,
    **dict.fromkeys(HOP_BY_HOP, _DROPPED),
}
_MAX_NAMES: Final = 1024
_names: dict[str, int] = {}
"""The kind of each header name; the size is bounded because an app may invent names."""

_date: tuple[int, str] = (0, "")


class Response:
    """Writes the response of a WSGI app.

    Args:
        head: the head of the request.
        send: sends bytes to the client, and waits until the kernel has accepted them.
        may_keep: returns whether the connection may stay open; called when the head is sent.

    Attributes:
        status: the three digits of the status; empty before `start`.
        head_sent: whether the head was sent.
        sent: bytes of the body that were sent.
        keep_alive: whether the connection stays open; False until the head was sent.
        ends_by_close: whether closing the connection marks the end of the body.
        has_body: whether the body is sent; known after `start`.
    """

    __slots__ = (
        "_chunked",
        "_head",
        "_length",
        "_lines",
        "_may_keep",
        "_send",
        "ends_by_close",
        "has_body",
        "head_sent",
        "keep_alive",
        "sent",
        "status",
    )

    def __init__(
        self, head: Head, send: Callable[[bytes], object], may_keep: Callable[[], bool]
    ) -> None:
        self._head = head
        self._send = send
        self._may_keep = may_keep
        self._lines: list[str] = []
        self._length: int | None = None
        self.has_body = True
        self._chunked = False
        self.status = ""
        self.head_sent = False
        self.sent = 0
        self.keep_alive = False
        self.ends_by_close = False

    def start(
        self, status: str, headers: Iterable[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """Set the status and the headers: PEP 3333's ``start_response``.

        Raises:
            ResponseError: PEP 3333 or HTTP does not allow the call, the status or a header.
        """
        if exc_info is not None:
            try:
                if self.head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.status:
            raise ResponseError("start_response was called a second time without exc_info")
        if not isinstance(status, str) or _STATUS.fullmatch(status) is None:
            raise ResponseError(f"the status must be like '200 OK', not {status!r}")
        self._length = None
        self._chunked = self.ends_by_close = False
        code = status[:3]
        # RFC 9112, section 4: the space after the code is required even without a reason phrase.
        lines = [f"HTTP/1.1 {status if len(status) > 3 else status + ' '}"]
        dated = False
        for name, value in headers:
            kind = _names.get(name)
            if kind is None:
                kind = _kind_of(name)
            if kind:
                if kind == _DROPPED:
                    continue
                if kind == _DATE:
                    dated = True
                elif code == "204" or code == "205":
                    continue  # RFC 9110, sections 8.6 and 15.3.6
                else:
                    length = _parse_length(value)
                    if self._length is not None:
                        if length != self._length:
                            raise ResponseError(f"Content-Length is {self._length} and {length}")
                        continue
                    self._length = length
                    value = str(length)
            lines.append(f"{name}: {value}")
        text = "\n".join(lines)
        if text.count("\n") != len(lines) - 1 or "\r" in text or "\0" in text:
            raise ResponseError("a header contains CR, LF or NUL")
        if not dated:
            lines.append(f"Date: {_now()}")
        self._lines = lines
        self.status = code
        self.has_body = code not in _WITHOUT_BODY and self._head.method != "HEAD"
        return self.write

    def write(self, data: bytes) -> None:
        """Send a piece of the body, and the head before the first piece.

        Raises:
            ResponseError: the app has not called ``start_response``.
        """
        size = len(data)
        if not size:
            return
        if not self.status:
            raise ResponseError("the app has not called start_response")
        if not self.has_body:
            if not self.head_sent:
                self._send(self._make_head(None))
            return
        if self._length is not None and self.sent + size > self._length:
            data = data[: self._length - self.sent]
            size = len(data)
            if not size:
                return
        head = b"" if self.head_sent else self._make_head(None)
        self.sent += size
        if not self._chunked:
            if head and size > _JOIN_SIZE:
                self._send(head)
                head = b""
            self._send(head + data if head else data)
        elif size > _JOIN_SIZE:
            self._send(b"%s%x\r\n" % (head, size))
            self._send(data)
            self._send(b"\r\n")
        else:
            self._send(b"%s%x\r\n%s\r\n" % (head, size, data))

    def finish(self) -> None:
        """End the response.

        Raises:
            ResponseError: the body is shorter than its Content-Length, or the app has not called
                ``start_response``.
        """
        if not self.status:
            raise ResponseError("the app has not called start_response")
        if not self.head_sent:
            self._send(self._make_head(0))
        elif self._chunked:
            self._send(b"0\r\n\r\n")
        if self.has_body and self._length is not None and self.sent < self._length:
            raise ResponseError(
                f"the app sent {self.sent} bytes, but its Content-Length is {self._length}"
            )

    def _make_head(self, length: int | None) -> bytes:
        """Encode the head.

        Args:
            length: the length of the whole body in bytes, if it is known.
        """
        lines, minor = self._lines, self._head.minor
        if self.has_body and self._length is None:
            if length is not None:
                lines.append(f"Content-Length: {length}")
            elif minor:
                self._chunked = True
                lines.append("Transfer-Encoding: chunked")
            else:
                self.ends_by_close = True
        self.keep_alive = not self.ends_by_close and self._may_keep()
        if not self.keep_alive:
            lines.append("Connection: close")
        elif not minor:
            lines.append("Connection: keep-alive")
        lines.append("\r\n")
        try:
            head = "\r\n".join(lines).encode("latin-1")
        except UnicodeEncodeError:
            raise ResponseError(
                "a header contains a character that is not latin-1: encode it first"
            ) from None
        self.head_sent = True
        return head


def _kind_of(name: Any) -> int:
    if not isinstance(name, str) or TOKEN.fullmatch(name) is None:
        raise ResponseError(f"{name!r} is not a header name")
    kind = _SPECIAL.get(name.lower(), _PLAIN)
    if len(_names) < _MAX_NAMES:
        _names[name] = kind
    return kind


def _parse_length(value: str) -> int:
    length = parse_content_length(value)
    if length is None:
        raise ResponseError(f"Content-Length must be a number of bytes, not {value[:80]!r}")
    return length


def _now() -> str:
    """Return the value of the Date header, which is formatted once a second."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = now, formatdate(now, usegmt=True)
    return _date[1]
