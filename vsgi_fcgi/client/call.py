"""A request whose answer a greenlet waits for, and that is tried again where that is safe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import gevent
from greenlet import getcurrent

from vsgi_fcgi.client.exchange import Exchange, failure_of
from vsgi_fcgi.client.upstream import Upstream
from vsgi_fcgi.client.upstreams import Upstreams
from vsgi_fcgi.exceptions import (
    UpstreamBroken,
    UpstreamError,
    UpstreamOverloaded,
    UsageError,
)
from vsgi_fcgi.loop import Loop
from vsgi_fcgi.protocol import ProtocolStatus, Role
from vsgi_fcgi.protocol.events import Buffer

_KEPT = 65536
"""Bytes of a body that are kept, so that they can be sent again."""

_TRIES = 4
"""How often a request is sent at the most."""

_FIRST_PAUSE = 0.05
"""Seconds before a request that met OVERLOADED is sent again; twice as long each time."""


class Call:
    """Sends a request, and waits for its answer.

    It is sent again, elsewhere where there is more than one application server, if nothing of an
    answer has come and nothing was sent that cannot be repeated: after CANT_MPX_CONN and
    OVERLOADED, when the app cannot have begun, always; after a connection that broke, once, and
    only for a request that may be done twice.

    Args:
        upstreams: where to.
        block: the encoded params.
        role: what is wanted of the application.
        body: the pieces of STDIN.
        data: the pieces of DATA, for a filter.
        idempotent: done twice, it comes to the same as done once (RFC 9110, section 9.2.2).

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
    ) -> None:
        self._upstreams = upstreams
        self._block = block
        self._role = role
        self._body = iter(body)
        self._data = iter(data)
        self._idempotent = idempotent
        self._hub = gevent.get_hub()
        if cast(Loop, self._hub.loop) is not upstreams.loop:
            raise UsageError(
                "a client belongs to the thread that has made it; make one in each thread"
            )
        self._greenlet: Any = None
        self._kept: list[Buffer] = []
        self._read_all = False
        self._repeatable = True
        self._tries = 0
        self._exchange: Exchange | None = None

    @property
    def exchange(self) -> Exchange:
        """What is in flight, once `start` has returned."""
        assert self._exchange is not None
        return self._exchange

    def start(self, avoid: Upstream | None = None) -> None:
        """Send the request, and wait until something of the answer is there.

        Args:
            avoid: the application server to ask only if there is no other.

        Raises:
            UpstreamError: there is no answer.
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
            avoid = self._where_not(exchange, failure)

    def repeat_elsewhere(self) -> bool:
        """Ask another application server, if there is one and that is safe.

        Returns:
            Whether it was asked, as by `start`.
        """
        others = len(self._upstreams.all) > 1
        if not (others and self._repeatable and self._idempotent and self._tries == 1):
            return False
        avoid = self._upstream_of(self.exchange)
        self.exchange.close()
        self.start(avoid)
        return True

    def pieces(self) -> Iterator[Buffer]:
        """What comes on STDOUT, as it comes.

        Raises:
            UpstreamError: the rest of it is missing.
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

    def close(self) -> None:
        """Need nothing more of it; if it has not ended, it is aborted."""
        if self._exchange is not None:
            self._exchange.close()

    # Sending.

    def _read_ahead(self) -> None:
        """Read what can be kept of the body, before a connection is taken for it."""
        size = 0
        for piece in self._body:
            self._kept.append(piece)
            size += len(piece)
            if size > _KEPT:
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
        for piece in pieces:
            exchange.put(piece)
            while not exchange.has_room:
                self._wait()
            if exchange.ended:
                return

    # Trying again.

    def _where_not(self, exchange: Exchange, failure: UpstreamError) -> Upstream | None:
        """Decide whether to try again; returns which application server to avoid.

        Raises:
            UpstreamError: it is not to be tried again.
        """
        upstream = self._upstream_of(exchange)
        status = exchange.protocol_status
        if status == ProtocolStatus.OVERLOADED:
            failure = UpstreamOverloaded(f"{upstream} is overloaded")
        if status == ProtocolStatus.CANT_MPX_CONN:
            upstream.does_not_multiplex()
        if not self._repeatable or self._tries >= _TRIES:
            raise failure
        if status == ProtocolStatus.CANT_MPX_CONN:
            return None
        if status == ProtocolStatus.OVERLOADED:
            if len(self._upstreams.all) == 1:
                gevent.sleep(_FIRST_PAUSE * 2 ** (self._tries - 1))
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
