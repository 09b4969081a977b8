"""One accepted connection of the server: reads its requests, and sends their responses.

`ServerConnection` passes the events of the protocol to a `RequestReader`, which makes requests of
them and answers those that an app cannot get. Complete requests go to the workers. Their responses
come back to the `ResponseWriter` of the connection.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic_ns
from typing import Any, Final, Protocol, cast, final

from vsgi_fcgi.children import silence
from vsgi_fcgi.front_ends.base import BrokenEnd
from vsgi_fcgi.front_ends.caddy import UNKNOWN_LENGTH
from vsgi_fcgi.front_ends.registry import advice_on_missing_body, broken_end, omits_end_of_stdin
from vsgi_fcgi.log.access_log import AccessLog
from vsgi_fcgi.protocol import (
    BROKEN_ANSWER,
    NOT_AUTHORIZED,
    DataEnded,
    DataReceived,
    Event,
    Limits,
    Outbound,
    Request,
    RequestAborted,
    RequestRejected,
    RequestStarted,
    Role,
    RoleRefused,
    ServerProtocol,
    StdinEnded,
    StdinReceived,
)
from vsgi_fcgi.protocol.constants import Buffer
from vsgi_fcgi.protocol.records import view_rest
from vsgi_fcgi.server.body import Body
from vsgi_fcgi.server.config import Config
from vsgi_fcgi.server.exchange import (
    CANCELLED,
    ENDED,
    FINISHED,
    HELD,
    READING,
    SUBMITTED,
    Carrier,
    Exchange,
    LoggedExchange,
)
from vsgi_fcgi.server.roles import ROLE_NAMES
from vsgi_fcgi.server.services import Services
from vsgi_fcgi.server.workers.base import Dispatcher
from vsgi_fcgi.transport.closing import ClosableConnection, Outcome, Peer
from vsgi_fcgi.transport.connection import Connection, Writer
from vsgi_fcgi.transport.connections import Connections
from vsgi_fcgi.transport.spool_file import Extent
from vsgi_fcgi.transport.thread_affinity import main_only
from vsgi_fcgi.wsgi.environ import (
    byte_count,
    check_seconds,
    content_length,
    join_repeated,
    request_line,
)
from vsgi_fcgi.wsgi.response import error_response

_ENDED = Outbound.ENDED
_RESPONDER: Final = int(Role.RESPONDER)

_RETRY_AFTER: Final = 1
"""Seconds after which a client may try again when the server was overloaded."""

_MAX_SOFTWARE: Final = 16
"""Maximum number of web servers for which a body that is not sent is logged, once for each."""


class RequestReader:
    """Reads the requests of each connection. What it knows of a request is in its `Exchange`.

    Args:
        services: the services of the server.
        dispatcher: takes the complete requests.
        access_log: the access log, or None if there is none.

    Attributes:
        make_exchange: the class of the exchanges, which depends on what is logged and shown.
    """

    __slots__ = (
        "_access_log",
        "_dispatcher",
        "_refused_roles",
        "_sends_no_body",
        "_services",
        "make_exchange",
    )

    def __init__(
        self, services: Services, dispatcher: Dispatcher, access_log: AccessLog | None
    ) -> None:
        self._services = services
        self._dispatcher = dispatcher
        self._access_log = access_log
        self.make_exchange: type[Exchange] = Exchange
        self._refused_roles: set[str] = set()
        self._sends_no_body: set[str] = set()

    @main_only
    def handle(self, connection: Carrier, events: Iterable[Event]) -> None:
        """Take the events of a connection's protocol."""
        for event in events:
            kind = type(event)
            request = event.request
            if request.outbound is _ENDED:
                # Aborted; or answered early, perhaps because of the event before this one.
                if kind is RequestAborted:
                    connection.ended_badly(f"request {request.id}: the web server has aborted it")
                    self.abort(self.exchange_of(connection, request))
                elif kind is RoleRefused:
                    self._log_refused_role(connection, request)
            elif kind is RequestStarted:
                self._start(self.make_exchange(connection, request))
            elif kind is RequestRejected:
                self._reject(connection, event)
            else:
                # No `cast`, which would be a call for every request.
                exchange: Exchange = request.owner  # type: ignore[assignment]
                if exchange.state is not READING:
                    continue  # submitted early: its web server omits the end of STDIN
                if kind is StdinEnded:
                    if exchange.body is None:
                        self._dispatcher.submit(exchange)
                    else:
                        self._end(exchange, exchange.body)
                elif isinstance(event, StdinReceived):
                    self._receive(exchange, exchange.body, event.data)
                else:
                    self._handle_data(exchange, event)

    def exchange_of(self, connection: Carrier, request: Request) -> Exchange:
        """Return the exchange of a request; make one if its params have not all come."""
        exchange = cast("Exchange | None", request.owner)
        return self.make_exchange(connection, request) if exchange is None else exchange

    def _reject(self, connection: Carrier, event: Event) -> None:
        """Answer a request that the protocol has rejected."""
        assert isinstance(event, RequestRejected)
        self.exchange_of(connection, event.request).refuse(event.status, event.reason)

    def _log_refused_role(self, connection: Carrier, request: Request) -> None:
        """Log each refused role once: the web server's configuration is wrong, or ours is."""
        role = ROLE_NAMES.get(request.role, "unknown")
        if role not in self._refused_roles:
            self._refused_roles.add(role)
            self._services.log.warning(
                "%s: a request for the role %s was answered with UNKNOWN_ROLE, because no app"
                " serves this role; further ones are not logged;"
                " --authorizer and --filter name apps for these roles",
                connection.peer,
                role,
            )

    def _handle_data(self, exchange: Exchange, event: Event) -> None:
        """Take a piece of DATA, or its end. Only a filter has this stream."""

    def _start(self, exchange: Exchange) -> None:
        """Take a request whose params have come."""
        request = exchange.request
        params = request.params
        if request.repeated:
            # First, because what follows decides by values that may have come more than once.
            join_repeated(params, request.repeated)
            request.repeated = ()
        if not params.get("REQUEST_METHOD"):
            exchange.refuse(400, "it has no REQUEST_METHOD")
        elif params.get("CONTENT_LENGTH"):
            if params["CONTENT_LENGTH"] == UNKNOWN_LENGTH:
                params["CONTENT_LENGTH"] = ""
                return
            try:
                expected = content_length(params)
            except ValueError as error:
                exchange.refuse(400, str(error))
                return
            if expected and expected > self._services.config.max_body_bytes:
                self._refuse_size(exchange)
            elif expected is None:
                return
            elif expected:
                exchange.body = self._make_body(exchange, expected)
            elif request.role == _RESPONDER and omits_end_of_stdin(params):
                # The protocol reports no more input of it, except for what it has read already.
                exchange.connection.protocol.discard(request)
                self._dispatcher.submit(exchange)

    def _make_body(self, exchange: Exchange, expected: int | None) -> Body:
        body = Body(self._services, exchange, expected)
        if self._access_log is not None:
            body.began = monotonic_ns()
        return body

    def _receive(self, exchange: Exchange, body: Body | None, data: Buffer) -> None:
        """Take a piece of a body."""
        if body is None:
            expected = 0 if exchange.request.params.get("CONTENT_LENGTH") else None
            body = exchange.body = self._make_body(exchange, expected)
        if body.expected is None and body.size + len(data) > self._services.config.max_body_bytes:
            self._refuse_size(exchange)
        else:
            body.receive(data)

    def _end(self, exchange: Exchange, body: Body) -> None:
        """Take the end of a body."""
        if body.expected and not body.size:
            self._drop_length(exchange, body)
        if body.expected is not None and body.size < body.expected:
            exchange.refuse(400, f"{body.size} bytes of a body of {body.expected} came")
        else:
            body.end()

    def _drop_length(self, exchange: Exchange, body: Body) -> None:
        """Treat a body of which nothing came as empty, whatever its CONTENT_LENGTH says.

        Some web servers pass the client's CONTENT_LENGTH on with requests that they make without
        the client's body. A client that disconnects leaves a part of the body, or no end of STDIN.
        """
        params = exchange.request.params
        length = params.pop("CONTENT_LENGTH")
        body.expected = None
        software = params.get("SERVER_SOFTWARE", "")[:100]
        known = self._sends_no_body
        if software in known or len(known) >= _MAX_SOFTWARE:
            return
        known.add(software)
        self._services.log.info(
            "%s: %s: CONTENT_LENGTH is %s, and no body was sent. The app runs with an empty body"
            " and without CONTENT_LENGTH, and later requests like this one are not logged.%s",
            exchange.connection.peer,
            request_line(params),
            length,
            advice_on_missing_body(params.get("SERVER_SOFTWARE")),
        )

    @main_only
    def complete_body(self, exchange: Exchange) -> None:
        """Submit a request whose body is complete."""
        self._dispatcher.submit(exchange)

    def _refuse_size(self, exchange: Exchange) -> None:
        limit = self._services.config.max_body_bytes
        exchange.refuse(413, f"its body is larger than {limit} bytes")

    @main_only
    def refuse(self, exchange: Exchange, status: int, reason: str) -> None:
        """Answer a request with an error, without running an app.

        Args:
            exchange: the exchange; the rest of its request is discarded.
            status: the HTTP status.
            reason: the reason, for the log.
        """
        params = exchange.params
        self._services.count(f"refused_{status}")
        self._services.log.info(
            "%s: %s was answered %d: %s",
            exchange.connection.peer,
            request_line(params),
            status,
            reason,
        )
        if status == 400:
            exchange.connection.ended_badly(f"request {exchange.request.id} is invalid")
        head_only = params.get("REQUEST_METHOD") == "HEAD"
        retry_after = _RETRY_AFTER if status == 503 else None
        response = error_response(status, head_only=head_only, retry_after=retry_after)
        if self._access_log is not None:
            outcome = Outcome.TIMED_OUT if status == 408 else Outcome.REFUSED
            self._access_log.refused(cast(LoggedExchange, exchange), response, outcome)
        exchange.answer(response)

    @main_only
    def abort(self, exchange: Exchange, outcome: Outcome = Outcome.CANCELLED) -> None:
        """Release what a request holds that was given up, or whose connection was lost.

        Args:
            exchange: the exchange.
            outcome: the reason, for the access log.
        """
        if self._access_log is not None:
            self._access_log.given_up(cast(LoggedExchange, exchange), outcome)
        self._services.count("aborted")
        submitted = exchange.state is SUBMITTED
        exchange.cancel()
        if submitted and self._dispatcher.forget(exchange):
            exchange.end_run()


