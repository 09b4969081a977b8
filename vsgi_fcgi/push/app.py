"""The layer around an app that reads its instructions to hold requests.

It is the outermost layer, in the worker. A response without an instruction passes through it as it
is. Of a response with one, it takes the whole body, and gives everything to the server, which holds
the request as soon as the worker is done.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, Final, Protocol

from vsgi_fcgi.push.held import Answer
from vsgi_fcgi.push.instruction import (
    Hold,
    InstructionError,
    is_instruct,
    read_headers,
    read_instruct,
    wants_instruction,
)
from vsgi_fcgi.push.signature import FEATURES, Signer
from vsgi_fcgi.wsgi.environ import Environ, request_line
from vsgi_fcgi.wsgi.response import App, Headers, StartResponse, error_page

_REMOVED: Final = "HTTP_ACCEPT_ENCODING"
"""Published items cannot follow a body that began compressed."""

_ISSUER: Final = "vsgi_fcgi"
"""The claim ``iss`` of Grip-Sig."""


class Handle(Protocol):
    """The request, as this module sees it."""

    wanted: Hold | None

    def hold_as(self, hold: Hold, answer: Answer, params: dict[str, str], head_only: bool) -> None:
        """Have the request held when its worker is done."""


class PushApp:
    """An app whose requests can be held.

    Args:
        app: the app.
        key: the key for Grip-Sig; None for a random one.
        max_channels: the maximum number of channels of a request.
        max_body: the maximum number of bytes of a response that is held.
        report: logs a failure of the app.
    """

    def __init__(
        self,
        app: App,
        key: bytes | None,
        max_channels: int,
        max_body: int,
        report: Callable[..., object],
    ) -> None:
        self._app = app
        self._signer = Signer(key or os.urandom(32), _ISSUER)
        self._max_channels = max_channels
        self._max_body = max_body
        self._report = report

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Run the app."""
        # What a client sends must not look like a message of the server.
        for name in [name for name in environ if name.startswith("HTTP_GRIP_")]:
            del environ[name]
        last = environ.pop("vsgi_fcgi.grip_last", None)
        if last is not None:
            environ["HTTP_GRIP_LAST"] = last
        environ["HTTP_GRIP_SIG"] = self._signer.token(time.time())
        environ["HTTP_GRIP_FEATURE"] = FEATURES
        environ.pop(_REMOVED, None)
        run = _Run(self, environ, start_response)
        iterable = self._app(environ, run.start_response)
        return iterable if run.started and not run.captured else run.follow(iterable)


class _Run:
    """One call of the app.

    Attributes:
        started: the app has called ``start_response``.
        captured: it has given an instruction, so that its response does not pass through.
    """

    def __init__(self, push: PushApp, environ: Environ, start_response: StartResponse) -> None:
        self._push = push
        self._environ = environ
        self._start = start_response
        self._handle: Handle = environ["vsgi_fcgi.request"]
        self._status = ""
        self._headers: Headers = []
        self._parts: list[bytes] = []
        self._size = 0
        self._exc_info: Any = None
        self.started = False
        self.captured = False

    def start_response(
        self, status: str, headers: Headers, exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """Pass a response through, or capture it."""
        self.started = True
        if self._handle.wanted is None and not wants_instruction(headers):
            # Perhaps the app fails after it gave an instruction, and answers with an error instead.
            self.captured = False
            self._parts.clear()
            self._size = 0
            return self._start(status, headers, exc_info)
        self.captured = True
        self._status, self._headers, self._exc_info = status, headers, exc_info
        return self._take

    def _take(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._push._max_body:
            limit = self._push._max_body
            raise InstructionError(f"the body of a held response is over {limit} bytes")
        self._parts.append(data)

    def follow(self, iterable: Iterable[bytes]) -> Generator[bytes, None, None]:
        """Pass on the body, or take all of it if the response is captured.

        Some apps call ``start_response`` only when their body is read.
        """
        try:
            try:
                for data in iterable:
                    if self.captured:
                        self._take(data)
                    else:
                        yield data
            finally:
                close = getattr(iterable, "close", None)
                if close is not None:
                    close()
            if self.captured:
                yield from self._hold()
        except InstructionError as error:
            yield from self._fail(error)

    def _hold(self) -> list[bytes]:
        push, body = self._push, b"".join(self._parts)
        hold = self._handle.wanted
        status, headers = self._status, self._headers
        if any(name.lower() == "content-type" and is_instruct(value) for name, value in headers):
            status, headers, body, found = read_instruct(status, headers, body, push._max_channels)
        else:
            status, headers, found = read_headers(status, headers, push._max_channels)
        hold = found or hold
        if hold is None:
            self._begin(status, headers)
            return [body]
        head_only = self._environ.get("REQUEST_METHOD") == "HEAD"
        if head_only:
            body = b""
        # Nothing of it is sent here.
        endless = [pair for pair in headers if pair[0].lower() != "content-length"]
        params: dict[str, str] = {}
        if (
            hold.next_uri is not None
            or hold.gone_uri is not None
            or (
                any(channel.prev_id for channel in hold.channels)
                and self._environ.get("CONTENT_LENGTH", "0") in ("", "0")
            )
        ):
            params = {
                name: value
                for name, value in self._environ.items()
                if type(value) is str and "." not in name and not name.startswith("HTTP_GRIP_")
            }
        # This checks the headers, and makes the header block of a stream.
        self._begin(status, endless)
        self._handle.hold_as(hold, Answer(hold, status, headers, body), params, head_only)
        return []

    def _fail(self, error: InstructionError) -> list[bytes]:
        """Answer 502, as the instruction is wrong."""
        self._push._report("%s: %s", request_line(self._environ), error)
        status, headers, body = error_page(502)
        self._begin(status, headers)
        return [body]

    def _begin(self, status: str, headers: Headers) -> None:
        # The app may have called the server's `start_response` before, and then changed its mind.
        exc_info, self._exc_info = self._exc_info, None
        self._start(status, headers, exc_info)
