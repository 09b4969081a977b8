"""One connection of a web server to the relay."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable
from typing import Any, Final, final

from vsgi_fcgi.client.exchange import Exchange
from vsgi_fcgi.exceptions import ResponseError, UpstreamBroken
from vsgi_fcgi.protocol import (
    NOT_AUTHORIZED,
    DataEnded,
    Event,
    Request,
    RequestAborted,
    RequestRejected,
    RequestStarted,
    Role,
    StdinEnded,
)
from vsgi_fcgi.relay.config import RelayConfig
from vsgi_fcgi.relay.relayed import Relayed, RelayServices, relayed_of
from vsgi_fcgi.transport.closing import Outcome, Peer
from vsgi_fcgi.transport.connection import BATCH_IF_FULL, Connection, Writer
from vsgi_fcgi.transport.connections import Connections
from vsgi_fcgi.transport.thread_affinity import main_only
from vsgi_fcgi.transport.timeouts import Timeouts
from vsgi_fcgi.transport.unpatched import poll
from vsgi_fcgi.wsgi.environ import request_line
from vsgi_fcgi.wsgi.response import error_response

# Sends the responses of the relay's requests on one connection of a web server.

_SLICE: Final = 65536
"""Bytes that one request may send before it is the next one's turn."""
_SMALL: Final = 8192
"""Maximum size of a complete response that is sent in one piece."""


@final
class RelayWriter(Writer[Relayed]):
    """Sends the responses of application servers.

    Args:
        connection: the connection.
        services: the services of the relay.
    """

    __slots__ = ("_keeps_first",)

    def __init__(self, connection: Connection[Any], services: RelayServices) -> None:
        super().__init__(connection, services.connections)
        self._keeps_first = services.config.fail_on_app_status

    def take_slice(self, relayed: Relayed) -> int:
        """Give the protocol the next slice of a response, and queue it again if it has more.

        Returns:
            The number of bytes taken.
        """
        exchange = relayed.exchange
        if exchange is None:
            return 0
        try:
            return self._take_slice(relayed, exchange)
        except OSError as error:
            relayed.give_up(502, f"its temporary file cannot be read: {error}")
        except ResponseError as error:
            # The headers are invalid, and nothing of them was sent.
            relayed.fail(UpstreamBroken(str(error)))
        return 0

    def _take_slice(self, relayed: Relayed, exchange: Exchange) -> int:
        if exchange.ended and not relayed.begun:
            failure = relayed.failure()
            if failure is not None:
                if not relayed.try_again(failure):
                    relayed.fail(failure)
                return 0
            if exchange.held <= _SMALL and not exchange.spooled:
                return self._answer_whole(relayed, exchange)
        protocol, request = self._protocol, relayed.request
        size = 0
        memory = self._memory
        max_size = _SLICE if memory.used < memory.limit else BATCH_IF_FULL
        while size < max_size and (piece := exchange.take()) is not None:
            if not relayed.begun:
                piece = relayed.skip_interim(piece)
                if not piece:
                    continue
                relayed.begun = True
                size += self._send_stderr(relayed)
                if self._keeps_first:
                    relayed.first = piece
            size += len(piece)
            relayed.sent += len(piece)
            protocol.send_stdout(request, piece)
        if exchange.has_more:
            self.line_up(relayed)
        elif exchange.ended:
            if not relayed.begun:
                return self._answer_whole(relayed, exchange)
            self._end(relayed, exchange)
        return size

    def _answer_whole(self, relayed: Relayed, exchange: Exchange) -> int:
        """Send a small response that is complete, STDERR first."""
        protocol, request = self._protocol, relayed.request
        pieces = []
        while (piece := exchange.take()) is not None:
            pieces.append(piece)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        data = relayed.skip_interim(data, whole=True)
        if not data and request.role == Role.AUTHORIZER:
            data = NOT_AUTHORIZED
        if exchange.app_status:
            relayed.first, relayed.sent = data, len(data)
            failure = relayed.cut_short(exchange.app_status)
            if failure is not None:
                relayed.fail(failure)
                return 0
        stderr = relayed.take_stderr()
        status, protocol_status = exchange.app_status, exchange.protocol_status
        relayed.close()
        if stderr:
            protocol.send_stderr(request, stderr)
        if not protocol_status:
            protocol.respond(request, data, status)
        else:
            protocol.send_stdout(request, data)
            protocol.end_request(request, status, protocol_status)
        self._connection.count_params()
        return len(stderr) + len(data)

    def _send_stderr(self, relayed: Relayed) -> int:
        """Send the STDERR received so far before STDOUT, where nginx's catch_stderr looks for it.

        Returns:
            The number of bytes added to the output.
        """
        stderr = relayed.take_stderr()
        if not stderr:
            return 0
        relayed.stderr_begun = True
        return self._protocol.send_stderr(relayed.request, stderr, last=False)

    def _end(self, relayed: Relayed, exchange: Exchange) -> None:
        """End a request after its last STDOUT, and send the rest of its STDERR."""
        failure = relayed.failure()
        if failure is None and exchange.app_status:
            failure = relayed.cut_short(exchange.app_status)
        if failure is not None:
            relayed.break_off(str(failure))
            return
        protocol, request = self._protocol, relayed.request
        stderr = relayed.take_stderr()
        status, protocol_status = exchange.app_status, exchange.protocol_status
        relayed.close()
        if stderr or relayed.stderr_begun:
            protocol.send_stderr(request, stderr)
        protocol.end_request(request, status, protocol_status or 0)
        self._connection.count_params()


