"""A request whose response a greenlet waits for, with retries where they are safe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gevent
from greenlet import getcurrent

from vsgi_fcgi.client.exchange import Exchange, failure_of
from vsgi_fcgi.client.pool import Upstreams
from vsgi_fcgi.client.upstream import Upstream
from vsgi_fcgi.exceptions import (
    ResponseError,
    UpstreamBroken,
    UpstreamError,
    UpstreamOverloaded,
    UsageError,
)
from vsgi_fcgi.protocol import ProtocolStatus, Role
from vsgi_fcgi.protocol.constants import Buffer
from vsgi_fcgi.transport.loop import get_loop
from vsgi_fcgi.transport.quota import append_piece
from vsgi_fcgi.wsgi.response_head import ResponseHead, ResponseHeadReader

_MAX_KEPT = 65536
"""Maximum bytes of a body that are kept for a retry."""

_MAX_TRIES = 4
"""Maximum number of times that a request is sent."""

_BACKOFF_MIN = 0.05
"""Seconds before a retry after OVERLOADED; doubled after each retry."""


class _BodyNotNeeded(Exception):
    """The response ended before the request: the rest of the body is not needed."""


class Call:
    """Sends a request and waits for its response.

    A request is retried, on another server if there is one, if no part of a response has arrived
    and the whole body is still in memory:

    - after CANT_MPX_CONN and OVERLOADED, and if the connection ended before the PARAMS were sent:
      always, because the app cannot have run;
    - after a connection that failed: once, and only if the request is idempotent.

    Args:
        upstreams: the application servers.
        block: the encoded params.
        role: the role of the application.
        body: the pieces of STDIN.
        data: the pieces of DATA, for a filter.
        idempotent: whether the request may be repeated (RFC 9110, section 9.2.2).
        interrupt: raises an error in a read of the body that waits. It is called if the response
            ends before the body.

    Raises:
        UsageError: this is not the thread of ``upstreams``.
    """

    def __init__(
        self,
        upstreams: Upstreams,
        block: bytes,
        *,
        role: int = Role.RESPONDER,
        body: Iterable[Buffer] = (),
        data: Iterable[Buffer] = (),
        idempotent: bool = False,
        interrupt: Callable[[Exception], object] | None = None,
    ) -> None:
        self._upstreams = upstreams
        self._block = block
        self._role = role
        self._body = iter(body)
        self._data = iter(data)
        self._idempotent = idempotent
        self._interrupt = interrupt
        self._reading = False
        self._hub = gevent.get_hub()
        if get_loop() is not upstreams.loop:
            raise UsageError(
                "a client can be used only in the thread that created it; create one in each thread"
            )
        self._greenlet: Any = None
        self._kept: list[Buffer] = []
        self._read_all = False
        self._repeatable = True
        self._tries = 0
        self._exchange: Exchange | None = None
        # The STDERR of earlier tries.
        self._stderr = b""

    @property
    def exchange(self) -> Exchange:
        """The exchange in flight, after `start`."""
        assert self._exchange is not None
        return self._exchange

    def start(self, avoid: Upstream | None = None) -> None:
        """Send the request, and wait for the first piece of the response or its end.

        Args:
            avoid: a server to use only if there is no other.

        Raises:
            UpstreamError: there is no response.
        """
        if not self._kept and not self._read_all:
            self._read_ahead()
        while True:
            self._tries += 1
            exchange = self._upstreams.begin(self._block, self._wake, self._role, avoid=avoid)
            self._exchange = exchange
            try:
                self._send(exchange)
                while not exchange.has_more and not exchange.ended:
                    self._wait()
            except BaseException:
                exchange.close()
                raise
            failure = failure_of(exchange) if exchange.ended else None
            if failure is None or exchange.answered:
                return
            exchange.close()
            avoid = self._plan_retry(exchange, failure)
            self._stderr += exchange.take_stderr()

    def repeat_elsewhere(self) -> bool:
        """Retry the request on another server, if there is one and a retry is safe.

        Returns:
            Whether the request was retried, as by `start`.
        """
        others = len(self._upstreams.all) > 1
        if not (others and self._repeatable and self._idempotent and self._tries == 1):
            return False
        avoid = self._upstream_of(self.exchange)
        self.exchange.close()
        self._stderr += self.exchange.take_stderr()
        self.start(avoid)
        return True

    def pieces(self) -> Iterator[Buffer]:
        """Yield the pieces of STDOUT as they arrive.

        Raises:
            UpstreamError: the response is incomplete.
        """
        exchange = self.exchange
        while True:
            piece = exchange.take()
            if piece is not None:
                yield piece
            elif exchange.ended:
                failure = failure_of(exchange)
                if failure is not None:
                    raise failure
                return
            else:
                self._wait()

    def take_stderr(self) -> bytes:
        """Return the STDERR of all tries received since the last call; also after `close`."""
        text, self._stderr = self._stderr, b""
        return text if self._exchange is None else text + self._exchange.take_stderr()

    def close(self) -> None:
        """Close the response; abort the request if it has not ended."""
        if self._exchange is not None:
            self._exchange.close()

    # Sending.

    def _read_ahead(self) -> None:
        """Read the start of the body before a connection is acquired, and keep it for a retry."""
        size = 0
        for piece in self._body:
            append_piece(self._kept, piece)
            size += len(piece)
            if size > _MAX_KEPT:
                return
        self._read_all = True

    def _send(self, exchange: Exchange) -> None:
        if self._role == Role.AUTHORIZER:
            return
        for piece in self._kept:
            exchange.put(piece)
        if not self._read_all:
            self._repeatable = False
            self._stream(exchange, self._body)
        exchange.end_input()
        if self._role == Role.FILTER:
            self._repeatable = False
            self._stream(exchange, self._data)
            exchange.end_input()

    def _stream(self, exchange: Exchange, pieces: Iterator[Buffer]) -> None:
        while not exchange.ended:
            self._reading = True
            try:
                piece = next(pieces, None)
            except _BodyNotNeeded:
                return
            finally:
                self._reading = False
            if piece is None:
                return
            exchange.put(piece)
            while not exchange.has_room:
                self._wait()

    # Retries.

    def _plan_retry(self, exchange: Exchange, failure: UpstreamError) -> Upstream | None:
        """Decide whether to retry, and return the server to avoid.

        Raises:
            UpstreamError: the request cannot be retried.
        """
        upstream = self._upstream_of(exchange)
        status = exchange.protocol_status
        if status == ProtocolStatus.OVERLOADED:
            failure = UpstreamOverloaded(f"{upstream} is overloaded")
        if status == ProtocolStatus.CANT_MPX_CONN:
            upstream.stop_multiplexing()
        if not self._repeatable or self._tries >= _MAX_TRIES:
            raise failure
        if status == ProtocolStatus.CANT_MPX_CONN:
            return None
        if status == ProtocolStatus.OVERLOADED:
            if len(self._upstreams.all) == 1:
                gevent.sleep(_BACKOFF_MIN * 2 ** (self._tries - 1))
            return upstream
        if failure.unsent:
            return upstream
        broken = isinstance(failure, UpstreamBroken) and status is None
        if broken and self._idempotent and self._tries == 1:
            return upstream
        raise failure

    def _upstream_of(self, exchange: Exchange) -> Upstream:
        owner = exchange.connection.owner
        assert isinstance(owner, Upstream)
        return owner

    # Waiting.

    def _wait(self) -> None:
        self._greenlet = getcurrent()
        try:
            self._hub.switch()
        finally:
            self._greenlet = None

    def _wake(self) -> None:
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.switch()
        elif self._reading and self._interrupt is not None and self.exchange.ended:
            # Without this, the client would get its response only after sending more of the body.
            self._interrupt(_BodyNotNeeded())


# The response: its head, then its body.


class CGIResponse:
    """Reads the head of a response, and checks that its body is complete.

    Args:
        call: the started request; it is closed if there is no head.
        limit: maximum bytes of the head.
        head_only: whether the request is HEAD, so that the response has no body.

    Attributes:
        call: the request.
        head: the status and the headers.

    Raises:
        UpstreamError: there is no valid head.
    """

    def __init__(self, call: Call, limit: int, *, head_only: bool = False) -> None:
        self.call = call
        self._pieces = call.pieces()
        try:
            self.head, self._first = self._read_head(limit)
        except BaseException:
            call.close()
            raise
        self._has_body = self.head.has_body and not head_only

    def _read_head(self, limit: int) -> tuple[ResponseHead, bytes]:
        reader = ResponseHeadReader(limit)
        peer = self.call.exchange.connection.peer
        try:
            for piece in self._pieces:
                found = reader.feed(piece)
                if found is not None:
                    return found
        except ResponseError as error:
            raise UpstreamBroken(f"{peer}: {error}") from None
        raise UpstreamBroken(f"{peer} ended its response before the end of the headers")

    def body(self) -> Iterator[Buffer]:
        """Yield the pieces of the body as they arrive; none if the status allows no body.

        Content beyond the Content-Length is dropped.

        Raises:
            UpstreamError: the body is incomplete.
        """
        if not self._has_body:
            # Read and drop everything, to learn how the request ends.
            for _ in self._pieces:
                continue
            return
        length, sent = self.head.length, len(self._first)
        first = self._first if length is None else self._first[:length]
        if first:
            yield first
        try:
            for piece in self._pieces:
                if length is not None and sent + len(piece) > length:
                    piece = piece[: max(0, length - sent)]
                sent += len(piece)
                if piece:
                    yield piece
        except UpstreamBroken:
            # A body that is complete by its Content-Length is valid, whatever the exit status is.
            exchange = self.call.exchange
            if length is None or sent < length or exchange.failure or exchange.protocol_status:
                raise
        if length is not None and sent < length:
            peer = self.call.exchange.connection.peer
            raise UpstreamBroken(f"{peer} sent {sent} of {length} bytes of the body", begun=True)

    def close(self) -> None:
        """Close the response; abort the request if it has not ended."""
        self.call.close()


def perform(call: Call, limit: int, *, head_only: bool = False) -> CGIResponse:
    """Send a request and wait for the head of its response; retry after 503 on another server.

    Args:
        call: the request, which was not started.
        limit: see `CGIResponse`.
        head_only: see `CGIResponse`.

    Raises:
        UpstreamError: there is no response.
    """
    call.start()
    response = CGIResponse(call, limit, head_only=head_only)
    if response.head.status == 503 and call.repeat_elsewhere():
        response = CGIResponse(call, limit, head_only=head_only)
    return response