# Reads the requests of authorizers and filters; used only if one of them is served.

_AUTHORIZER: Final = int(Role.AUTHORIZER)
_FILTER: Final = int(Role.FILTER)


class RoleRequestReader(RequestReader):
    """Reads requests without STDIN as well, and those with DATA after it.

    The file of a filter is gathered like a body, in memory and then in a temporary file, and
    within the same limits. It is the exchange's `data`.
    """

    __slots__ = ()

    def _start(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.role == _AUTHORIZER:
            if request.repeated:
                join_repeated(request.params, request.repeated)
                request.repeated = ()
            # It belongs to the client's request, whose body an authorizer does not get.
            request.params.pop("CONTENT_LENGTH", None)
        super()._start(exchange)
        if exchange.state is READING:
            if request.role == _AUTHORIZER:
                self._dispatcher.submit(exchange)
            elif request.role == _FILTER:
                self._expect_file(exchange)

    def _expect_file(self, exchange: Exchange) -> None:
        params = exchange.request.params
        limit = self._services.config.max_body_bytes
        try:
            expected = byte_count(params, "FCGI_DATA_LENGTH")
            check_seconds(params, "FCGI_DATA_LAST_MOD")
        except ValueError as error:
            exchange.refuse(400, str(error))
            return
        if expected is not None and expected > limit:
            self._refuse_file(exchange, f"its file is larger than {limit} bytes")
            return
        exchange.data = Body(self._services, exchange, expected)
        exchange.body = self._make_body(exchange, byte_count(params, "CONTENT_LENGTH"))

    def _handle_data(self, exchange: Exchange, event: Event) -> None:
        data = exchange.data
        if data is None:
            return
        if isinstance(event, DataReceived):
            self._receive_file(exchange, data, event.data)
        elif isinstance(event, DataEnded):
            self._end_file(exchange, data)

    def _receive_file(self, exchange: Exchange, data: Body, piece: Buffer) -> None:
        size, limit = data.size + len(piece), self._services.config.max_body_bytes
        if data.expected is not None and size > data.expected:
            reason = f"more of its file came than the {data.expected} bytes of FCGI_DATA_LENGTH"
            self._refuse_file(exchange, reason)
        elif size > limit:
            self._refuse_file(exchange, f"its file is larger than {limit} bytes")
        else:
            data.receive(piece)

    def _end_file(self, exchange: Exchange, data: Body) -> None:
        if data.expected is not None and data.size < data.expected:
            reason = f"{data.size} bytes of its file of {data.expected} came"
            self._refuse_file(exchange, reason)
        else:
            data.end()

    def _refuse_file(self, exchange: Exchange, reason: str) -> None:
        """Refuse a request because of its file. The status is 500: it is not the client's fault."""
        exchange.refuse(500, reason)

    @main_only
    def complete_body(self, exchange: Exchange) -> None:
        """Submit a request when its body is complete, and its file too if it has one."""
        body, data = exchange.body, exchange.data
        if data is None or (body is not None and body.complete and data.complete):
            self._dispatcher.submit(exchange)


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
        if response is None:
            # The whole response in one piece. If the app has ended, `finish` follows.
            if exchange.state is SUBMITTED and not exchange.closed:
                exchange.queue_final()
                self.queue(exchange)
            return
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
        if exchange.held is not None and not exchange.broken:
            exchange.hold()
            return
        response = exchange.response
        if response is not None:
            # Their announcement is lost if an exception was raised in the worker at that moment.
            response.take()
        elif not self._ready and not self.blocked and not exchange.broken:
            self._complete(exchange)
            self.touch()
            return
        if not exchange.queued and not (response is not None and response.loading):
            exchange.queue_final()
            self.queue(exchange)

    @main_only
    def end_held(self, exchange: Exchange) -> None:
        """End an exchange that was held."""
        if not self._ready and not self.blocked:
            self._complete(exchange)
            self.touch()
        elif not exchange.queued:
            exchange.queue_final()
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
            return self._take_held(exchange) if state is HELD else 0
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

    def _take_held(self, exchange: Exchange) -> int:
        """Send the pieces of a held stream, and end it if there is no further piece."""
        held, holder = exchange.held, self._services.held
        assert held is not None
        assert holder is not None
        size = 0
        while held.pieces and size < _SLICE:
            piece = holder.take_piece(held)
            self._protocol.send_stdout(exchange.request, piece)
            size += len(piece)
            exchange.begun = True
        if held.pieces:
            self.line_up(exchange)
        elif held.ending:
            holder.forget(held)
            exchange.release()
            self._complete(exchange)
        else:
            holder.drained(held)
        return size

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
            self._connection.ended_badly(f"request {request.id}: the app's response is incomplete")
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
        self._connection.ended_badly(f"request {exchange.request.id} has run or waited too long")
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
        reader: reads the requests that arrive on each connection.
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
