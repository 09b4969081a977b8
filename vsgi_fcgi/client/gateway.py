"""A WSGI app that forwards each request over FastCGI."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Final, Unpack

from vsgi_fcgi.addresses import Address
from vsgi_fcgi.client.call import Call, CGIResponse, perform
from vsgi_fcgi.client.client import IDEMPOTENT
from vsgi_fcgi.client.config import ClientConfig, ClientSettings
from vsgi_fcgi.client.connection import Logger
from vsgi_fcgi.client.pool import Upstreams
from vsgi_fcgi.exceptions import UpstreamError
from vsgi_fcgi.log.handlers import escape_controls
from vsgi_fcgi.protocol.records import encode_pairs
from vsgi_fcgi.settings import make_settings
from vsgi_fcgi.transport.loop import get_loop
from vsgi_fcgi.transport.unpatched import get_ident
from vsgi_fcgi.wsgi.environ import environ_to_params
from vsgi_fcgi.wsgi.response import error_page

_CHUNK: Final = 32768
"""Maximum bytes of a body that are read at a time."""

_RETRY_AFTER: Final = 5
"""Seconds for the Retry-After header of a 503."""


class RequestBodyError(OSError):
    """The HTTP client did not send the whole body of its request."""


class Gateway:
    """A WSGI app that forwards requests to FastCGI application servers.

    ::

        gateway = Gateway("unix:/run/app.sock")
        gevent.pywsgi.WSGIServer(("127.0.0.1", 8000), gateway).serve_forever()

    Concurrent requests share a connection if the application server multiplexes. Run the gateway
    on an HTTP server with a greenlet for each request, because waiting blocks only the greenlet.
    Each native thread that calls the gateway has its own connections, and calls `close` at its end.

    The client gets 502 if the server cannot be reached or its response is invalid, 504 if it does
    not respond in time, and 503 if it has no room. If the response fails after its head was sent,
    the connection to the client is broken off.

    Args:
        addresses: the addresses of the application server, such as ``unix:/run/app.sock`` or
            ``127.0.0.1:9000``. Several addresses must serve the same app.
        config: all settings at once.
        log: the log; the logger ``vsgi_fcgi.client`` if None.
        log_stderr: whether to log the STDERR of the application.
        **settings: single settings, by the names of `ClientConfig`'s fields.

    Raises:
        UsageError: a setting does not exist or is out of its bounds, or there is no address.
    """

    def __init__(
        self,
        *addresses: Address | str,
        config: ClientConfig | None = None,
        log: Logger | None = None,
        log_stderr: bool = True,
        **settings: Unpack[ClientSettings],
    ) -> None:
        self.config = make_settings(ClientConfig, config, settings, "Gateway")
        self._addresses = addresses
        self._log = log
        self._log_stderr = log_stderr
        self._by_thread: dict[int, Upstreams] = {}

    @property
    def upstreams(self) -> Upstreams:
        """The application servers, with the connections of the calling thread."""
        found = self._by_thread.get(get_ident())
        if found is not None and found.loop is not get_loop():
            # They belong to a thread that has ended without `close`, and whose ident is used again.
            with contextlib.suppress(ValueError):  # its loop was destroyed
                found.close()
            found = None
        if found is None:
            found = Upstreams(self._addresses, self.config, self._log)
            self._by_thread[get_ident()] = found
        return found

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Forward one request (PEP 3333)."""
        head_only = environ["REQUEST_METHOD"] == "HEAD"
        try:
            block = encode_pairs(environ_to_params(environ))
        except UnicodeEncodeError:
            return _error(start_response, 400, head_only)
        upstreams = self.upstreams
        call = Call(
            upstreams,
            block,
            body=_body_of(environ),
            interrupt=getattr(environ["wsgi.input"], "interrupt", None),
            idempotent=environ["REQUEST_METHOD"] in IDEMPOTENT,
        )
        limit = self.config.max_response_head_bytes
        try:
            response = perform(call, limit, head_only=head_only)
        except UpstreamError as error:
            self.finish(call, environ)
            upstreams.log.warning("%s %s: %s", *_request_of(environ), error)
            return _error(start_response, error.status, head_only)
        head = response.head
        try:
            start_response(f"{head.status} {head.reason}", head.headers)
        except BaseException:
            # The HTTP server does not accept the status or a header.
            self.finish(call, environ)
            raise
        return _Body(self, response, environ)

    def close(self) -> None:
        """Close the connections of the calling thread; its requests in flight fail."""
        upstreams = self._by_thread.pop(get_ident(), None)
        if upstreams is not None:
            upstreams.close()

    def finish(self, call: Call, environ: dict[str, Any]) -> None:
        """Close a response, and log its STDERR."""
        if self._log_stderr:
            text = call.take_stderr()
            if text:
                lines = escape_controls(text.decode("utf-8", "backslashreplace").rstrip("\n"))
                self.upstreams.log.warning("%s %s: %s", *_request_of(environ), lines)
        call.close()


class _Body:
    """The body of a response, as a WSGI iterable."""

    def __init__(self, gateway: Gateway, response: CGIResponse, environ: dict[str, Any]) -> None:
        self._gateway = gateway
        self._response: CGIResponse | None = response
        self._environ = environ
        self._pieces = response.body()

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            yield piece if type(piece) is bytes else bytes(piece)

    def close(self) -> None:
        """Close the response after the last piece, or early."""
        response, self._response = self._response, None
        if response is not None:
            self._gateway.finish(response.call, self._environ)


def _body_of(environ: dict[str, Any]) -> Iterator[bytes]:
    """Yield the pieces of a request's body as they arrive.

    Raises:
        RequestBodyError: the client did not send the whole body.
    """
    # Not `read1`: a client that sends two bytes at a time would cause a record for each two bytes.
    read = environ["wsgi.input"].read
    length = environ.get("CONTENT_LENGTH")
    try:
        if length:
            left = int(length)
            while left:
                piece = read(min(left, _CHUNK))
                if not piece:
                    raise RequestBodyError(f"{left} bytes of the request body are missing")
                left -= len(piece)
                yield piece
        elif environ.get("wsgi.input_terminated"):
            while piece := read(_CHUNK):
                yield piece
    except RequestBodyError:
        raise
    except (OSError, ValueError) as error:
        raise RequestBodyError(f"cannot read the request body: {error}") from error


def _request_of(environ: dict[str, Any]) -> tuple[str, str]:
    """Return the method and the path of a request for a log line."""
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return ascii(environ["REQUEST_METHOD"])[1:-1], ascii(path)[1:-1]


def _error(start_response: Any, status: int, head_only: bool) -> list[bytes]:
    retry_after = _RETRY_AFTER if status == 503 else None
    line, headers, body = error_page(status, retry_after=retry_after)
    start_response(line, headers)
    return [] if head_only else [body]
