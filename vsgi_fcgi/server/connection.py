"""One accepted connection of the server."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, Protocol, final

from vsgi_fcgi.children import silence
from vsgi_fcgi.front_ends.base import BrokenEnd
from vsgi_fcgi.front_ends.registry import broken_end
from vsgi_fcgi.log.access_log import AccessLog
from vsgi_fcgi.protocol import (
    BROKEN_ANSWER,
    NOT_AUTHORIZED,
    Event,
    Limits,
    Request,
    Role,
    ServerProtocol,
)
from vsgi_fcgi.protocol.records import view_rest
from vsgi_fcgi.server.config import Config
from vsgi_fcgi.server.exchange import CANCELLED, ENDED, FINISHED, SUBMITTED, Exchange
from vsgi_fcgi.server.request_reader import RequestReader
from vsgi_fcgi.server.services import Services
from vsgi_fcgi.transport.closing import ClosableConnection, Outcome, Peer
from vsgi_fcgi.transport.connection import Connection, Writer
from vsgi_fcgi.transport.connections import Connections
from vsgi_fcgi.transport.spool_file import Extent
from vsgi_fcgi.transport.thread_affinity import main_only

# Sends the responses of the requests on one connection.

_SLICE: Final = 65536
"""Bytes that one request may send before it is the next one's turn.

