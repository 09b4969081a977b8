"""One request in the relay with its upstream request, and what all requests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, final

from vsgi_fcgi.client.client import IDEMPOTENT
from vsgi_fcgi.client.connection import Connection as UpstreamConnection
from vsgi_fcgi.client.connection import Logger
from vsgi_fcgi.client.exchange import Exchange, failure_of
from vsgi_fcgi.client.pool import Upstreams
from vsgi_fcgi.client.upstream import Upstream
from vsgi_fcgi.exceptions import (
    ParamsError,
    ResponseError,
    UpstreamBroken,
    UpstreamError,
    UpstreamOverloaded,
)
from vsgi_fcgi.front_ends.base import BrokenEnd
from vsgi_fcgi.front_ends.registry import broken_end, crashes_on_stderr
from vsgi_fcgi.log.handlers import escape_controls
from vsgi_fcgi.protocol import BROKEN_ANSWER, ProtocolStatus, Request, Role, ServerProtocol
from vsgi_fcgi.protocol.constants import Buffer
from vsgi_fcgi.protocol.records import decode_pairs
from vsgi_fcgi.relay.config import RelayConfig
from vsgi_fcgi.relay.queue import RelayQueue
from vsgi_fcgi.transport.connection import Connection
from vsgi_fcgi.transport.connections import Connections
from vsgi_fcgi.transport.quota import append_piece
from vsgi_fcgi.wsgi.environ import request_line
from vsgi_fcgi.wsgi.response_head import InterimFilter, ResponseHeadReader


@dataclass(slots=True, eq=False)
class RelayServices:
    """Everything that a module of the relay may use without knowing who else uses it.

    Attributes:
        config: the settings.
        log: the log.
        upstreams: the application servers.
        queue: requests that wait for an application server.
        connections: all open connections of web servers, and what they share.
        make_protocol: makes the protocol of a connection.
    """

    config: RelayConfig
    log: Logger
    upstreams: Upstreams
    queue: RelayQueue
    connections: Connections[Any]
    make_protocol: Callable[[], ServerProtocol]


_KEPT: Final = 65536
"""Maximum number of bytes of a body that are kept to be sent again. While a request is queued, the
relay also reads no more than that."""

_TRIES: Final = 4
"""Maximum number of times that a request is sent."""

_COMPLETE: Final = int(ProtocolStatus.REQUEST_COMPLETE)
_UNKNOWN_ROLE: Final = int(ProtocolStatus.UNKNOWN_ROLE)


@final
class Relayed:
    """Connects a request of a web server with its exchange with an application server.

    Args:
        services: the services of the relay.
        connection: the connection of the web server.
        request: the request, with complete params.

    Attributes:
        exchange: the upstream request; None while the request is queued and after it has ended.
        queued: the request is in the writer's queue.
        begun: STDOUT was sent to the web server.
        stderr_begun: STDERR was sent to the web server, and its end was not.
        sent: bytes of STDOUT that were passed to the web server's protocol.
        first: the first piece of STDOUT, if it is needed for `cut_short`.
    """

    __slots__ = (
        "_full",
        "_interim",
        "_kept",
        "_kept_size",
        "_memory",
        "_services",
        "_stderr",
        "_tries",
        "begun",
        "connection",
        "exchange",
        "first",
        "queued",
        "request",
        "sent",
        "stderr_begun",
    )

    def __init__(
        self, services: RelayServices, connection: Connection[Any], request: Request
    ) -> None:
        self._services = services
        self.connection = connection
        self.request = request
        self.exchange: Exchange | None = None
        self.queued = False
        self.begun = False
        self.stderr_begun = False
        self.sent = 0
        self.first: Buffer = b""
        # Pieces of STDIN and DATA, and None for the end of each; None if they are too large.
        self._kept: list[Buffer | None] | None = []
        self._kept_size = 0
        self._memory = services.upstreams.memory
        self._full = False
        self._tries = 0
        # The STDERR of earlier tries.
        self._stderr = b""
        # None for a response that begins with a final status.
        self._interim: InterimFilter | None = None

    @property
    def params(self) -> dict[str, str]:
        """The params. They are decoded at each access, which is needed for failures only."""
        block = self.request.raw_params
        try:
            return decode_pairs(block, len(block))[0]
        except ParamsError:
            return {}

    # From the web server to the application server.

    def start(self, upstream: UpstreamConnection) -> None:
        """Send the request on an upstream connection with room for it."""
        self._tries += 1
        request = self.request
        exchange = self.exchange = upstream.begin(request.raw_params, self.on_change, request.role)
        for piece in self._kept or ():
            if piece is None:
                exchange.end_input()
            else:
                exchange.put(piece)
        self._hold_back(exchange)

    def put(self, data: Buffer) -> None:
        """Forward a piece of STDIN or DATA, or keep it while the request is queued."""
        exchange = self.exchange
        if self._kept is not None:
            memory = self._memory
            if memory.used >= memory.limit and exchange is None:
                reason = f"the limit of {memory.limit} bytes of bodies and responses is reached"
                self.connection.refuse(self.request, 503, reason)
                return
            append_piece(self._kept, data)
            self._kept_size += len(data)
            memory.charge(len(data))
            if exchange is None:
                if self._kept_size > _KEPT and not self._full:
                    self._full = True
                    self.connection.pause()
                return
            if self._kept_size > _KEPT or memory.used >= memory.limit:
                self._drop_kept()
        if exchange is not None:
            exchange.put(data)
            self._hold_back(exchange)

    def _drop_kept(self) -> None:
        """Forget the body that was kept to be sent again."""
        self._kept = None
        if self._kept_size:
            self._memory.release(self._kept_size)
            self._kept_size = 0

    def end_input(self) -> None:
        """Forward the end of STDIN or of DATA."""
        if self._kept is not None:
            self._kept.append(None)
        if self.exchange is not None:
            self.exchange.end_input()

    def _hold_back(self, exchange: Exchange) -> None:
        """Pause or resume reading, depending on whether the exchange has room."""
        full = not exchange.has_room
        if full != self._full:
            self._full = full
            if full:
                self.connection.pause()
            else:
                self.connection.resume()

    # From the application server to the web server.

    def on_change(self) -> None:
        """Queue the response if there is something to send. The exchange calls this method."""
        exchange = self.exchange
        if exchange is None:
            return
        if self._full:
            self._hold_back(exchange)
        if not self.queued and (exchange.ended or exchange.has_more):
            self.connection.writer.queue(self)

    def take_stderr(self) -> bytes:
        """Return the STDERR received so far; log it instead for a web server that crashes on it."""
        text, self._stderr = self._stderr, b""
        if self.exchange is not None:
            text += self.exchange.take_stderr()
        if not text or not crashes_on_stderr(self.params.get("SERVER_SOFTWARE")):
            return text
        lines = escape_controls(text.decode("utf-8", "backslashreplace").rstrip("\n"))
        self._services.log.warning(
            "%s: %s: %s", self.connection.peer, request_line(self.params), lines
        )
        return b""

    def skip_interim(self, data: Buffer, *, whole: bool = False) -> Buffer:
        """Drop interim responses (1xx), as the client and the gateway do.

        A web server uses the first header block as the final one. lighttpd allows a request that an
        authorizer answers with 100. nginx forwards a 102, and its client waits for more.

        Args:
            data: the next piece of STDOUT, of which nothing was sent yet.
            whole: the response is complete.

        Returns:
            The bytes that may be sent; none as long as the headers are incomplete.

        Raises:
            ResponseError: there is no final response, or its headers are too long.
        """
        interim = self._interim
        if interim is None:
            if not data or InterimFilter.is_final(data):
                return data
            interim = self._interim = InterimFilter(self._services.config.max_response_head_bytes)
        found = interim.feed(data)
        if found is None:
            return interim.end() if whole else b""
        return found

    def failure(self) -> UpstreamError | None:
        """Return why a response that has ended is not complete, or None if it is complete."""
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
        """Return a failure if the application status means that a response is incomplete.

        A program may also end with a status other than 0 after a complete response. Then a
        Content-Length shows that the response is complete.

        Args:
            app_status: the application status of END_REQUEST.

        Returns:
            The failure, or None if the response counts as complete.
        """
        if app_status == BROKEN_ANSWER:
            return UpstreamBroken("the upstream response is incomplete")
        if not self._services.config.fail_on_app_status:
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
        """Send the request again, if that is safe and its body was kept.

        That is always safe if the app cannot have run: after CANT_MPX_CONN, and if an application
        server that stops has not received the complete request. After a broken connection the
        request is repeated once, and only if its method is idempotent.

        Returns:
            Whether the request was sent or queued again.
        """
        exchange = self.exchange
        assert exchange is not None
        if self._kept is None or self._tries >= _TRIES:
            return False
        if exchange.protocol_status == ProtocolStatus.CANT_MPX_CONN:
            owner = exchange.connection.owner
            assert isinstance(owner, Upstream)
            owner.stop_multiplexing()
        elif not self._cannot_have_begun(exchange, failure) and not (
            self._tries == 1
            and isinstance(failure, UpstreamBroken)
            and exchange.protocol_status is None
            and self.params.get("REQUEST_METHOD") in IDEMPOTENT
        ):
            return False
        self._stderr += exchange.take_stderr()
        self.exchange = None
        self._interim = None
        exchange.close()
        self._services.queue.begin(self)
        return True

    def _cannot_have_begun(self, exchange: Exchange, failure: UpstreamError) -> bool:
        refused = exchange.protocol_status == ProtocolStatus.OVERLOADED
        # If the connection stays open, the application server really is overloaded, and the web
        # server gets a 503.
        return failure.unsent or (refused and exchange.connection.retired)

    def fail(self, failure: UpstreamError) -> None:
        """Answer the request with the status of a failure."""
        self.connection.refuse(self.request, failure.status, str(failure))

    def give_up(self, status: int, reason: str) -> None:
        """End a request that makes no progress.

        Args:
            status: the HTTP status of the response, if nothing was answered yet.
            reason: the reason, for the log.
        """
        if self.begun:
            self.break_off(reason)
        else:
            self.connection.refuse(self.request, status, reason)

    def break_off(self, reason: str) -> None:
        """End a response of which a part was sent, so that the web server sees it is broken."""
        connection, protocol, request = self.connection, self.connection.protocol, self.request
        params = self.params
        self._services.log.warning(
            "%s: the response to %s is broken off: %s",
            connection.peer,
            request_line(params),
            reason,
        )
        connection.ended_badly(f"request {request.id}: the response is broken off")
        # It often says why.
        stderr = self.take_stderr()
        self.close()
        if stderr or self.stderr_begun:
            protocol.send_stderr(request, stderr)
        end = broken_end(params.get("SERVER_SOFTWARE"), connection.sock.getsockname())
        if protocol.multiplexes or end is BrokenEnd.END_REQUEST:
            protocol.end_request(request, BROKEN_ANSWER)
        else:
            protocol.break_off(request, invalid_record=end is BrokenEnd.INVALID_RECORD)
        connection.count_params()
        connection.writer.touch()

    # Closing.

    def close(self) -> None:
        """Release the request. The upstream request is aborted unless it has already ended."""
        self.request.owner = None
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.close()
        else:
            self._services.queue.forget(self)
        self._drop_kept()
        if self._full:
            self._full = False
            self.connection.resume()


def relayed_of(request: Request) -> Relayed | None:
    """Return the object that forwards a request, or None if the request was answered already."""
    relayed = request.owner
    assert relayed is None or isinstance(relayed, Relayed)
    return relayed
