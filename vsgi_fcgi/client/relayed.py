"""One request on its way through the relay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vsgi_fcgi.client.exchange import Exchange, failure_of
from vsgi_fcgi.client.fastcgi_client import IDEMPOTENT
from vsgi_fcgi.client.upstream import Upstream
from vsgi_fcgi.exceptions import (
    ParamsError,
    ResponseError,
    UpstreamBroken,
    UpstreamError,
    UpstreamOverloaded,
)
from vsgi_fcgi.protocol import ProtocolStatus, Request, Role
from vsgi_fcgi.protocol.events import Buffer
from vsgi_fcgi.protocol.pairs import decode_pairs
from vsgi_fcgi.wsgi.environ import request_line
from vsgi_fcgi.wsgi.front_ends import dies_of_stderr
from vsgi_fcgi.wsgi.response_head import ResponseHeadReader

if TYPE_CHECKING:
    from vsgi_fcgi.client.connection import Connection
    from vsgi_fcgi.client.relay_channel import RelayChannel

_KEPT: Final = 65536
"""Bytes of a body that are kept, so that they can be sent again; and that are read while the
request waits until there is room behind."""

_TRIES: Final = 4
"""How often a request is sent at the most."""

_COMPLETE: Final = int(ProtocolStatus.REQUEST_COMPLETE)
_UNKNOWN_ROLE: Final = int(ProtocolStatus.UNKNOWN_ROLE)


class Relayed:
    """Joins a request in front with its exchange behind.

    Args:
        channel: the connection that it came on.
        request: the request, of which the params are there.

    Attributes:
        exchange: what is in flight behind; None while it waits, and once it is over.
        queued: it has a place in its channel's round.
        begun: something of its STDOUT was sent in front.
        sent: bytes of its STDOUT that were sent in front, or are about to be.
        first: the first piece of its STDOUT, where that may be needed.
    """

    __slots__ = (
        "_full",
        "_kept",
        "_kept_size",
        "_tries",
        "begun",
        "channel",
        "exchange",
        "first",
        "queued",
        "request",
        "sent",
    )

    def __init__(self, channel: RelayChannel, request: Request) -> None:
        self.channel = channel
        self.request = request
        self.exchange: Exchange | None = None
        self.queued = False
        self.begun = False
        self.sent = 0
        self.first: Buffer = b""
        # What came of STDIN and DATA, None for the end of each; None itself when it is too much.
        self._kept: list[Buffer | None] | None = []
        self._kept_size = 0
        self._full = False
        self._tries = 0

    @property
    def params(self) -> dict[str, str]:
        """Its params, decoded now: nothing but a failure is worth it."""
        block = self.request.raw_params
        try:
            return decode_pairs(block, len(block))[0]
        except ParamsError:
            return {}

    # From the front to the back.

    def start(self, connection: Connection) -> None:
        """Begin it behind, where there is room."""
        self._tries += 1
        request = self.request
        exchange = self.exchange = connection.begin(
            request.raw_params, self.on_change, request.role
        )
        for piece in self._kept or ():
            if piece is None:
                exchange.end_input()
            else:
                exchange.put(piece)
        self._hold_back(exchange)

    def put(self, data: Buffer) -> None:
        """Take a piece of STDIN or DATA."""
        exchange = self.exchange
        if self._kept is not None:
            self._kept.append(data)
            self._kept_size += len(data)
            if exchange is None:
                if self._kept_size > _KEPT and not self._full:
                    self._full = True
                    self.channel.pause()
                return
            if self._kept_size > _KEPT:
                self._kept = None
        if exchange is not None:
            exchange.put(data)
            self._hold_back(exchange)

    def end_input(self) -> None:
        """Take the end of STDIN or of DATA."""
        if self._kept is not None:
            self._kept.append(None)
        if self.exchange is not None:
            self.exchange.end_input()

    def _hold_back(self, exchange: Exchange) -> None:
        """Read no more in front than goes on behind."""
        full = not exchange.has_room
        if full != self._full:
            self._full = full
            if full:
                self.channel.pause()
            else:
                self.channel.resume()

    # From the back to the front.

    def on_change(self) -> None:
        """Take note of what has happened behind."""
        exchange = self.exchange
        if exchange is None:
            return
        if self._full:
            self._hold_back(exchange)
        if not self.queued and (exchange.ended or exchange.has_more):
            self.channel.writer.line_up(self)

    def take_stderr(self, exchange: Exchange) -> bytes:
        """What came on STDERR, if the web server survives it; else it is in our log."""
        text = exchange.take_stderr()
        if not text or not dies_of_stderr(self.params.get("SERVER_SOFTWARE")):
            return text
        lines = text.decode("utf-8", "backslashreplace").rstrip("\n")
        self.channel.relay.log.warning(
            "%s: %s: %s", self.channel.peer, request_line(self.params), lines
        )
        return b""

    def failure(self) -> UpstreamError | None:
        """Why the answer, which has ended, cannot be passed on as whole; None if it can."""
        exchange = self.exchange
        assert exchange is not None
        if exchange.failure is None:
            status = exchange.protocol_status
            if status in (_COMPLETE, _UNKNOWN_ROLE):
                return None
            if status == ProtocolStatus.OVERLOADED:
                return UpstreamOverloaded(f"{exchange.connection.peer} is overloaded")
        return failure_of(exchange)

    def cut_short(self, app_status: int) -> UpstreamError | None:
        """What an application status says of an answer, if it is to mean something.

        A program may well end so when its answer is whole; with a Content-Length that is known.

        Args:
            app_status: what the answer has ended with.

        Returns:
            The failure to be reported; None if the answer is whole, or taken for it.
        """
        if not self.channel.relay.config.fail_on_app_status:
            return None
        if self.request.role == Role.AUTHORIZER or self.params.get("REQUEST_METHOD") == "HEAD":
            return None
        try:
            found = ResponseHeadReader(len(self.first)).feed(self.first)
        except ResponseError:
            found = None
        if found is not None:
            head, rest = found
            if not head.has_body:
                return None
            if head.length is not None and self.sent - len(self.first) + len(rest) >= head.length:
                return None
        return UpstreamBroken(f"the request was ended with application status {app_status}")

    def try_again(self, failure: UpstreamError) -> bool:
        """Send it once more, if nothing was sent that cannot be repeated.

        After CANT_MPX_CONN, when the app cannot have begun, always; after a connection that
        broke, once, and only if the request may be done twice.

        Returns:
            Whether it is under way again.
        """
        exchange = self.exchange
        assert exchange is not None
        if self._kept is None or self._tries >= _TRIES:
            return False
        if exchange.protocol_status == ProtocolStatus.CANT_MPX_CONN:
            owner = exchange.connection.owner
            assert isinstance(owner, Upstream)
            owner.does_not_multiplex()
        elif not (
            self._tries == 1
            and isinstance(failure, UpstreamBroken)
            and exchange.protocol_status is None
            and self.params.get("REQUEST_METHOD") in IDEMPOTENT
        ):
            return False
        self.exchange = None
        exchange.close()
        self.channel.relay.queue.begin(self)
        return True

    def fail(self, failure: UpstreamError) -> None:
        """Answer that there is no answer."""
        self.channel.refuse(self.request, failure.status, str(failure))

    # The end.

    def close(self) -> None:
        """Need nothing more of it; behind it is aborted, if it has not ended."""
        self.request.context = None
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.close()
        else:
            self.channel.relay.queue.forget(self)
        self._kept = None
        if self._full:
            self._full = False
            self.channel.resume()