It takes two records, but most apps yield pieces of this size, which are not cut then.
"""

_MAX_LOADS: Final = 2
"""Maximum number of parts of responses that one connection reads from temporary files at a time."""


@final
class ResponseWriter(Writer[Exchange]):
    """Sends what apps have written, from memory or from a temporary file.

    Args:
        connection: the connection.
        connections: all connections.
        services: the services of the server.
        access_log: the access log, or None if there is none.
    """

    __slots__ = ("_access_log", "_loads", "_services")

    def __init__(
        self,
        connection: ClosableConnection,
        connections: Connections[Any],
        services: Services,
        access_log: AccessLog | None,
    ) -> None:
        super().__init__(connection, connections)
        self._services = services
        self._access_log = access_log
        self._loads = 0

    # Queueing.

    @main_only
    def put(self, exchange: Exchange) -> None:
        """Queue the posted pieces of a response."""
        response = exchange.response
        assert response is not None
        if exchange.state is not SUBMITTED:
            response.drop()
            return
        response.take()
        # No piece may overtake an earlier part that is being read from the file.
        if response.pieces and not exchange.queued and not response.loading:
            self.queue(exchange)

    @main_only
    def finish(self, exchange: Exchange) -> None:
        """End an exchange whose worker has finished."""
        if not exchange.end_run():
            return
        response = exchange.response
        if response is not None:
            # Their announcement is lost if an exception was raised in the worker at that moment.
            response.take()
        elif not self._ready and not self.blocked:
            self._complete(exchange)
            self.touch()
            return
        if not exchange.queued and not (response is not None and response.loading):
            exchange.hold()
            self.queue(exchange)

    def _wait_for_load(self, exchange: Exchange) -> None:
        exchange.queued = True
        if self.waiting is None:
            self.waiting = deque()
        self.waiting.append(exchange)

    def start_waiting(self) -> bool:
        """Read a part of the next response that waits for its file, if one more may be read now.

        Returns:
            Whether one was taken out of ``waiting``.
        """
        if not self.waiting or self._loads >= _MAX_LOADS:
            return False
        exchange = self.waiting.popleft()
        exchange.queued = False
        if exchange.state is SUBMITTED or exchange.state is FINISHED:
            response = exchange.response
            assert response is not None
            part = response.pieces.popleft()
            assert isinstance(part, Extent)
            self._load(exchange, part)
        return True

    # Sending.

    def take_slice(self, exchange: Exchange) -> int:
        """Give the protocol the next slice of a response, and queue it again if it has more.

        Returns:
            The number of bytes taken.
        """
        state = exchange.state
        if state is not SUBMITTED and state is not FINISHED:
            return 0
        response = exchange.response
        size = 0
        if response is not None:
            pieces = response.pieces
            if pieces and exchange.has_stderr and not exchange.begun:
                size = self._send_stderr(exchange)
            while pieces and size < _SLICE:
                piece = pieces.popleft()
                if isinstance(piece, Extent):
                    # Those that wait already come first, or two responses would keep all others
                    # waiting until their files are sent.
                    if self._loads < _MAX_LOADS and not self.waiting:
                        self._load(exchange, piece)
                    else:
                        pieces.appendleft(piece)
                        self._wait_for_load(exchange)
                    return size
                room = _SLICE - size
                if len(piece) > room:
                    pieces.appendleft(view_rest(piece, room))
                    piece = memoryview(piece)[:room]
                self._protocol.send_stdout(exchange.request, piece)
                exchange.begun = True
                length = len(piece)
                size += length
                response.credit(length)
            if pieces:
                self.line_up(exchange)
                return size
        if state is FINISHED:
            self._complete(exchange)
        return size + len(exchange.final) + len(exchange.more)

    def _send_stderr(self, exchange: Exchange) -> int:
        """Send STDERR as far as possible, and end the stream if the exchange is finished."""
        stderr = exchange.take_stderr()
        return self._protocol.send_stderr(
            exchange.request, stderr, last=exchange.state is not SUBMITTED
        )

    def _complete(self, exchange: Exchange) -> None:
        """Send the last piece of STDOUT, STDERR and END_REQUEST in one write."""
        protocol, request = self._protocol, exchange.request
        log = self._access_log
        if log is not None:
            log.completed(exchange)
            if not log.due:
                log.make_lines_soon()
        exchange.end()
        if exchange.broken:
            if self._breaks_off(exchange):
                return
            if not exchange.begun and request.role == Role.AUTHORIZER:
                exchange.final = NOT_AUTHORIZED
            else:
                exchange.app_status = BROKEN_ANSWER
        if exchange.has_stderr:
            if exchange.begun:
                protocol.send_stdout(request, exchange.final)
                exchange.final = b""
            self._send_stderr(exchange)
        last = exchange.final
        if exchange.more:
            protocol.send_stdout(request, last)
            last = exchange.more
        protocol.respond(request, last, exchange.app_status)

    def _breaks_off(self, exchange: Exchange) -> bool:
        """End a broken response without END_REQUEST, if its web server notices nothing else."""
        protocol = self._protocol
        if protocol.multiplexes:
            return False
        end = broken_end(exchange.software, self._connection.sock.getsockname())
        if end is BrokenEnd.END_REQUEST:
            return False
        protocol.break_off(exchange.request, invalid_record=end is BrokenEnd.INVALID_RECORD)
        return True

    @main_only
    def answer_instead(self, exchange: Exchange, response: bytes) -> None:
        """Answer a submitted request, whose worker may continue; break off what was begun."""
        exchange.cancel()
        if not exchange.begun:
            self._protocol.respond(exchange.request, response)
        elif not self._breaks_off(exchange):
            self._protocol.respond(exchange.request, b"", BROKEN_ANSWER)
        self.touch()

    def _load(self, exchange: Exchange, extent: Extent) -> None:
        """Start to read a part of a response from its file; the exchange has no turn until then."""
        response = exchange.response
        assert response is not None
        response.loading = True
        self._loads += 1
        extent = response.next_extent(extent)
        self._services.file_io.submit(
            partial(response.load, extent), partial(self._loaded, exchange, extent.size)
        )

    def _loaded(self, exchange: Exchange, size: int, result: bytes | OSError) -> None:
        response = exchange.response
        assert response is not None
        response.loading = False
        self._loads -= 1
        if self.waiting:
            self.touch()
        if exchange.state is ENDED:
            response.close()
        elif exchange.state is CANCELLED:
            pass  # its worker still uses it
        elif isinstance(result, OSError):
            self._services.log.error("cannot read a response from a temporary file: %s", result)
            self._connection.lose(Outcome.BROKEN)
        else:
            response.loaded(size, result)
            # It has the next turn, because its next part is read only after this one is sent.
            self.queue(exchange, first=True)


def protocol_factory(
    kind: type[ServerProtocol], config: Config, roles: frozenset[int], workers: int
) -> partial[ServerProtocol]:
    """Return what makes the protocol of a connection: its limits, and the answers to GET_VALUES.

    Args:
        kind: the class of the protocol.
        config: the settings.
        roles: the numbers of the roles that are served.
        workers: the number of workers.
    """
    limits = Limits(
        config.max_requests_per_connection, config.max_params_bytes, config.max_params_count
    )
    requests = min(config.max_queued + workers, config.max_requests_per_connection)
    values = {
        "FCGI_MAX_CONNS": str(config.max_connections),
        "FCGI_MAX_REQS": str(requests),
        "FCGI_MPXS_CONNS": "1",
    }
    return partial(kind, limits, values, roles)


class Owner(Protocol):
    """The main context, as its connections see it."""

    services: Services
    connections: Connections[ServerConnection]
    request_reader: RequestReader
    access_log: AccessLog | None

    @property
    def make_protocol(self) -> Callable[[], ServerProtocol]:
        """Makes the protocol of a connection."""


@final
class ServerConnection(Connection[ResponseWriter]):
    """A connection whose requests an app of this process answers.

    Args:
        owner: the main context.
        sock: the accepted socket, non-blocking.
        peer: the peer.

    Attributes:
        services: the services of the server.
        reader: reads the requests of all connections.
    """

    __slots__ = ("reader", "services")

    def __init__(self, owner: Owner, sock: socket.SocketType, peer: Peer) -> None:
        super().__init__(owner.connections, owner.make_protocol(), sock, peer)
        self.services = owner.services
        self.reader = owner.request_reader
        self.writer = ResponseWriter(self, owner.connections, owner.services, owner.access_log)

    def handle(self, events: Iterable[Event]) -> None:
        """Handle events of the protocol, and pass complete requests to the workers."""
        self.reader.handle(self, events)

    @main_only
    def refuse(self, request: Request, status: int, reason: str) -> None:
        """Answer a request with an error, without running an app."""
        self.reader.exchange_of(self, request).refuse(status, reason)

    @main_only
    def abort(self, request: Request, outcome: Outcome) -> None:
        """Release everything that a request holds, after the web server has given it up."""
        self.reader.abort(self.reader.exchange_of(self, request), outcome)

    def forked(self, *, stop: bool) -> None:
        """Leave the connection to the parent process, in a child that an app has forked.

        Args:
            stop: whether the loop may continue in this process.
        """
        if self.closed:
            return
        self.closed = True
        if stop:
            self.stop_reading()
            self.writer.stop()
        for request in self.protocol.requests.values():
            self.reader.exchange_of(self, request).forked()
        silence(self.sock.fileno())