_RETRY_AFTER: Final = 1
"""The value of Retry-After in a response of status 503, in seconds."""


@final
class RelayConnection(Connection[RelayWriter]):
    """A connection whose requests application servers answer.

    Args:
        services: the services of the relay.
        sock: the accepted socket, non-blocking.
        peer: the peer.
    """

    __slots__ = ("_services",)

    def __init__(self, services: RelayServices, sock: Any, peer: Peer) -> None:
        super().__init__(services.connections, services.make_protocol(), sock, peer)
        self._services = services
        self.writer = RelayWriter(self, services)

    def handle(self, events: Iterable[Event]) -> None:
        """Handle events of the protocol: forward requests and their input."""
        for event in events:
            kind = type(event)
            request = event.request
            if kind is RequestStarted:
                started = request.owner = Relayed(self._services, self, request)
                self._services.queue.begin(started)
            elif isinstance(event, RequestRejected):
                self.refuse(request, event.status, event.reason)
            elif (relayed := relayed_of(request)) is None:
                # The request was answered early, perhaps because of the previous event.
                continue
            elif kind is RequestAborted:
                self.ended_badly(f"request {request.id}: the web server has aborted it")
                relayed.close()
            elif kind is StdinEnded or kind is DataEnded:
                relayed.end_input()
            else:
                try:
                    relayed.put(event.data)  # type: ignore[union-attr]
                except MemoryError:
                    relayed.give_up(503, "the system has no memory for its body")

    # Answers.

    @main_only
    def refuse(self, request: Request, status: int, reason: str) -> None:
        """Answer a request with an error, and discard the rest of its input.

        Args:
            request: the request, of which no response was sent.
            status: the HTTP status.
            reason: the reason, for the log.
        """
        relayed = relayed_of(request)
        params = relayed.params if relayed is not None else {}
        log = self._services.log
        write = log.warning if status in (502, 504) else log.info
        write("%s: %s was answered %d: %s", self.peer, request_line(params), status, reason)
        if status in (400, 502, 504):
            self.ended_badly(f"request {request.id} was answered {status}")
        if relayed is not None:
            # It often says why there is no response.
            stderr = relayed.take_stderr()
            relayed.close()
            if stderr:
                self.protocol.send_stderr(request, stderr)
        response = error_response(
            status,
            head_only=params.get("REQUEST_METHOD") == "HEAD",
            retry_after=_RETRY_AFTER if status == 503 else None,
        )
        self.answer(request, response)

    # One request.

    @main_only
    def abort(self, request: Request, outcome: Outcome) -> None:
        """Abort the upstream request of a request that the web server has given up."""
        relayed = relayed_of(request)
        if relayed is not None:
            relayed.close()

    def has_begun_to_answer(self, request: Request) -> bool:
        """Whether a part of the response was sent before the request was complete."""
        relayed = relayed_of(request)
        return relayed is not None and relayed.begun

    def progress_of(self, request: Request) -> int:
        """Return a number that changes as long as an incomplete request makes progress."""
        relayed = relayed_of(request)
        return request.received + (0 if relayed is None else relayed.sent)

    def time_out(self, request: Request, reason: str) -> None:
        """End an incomplete request that makes no progress."""
        relayed = relayed_of(request)
        if relayed is None:
            self.refuse(request, 408, reason)
        else:
            relayed.give_up(408, reason)


# The timeouts of the relay: those of its connections, of its queue, and web servers that left.

_MAX_INTERVAL: Final = 0.5
"""Maximum number of seconds until the relay sees that a web server has closed its connection while
its request body waits. Such a connection is not read."""

_GONE: Final = select.POLLRDHUP | select.POLLHUP | select.POLLERR | select.POLLNVAL


@final
class RelayTimeouts(Timeouts):
    """Looks at the connections of web servers and at the queue.

    Args:
        connections: all connections.
        config: the settings.
        look_at_queue: ends requests that have waited too long; called with the monotonic time.
    """

    def __init__(
        self,
        connections: Connections[Any],
        config: RelayConfig,
        look_at_queue: Callable[[float], object],
    ) -> None:
        super().__init__(connections, config, min(_MAX_INTERVAL, config.wait_timeout / 4))
        self._look_at_queue = look_at_queue

    def look(self, now: float) -> None:
        """Look at the queue, at all connections, and for web servers that have left."""
        self._look_at_queue(now)
        super().look(now)
        self._lose_gone()

    def _lose_gone(self) -> None:
        """Close the connections that their web servers have closed, of those that are not read."""
        paused = {each.sock.fileno(): each for each in self._connections if each.paused}
        if not paused:
            return
        poller = poll()
        for fd in paused:
            poller.register(fd, select.POLLRDHUP)
        for fd, what in poller.poll(0):
            if what & _GONE:
                paused[fd].lose()
