"""Running an app for one request, to the letter of PEP 3333."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Protocol

from vsgi_fcgi.exceptions import ClientDisconnected, ResponseError
from vsgi_fcgi.wsgi.environ import Environ, request_line
from vsgi_fcgi.wsgi.headers import encode_header_block, error_response
from vsgi_fcgi.wsgi.sendfile import SendableFile

Headers = list[tuple[str, str]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType]
StartResponse = Callable[..., Callable[[bytes], object]]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

_CONTENT_LENGTH = re.compile(rb"(?i)\r\ncontent-length:[^\r]*\r\n")

_JOIN_SIZE = 65536
"""Up to this many bytes the header block and the body are joined; more is not copied."""


class ResponseSink(Protocol):
    """Where a response goes; the runner knows nothing else of the server.

    Attributes:
        cancelled: the web server gave the request up.
    """

    @property
    def cancelled(self) -> bool:
        """Whether the web server gave the request up."""

    def write(self, data: bytes) -> None:
        """Send a piece of STDOUT; may wait.

        Raises:
            ClientDisconnected: the request was given up.
        """

    def finish(self, data: bytes = b"", app_status: int = 0) -> None:
        """Send the last piece and end the request; a second time it does nothing."""

    def break_off(self) -> None:
        """End the request so that the client sees a broken answer, not a complete one."""

    def report(self, message: str, error: BaseException | None = None) -> None:
        """Tell the log; with an error, its traceback too."""


class Response:
    """The state behind one ``start_response``."""

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
        """Take the status and the headers (PEP 3333, section on this callable)."""
        if exc_info:
            try:
                if self.sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # breaks the cycle frame -> traceback -> frame
        elif self._head is not None:
            raise ResponseError("start_response was called twice, and without exc_info")
        self._head, self._length = encode_header_block(status, headers)
        # 204 and 304 have no body whatever the app returns (RFC 9110, section 6.4.1).
        self._body = not self.head_only and status[:3] not in ("204", "304")
        self._left = self._length if self._body else None
        return self.write

    def write(self, data: bytes) -> None:
        """Send a piece of the body, after the headers if they have not gone yet."""
        taken = self.take(data)
        if data and not self.sent:
            head = self.head()
            if len(taken) <= _JOIN_SIZE:
                taken = head + taken
            else:
                self._sink.write(head)
        if taken:
            self._sink.write(taken)

    def take(self, data: bytes) -> bytes:
        """Account for a piece of the body.

        Returns:
            What is to be sent of it: nothing where there is no body, nothing that is over
            Content-Length.
        """
        if type(data) is not bytes:
            data = _as_bytes(data)
        if not self._body:
            return b""
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                data = self._cut(data)
        return data

    def head(self) -> bytes:
        """Take the header block, which counts as sent from here on."""
        if self._head is None:
            raise ResponseError("the app returned a body without calling start_response")
        self.sent = True
        return self._head

    def _cut(self, data: bytes) -> bytes:
        """Cut off what exceeds Content-Length."""
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

    def leave(self, file: SendableFile) -> bool:
        """Leave the body to the web server, if it is a file that it may send.

        Returns:
            Whether that was done, and the response has ended.
        """
        head = self._head
        if self.sent or not self._body or head is None or not head.startswith(b"Status: 200"):
            return False
        header = file.leave()
        if header is None:
            return False
        # The web server finds out how long it is, and may send a part of it.
        self._sink.finish(_CONTENT_LENGTH.sub(b"\r\n", head[:-2]) + header + b"\r\n")
        return True

    def end(self) -> None:
        """End the response, of which everything was taken."""
        if self._left:
            self._sink.report(
                f"the app sent {self._left} bytes less than its Content-Length of {self._length}"
            )
            self._sink.break_off()
        else:
            self._sink.finish(b"" if self.sent else self.head())

    @property
    def wants_more(self) -> bool:
        """Whether anything that the app still yields could matter."""
        return (self._body and not self._too_long) or not self.sent

    def respond_whole(self, chunks: list[bytes] | tuple[bytes, ...]) -> None:
        """Send a response of which all is there: in one piece, if it is small."""
        if len(chunks) == 1 and not self.sent:
            data = self.take(chunks[0])
            if not self._left and len(data) <= _JOIN_SIZE:
                self._sink.finish(self.head() + data)
                return
            taken = [data]
        else:
            taken = [self.take(chunk) for chunk in chunks]
        parts = taken if self.sent else [self.head(), *taken]
        if self._left:
            for part in parts:
                self._sink.write(part)
            self.end()
        elif sum(map(len, parts)) <= _JOIN_SIZE:
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
    """Run the app for one request and send its response.

    Whatever the app raises ends here: an error page when no byte was sent, a broken answer
    afterwards, a report with the traceback in both cases. ``sink`` has been finished or broken
    off when it returns.

    Args:
        app: the WSGI app.
        environ: its environ.
        sink: where the response goes.
    """
    response = Response(sink, environ.get("REQUEST_METHOD") == "HEAD")
    try:
        iterable = app(environ, response.start_response)
        if type(iterable) is list or type(iterable) is tuple:
            response.respond_whole(iterable)
            return
        try:
            if isinstance(iterable, SendableFile) and response.leave(iterable):
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
        # SystemExit, GreenletExit and their like too: an app may end its request, not a worker.
        _fail(response, environ, sink, error)
    finally:
        if sink.cancelled:
            sink.finish()


def _close(iterable: Any, sink: ResponseSink) -> None:
    """Call the iterable's close(), if it has one (PEP 3333, "The Application Object")."""
    close = getattr(iterable, "close", None)
    if close is not None:
        try:
            close()
        except BaseException as error:
            sink.report("close() of the response failed", error)


def _fail(response: Response, environ: Environ, sink: ResponseSink, error: BaseException) -> None:
    if sink.cancelled and isinstance(error, ClientDisconnected):
        return
    request = request_line(environ)
    if response.sent:
        sink.report(f"the app failed in the middle of its answer to {request}", error)
        sink.break_off()
    else:
        sink.report(f"the app failed on {request}", error)
        sink.finish(error_response(500, head_only=response.head_only), app_status=1)
