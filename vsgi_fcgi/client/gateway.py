"""A WSGI app that forwards each request over FastCGI."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from vsgi_fcgi.addresses import Address
from vsgi_fcgi.client.answer import Answer, ask
from vsgi_fcgi.client.call import Call
from vsgi_fcgi.client.config import ClientConfig
from vsgi_fcgi.client.connection import Logger
from vsgi_fcgi.client.fastcgi_client import IDEMPOTENT
from vsgi_fcgi.client.upstreams import Upstreams
from vsgi_fcgi.exceptions import UpstreamError
from vsgi_fcgi.native import get_ident
from vsgi_fcgi.protocol.pairs import encode_pairs
from vsgi_fcgi.settings import make_settings
from vsgi_fcgi.wsgi.headers import error_page
from vsgi_fcgi.wsgi.request_params import params_of

_CHUNK: Final = 32768
"""Bytes of a body that are read at a time."""

_RETRY_AFTER: Final = 5
"""Seconds after which a client may come again that met an overloaded application server."""


class BodyBroken(OSError):
    """The HTTP client has not sent the whole body of its request."""


class Gateway:
    """Forwards requests to FastCGI application servers, many at once over one connection.

    ::

        gateway = Gateway("unix:/run/app.sock")
        gevent.pywsgi.WSGIServer(("127.0.0.1", 8000), gateway).serve_forever()

    Waiting is gevent's; an HTTP server with a greenlet for each request gets the most out of it.
    Each native thread that calls it has connections of its own.

    Where there is no whole answer, the client gets 502 (unreachable, or nonsense came), 504 (no
    answer in time), 503 (no room) or, once a part of the answer is out, a connection that breaks.

    Args:
        addresses: where the application server listens, such as ``unix:/run/app.sock`` or
            ``127.0.0.1:9000``; several serve the same app.
        config: all settings at once.
        log: the log; the logger ``vsgi_fcgi.client`` if None.
        log_stderr: write what comes on STDERR to the log.
        **settings: single settings, by the names of `ClientConfig`'s fields.

    Raises:
        UsageError: a setting that does not exist or is out of its bounds, or no address.
    """

    def __init__(
        self,
        *addresses: Address | str,
        config: ClientConfig | None = None,
        log: Logger | None = None,
        log_stderr: bool = True,
        **settings: object,
    ) -> None:
        self.config = make_settings(ClientConfig, config, settings, "Gateway")
        self._addresses = addresses
        self._log = log
        self._log_stderr = log_stderr
        self._by_thread: dict[int, Upstreams] = {}

    @property
    def upstreams(self) -> Upstreams:
        """The application servers, as the calling thread sees them."""
        found = self._by_thread.get(get_ident())
        if found is None:
            found = Upstreams(self._addresses, self.config, self._log)
            self._by_thread[get_ident()] = found
        return found

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Forward one request (PEP 3333)."""
        head_only = environ["REQUEST_METHOD"] == "HEAD"
        try:
            block = encode_pairs(params_of(environ))
        except UnicodeEncodeError:
            return _error(start_response, 400, head_only)
        upstreams = self.upstreams
        call = Call(
            upstreams,
            block,
            body=_body_of(environ),
            idempotent=environ["REQUEST_METHOD"] in IDEMPOTENT,
        )
        limit = self.config.max_response_head_bytes
        try:
            answer = ask(call, limit, head_only=head_only)
        except UpstreamError as error:
            upstreams.log.warning("%s %s: %s", *_request_of(environ), error)
            return _error(start_response, error.status, head_only)
        head = answer.head
        start_response(f"{head.status} {head.reason}", head.headers)
        return _Body(self, answer, environ)

    def close(self) -> None:
        """Close the connections of the calling thread; what is in flight on them fails."""
        upstreams = self._by_thread.pop(get_ident(), None)
        if upstreams is not None:
            upstreams.close()

    def ended(self, answer: Answer, environ: dict[str, Any]) -> None:
        """Let go of an answer, and log what came on STDERR."""
        if self._log_stderr:
            text = answer.call.exchange.take_stderr()
            if text:
                lines = text.decode("utf-8", "backslashreplace").rstrip("\n")
                self.upstreams.log.warning("%s %s: %s", *_request_of(environ), lines)
        answer.close()


class _Body:
    """The body of a response, as an HTTP server takes it."""

    def __init__(self, gateway: Gateway, answer: Answer, environ: dict[str, Any]) -> None:
        self._gateway = gateway
        self._answer: Answer | None = answer
        self._environ = environ
        self._pieces = answer.body()

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            yield piece if type(piece) is bytes else bytes(piece)

    def close(self) -> None:
        """The HTTP server needs no more of it."""
        answer, self._answer = self._answer, None
        if answer is not None:
            self._gateway.ended(answer, self._environ)


def _body_of(environ: dict[str, Any]) -> Iterator[bytes]:
    """The body of a request, as it comes.

    Raises:
        BodyBroken: the client has gone in the middle of it.
    """
    read = environ["wsgi.input"].read
    length = environ.get("CONTENT_LENGTH")
    try:
        if length:
            left = int(length)
            while left:
                piece = read(min(left, _CHUNK))
                if not piece:
                    raise BodyBroken(f"{left} bytes of the body of the request are missing")
                left -= len(piece)
                yield piece
        elif environ.get("wsgi.input_terminated"):
            while piece := read(_CHUNK):
                yield piece
    except BodyBroken:
        raise
    except (OSError, ValueError) as error:
        raise BodyBroken(f"the body of the request cannot be read: {error}") from error


def _request_of(environ: dict[str, Any]) -> tuple[str, str]:
    """The method and the path of a request, for a log line."""
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return environ["REQUEST_METHOD"], ascii(path)[1:-1]


def _error(start_response: Any, status: int, head_only: bool) -> list[bytes]:
    retry_after = _RETRY_AFTER if status == 503 else None
    line, headers, body = error_page(status, retry_after=retry_after)
    start_response(line, headers)
    return [] if head_only else [body]
