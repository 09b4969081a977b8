"""One connection to a FastCGI application server, which may be multiplexed.

A `Connection` owns the socket. It passes received bytes to `ClientProtocol`, and each event to the
`Exchange` of its request. A `Sender` does the writing.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain
from time import monotonic
from typing import Any, Final, Protocol

from vsgi_fcgi.children import silence
from vsgi_fcgi.client.config import ClientConfig
from vsgi_fcgi.client.exchange import Exchange, exchange_of
from vsgi_fcgi.exceptions import (
    ReaderStalled,
    RemoteProtocolError,
    UpstreamBroken,
    UpstreamError,
    UpstreamTimeout,
)
from vsgi_fcgi.protocol import Role
from vsgi_fcgi.protocol.client import ClientProtocol
from vsgi_fcgi.protocol.constants import Buffer
from vsgi_fcgi.protocol.events import (
    ClientEvent,
    RequestEnded,
    StdoutReceived,
    TypeRefused,
    ValuesReceived,
)
from vsgi_fcgi.protocol.records import drop_sent
from vsgi_fcgi.protocol.state import Sending
from vsgi_fcgi.transport.loop import READ, WRITE, Loop, Watcher
from vsgi_fcgi.transport.quota import Quota

# The writing half of a connection to an application server, fair to all of its requests.

_BATCH_SIZE: Final = 65536
"""Bytes that are queued for the socket at a time; a new request waits for no more than these."""
_MAX_BUFFERS: Final = 64
_TURN_SIZE: Final = 262144
"""Maximum bytes that are sent before other callbacks of the loop run."""


class Sender:
    """Sends the output of a connection's protocol, and the bodies of its requests in turns.

    Args:
        connection: the connection.
        sock: the socket of the connection.
    """

    def __init__(self, connection: Connection, sock: Any) -> None:
        self._connection = connection
        self._sock = sock
        self._loop = connection.loop
        self._turns: deque[Exchange] = deque()
        self._unsent: list[Buffer] = []
        self._flushing = False
        self._blocked = False
        self._blocked_since = 0.0
        self._watcher: Watcher = self._loop.io(sock.fileno(), WRITE)

    def add(self, exchange: Exchange) -> None:
        """Queue a request that has a piece of its body to send."""
        self._turns.append(exchange)
        self.send_soon()

    def send_soon(self) -> None:
        """Schedule one send for all requests, at the end of the loop's iteration."""
        if not self._flushing and not self._blocked:
            self._flushing = True
            self._loop.run_callback(self._flush)

    def blocked_for(self, now: float) -> float:
        """Return for how many seconds the socket has accepted no output.

        Args:
            now: the monotonic time in seconds.
        """
        return now - self._blocked_since if self._blocked else 0.0

    def unsent(self) -> set[int]:
        """Return the ids of the requests whose PARAMS the kernel has not accepted completely."""
        protocol = self._connection.protocol
        left = {
            id(buffer.obj if isinstance(buffer, memoryview) else buffer)
            for buffer in chain(self._unsent, protocol.outgoing)
        }
        return {number for number, request in protocol.requests.items() if id(request.head) in left}

    def _on_writable(self) -> None:
        self._watcher.stop()
        self._blocked = False
        self._flush()

    def _flush(self) -> None:
        self._flushing = False
        left = _TURN_SIZE
        connection = self._connection
        try:
            while not connection.closed:
                if not self._unsent and not self._line_up():
                    return
                left -= self._send_once()
                if self._blocked:
                    return
                if left <= 0:
                    self._block()
        except OSError:
            self._blocked = True
            self._blocked_since = monotonic()
            connection.sending_failed()
            self._unsent.clear()
        except Exception as error:
            connection.owner.log.warning(
                "%s: internal error of the client: %r; the connection is closed",
                connection.peer,
                error,
            )
            connection.fail_all(f"internal error of the client: {error!r}")

    def _line_up(self) -> bool:
        """Queue the next output: the protocol's own records first, then bodies in turns."""
        unsent, protocol, turns = self._unsent, self._connection.protocol, self._turns
        size = 0
        while True:
            out = protocol.data_to_send()
            unsent.extend(out)
            size += sum(map(len, out))
            if not turns or size >= _BATCH_SIZE:
                return bool(unsent)
            exchange = turns.popleft()
            if exchange.send_some():
                turns.append(exchange)

    def _send_once(self) -> int:
        buffers = self._unsent[:_MAX_BUFFERS]
        sock = self._sock
        try:
            sent: int = sock.sendmsg(buffers) if len(buffers) > 1 else sock.send(buffers[0])
        except BlockingIOError:
            self._block()
            return 0
        self._unsent = drop_sent(self._unsent, sent)
        if sent < sum(map(len, buffers)):
            self._block()
        return sent

    def _block(self) -> None:
        self._blocked = True
        self._blocked_since = monotonic()
        self._watcher.start(self._on_writable)

    def stop(self) -> None:
        """Stop the watcher."""
        self._watcher.stop()

    def close(self) -> None:
        """Stop the watcher and drop unsent output."""
        self._watcher.stop()
        self._watcher.close()
        self._unsent.clear()
        self._turns.clear()


_RECEIVE_SIZE: Final = 65536

_CLOSED: Final = "the connection was closed"

_RESPONDER: Final = int(Role.RESPONDER)


class Logger(Protocol):
    """The log of the client."""

    def info(self, message: str, *args: object) -> object:
        """Log a message at level info."""

    def warning(self, message: str, *args: object) -> object:
        """Log a message at level warning."""


class Owner(Protocol):
    """The object that has opened a connection."""

    log: Logger
    silent: bool

    def request_ended(self, connection: Connection) -> None:
        """Process the end of a request: the connection has room."""

    def connection_lost(self, connection: Connection) -> None:
        """Process the end of the connection."""


class Connection:
    """Drives one connection with watchers; only the loop's thread may use it.

    Args:
        loop: the event loop of the calling thread.
        sock: a connected, non-blocking socket, which is closed with the connection.
        peer: the name of the application server, for messages.
        config: limits and timeouts.
        memory: the quota for bodies and responses in memory, over all connections.
        spool: the quota for temporary files, over all connections.
        owner: the object that is notified of the end of requests and of the connection.

    Attributes:
        capacity: maximum requests in flight on the connection.
        multiplexed: whether the connection may be used for more than one request.
        retired: whether the connection takes no more requests; it closes after the last one.
        closed: whether the connection is closed.
        served: requests that have ended on the connection.
        idle_since: the monotonic time in seconds when the last request ended.
        paused: whether reading has stopped because the reader of the only request is slow.
    """

    def __init__(
        self,
        loop: Loop,
        sock: Any,
        peer: str,
        config: ClientConfig,
        memory: Quota,
        spool: Quota,
        owner: Owner,
    ) -> None:
        self.loop = loop
        self.peer = peer
        self.config = config
        self.memory = memory
        self.spool = spool
        self.protocol = ClientProtocol()
        self.capacity = 1
        self.multiplexed = False
        self.retired = False
        self.closed = False
        self.served = 0
        self.idle_since = monotonic()
        self.paused = False
        self.on_values: Callable[[dict[str, str] | None], object] | None = None
        self.owner = owner
        self._sock = sock
        self._changed: list[Exchange] = []
        self._reader: Watcher = loop.io(sock.fileno(), READ)
        self._sender = Sender(self, sock)
        self._reader.start(self._on_readable)

    # Requests.

    @property
    def in_flight(self) -> int:
        """The number of requests without END_REQUEST, including aborted ones."""
        return len(self.protocol.requests)

    @property
    def has_room(self) -> bool:
        """Whether another request may begin."""
        return not self.retired and len(self.protocol.requests) < self.capacity

    @property
    def may_pause(self) -> bool:
        """Whether reading can stop without delaying a request other than a slow reader's."""
        requests = self.protocol.requests
        if len(requests) != 1:
            return False
        (request,) = requests.values()
        return request.sending is Sending.ENDED

    @property
    def is_short_of_memory(self) -> bool:
        """Whether responses must go to temporary files, or wait in the socket.

        Responses get half of the memory quota. The other half is reserved for bodies, which cannot
        go to temporary files.
        """
        return 2 * self.memory.used > self.memory.limit

    def is_stale(self) -> bool:
        """Return whether the other side has closed the connection, as far as the kernel knows."""
        if self.closed:
            return True
        try:
            return not self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def begin(
        self,
        block: bytes,
        on_change: Callable[[], object],
        role: int = _RESPONDER,
    ) -> Exchange:
        """Begin a request; see `Exchange` for its body and its response.

        Args:
            block: the encoded params.
            on_change: see `Exchange`.
            role: the role of the application.
        """
        # An application that serves one request at a time accepts no other connection while this
        # one is open. Kept open, this connection would block the application for other clients.
        request = self.protocol.begin_request(block, role, keep_conn=self.multiplexed)
        if not self.multiplexed:
            self.retired = True
        exchange = request.owner = Exchange(self, request, on_change)
        if self.paused:
            self._resume()
        self._sender.send_soon()
        return exchange

    def ask_values(
        self, names: Iterable[str], on_values: Callable[[dict[str, str] | None], object]
    ) -> None:
        """Ask the application server for its capabilities (GET_VALUES).

        Args:
            names: the names of the values.
            on_values: called with the values, or with None if the connection ends before them.
        """
        self.on_values = on_values
        self.protocol.get_values(names)
        self._sender.send_soon()

    def abort(self, exchange: Exchange) -> None:
        """Abort a request; `Exchange.abort` calls this."""
        if self.closed:
            return
        if not self.multiplexed and len(self.protocol.requests) == 1:
            # An application that serves one request at a time does not read ABORT_REQUEST while it
            # works. It notices only that the connection is closed.
            self.close()
            return
        exchange.active_at = monotonic()
        self.protocol.abort(exchange.request)
        if self.paused:
            self._resume()
        self._sender.send_soon()

    def notify(self, exchange: Exchange) -> None:
        """Schedule one call of `on_change`, at the end of the loop's iteration."""
        if not exchange.notified:
            exchange.notified = True
            if not self._changed:
                self.loop.run_callback(self._notify_changed)
            self._changed.append(exchange)

    def _notify_changed(self) -> None:
        notified, self._changed = self._changed, []
        for exchange in notified:
            exchange.notified = False
            try:
                exchange.on_change()
            except Exception as error:
                self.owner.log.warning("%s: the callback of a request failed: %r", self.peer, error)

    def queue_input(self, exchange: Exchange) -> None:
        """Queue a request that has a piece of its body to send."""
        self._sender.add(exchange)

    def sending_failed(self) -> None:
        """Process an error of sending: the other side accepts no more data.

        It may have sent responses before it closed the connection. These are still read, up to the
        end of the connection or a timeout in `check_timeouts`. Unsent requests fail at once,
        because an application server that is stopping may take long to send its last responses.
        """
        self.retired = True
        for number in self._sender.unsent():
            exchange = exchange_of(self.protocol.requests[number])
            if not exchange.ended:
                self._fail(exchange, UpstreamBroken(f"{self.peer}: {_CLOSED}"), unsent=True)

    def _fail(self, exchange: Exchange, failure: UpstreamError, *, unsent: bool) -> None:
        failure.unsent = unsent
        exchange.fail(failure)
        self.notify(exchange)

    # Receiving.

    def _on_readable(self) -> None:
        """Read once. An exception must not escape: it would stop the watcher that calls this."""
        try:
            try:
                data = self._sock.recv(_RECEIVE_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                self.fail_all(f"the connection failed: {error.strerror or error}")
                return
            if not data:
                self.fail_all(_CLOSED)
                return
            events: list[ClientEvent] = []
            try:
                self.protocol.receive_data(data, events)
            except RemoteProtocolError as error:
                # The events before the error are valid.
                self._receive(events)
                self.owner.log.warning("%s: %s; the connection is closed", self.peer, error)
                self.fail_all(str(error))
            else:
                self._receive(events)
        except Exception as error:
            self.owner.log.warning(
                "%s: internal error of the client: %r; the connection is closed", self.peer, error
            )
            self.fail_all(f"internal error of the client: {error!r}")

    def _receive(self, events: list[ClientEvent]) -> None:
        ended = 0
        for event in events:
            if isinstance(event, ValuesReceived):
                self._take_values(event.values)
                continue
            if isinstance(event, TypeRefused):
                continue
            exchange = exchange_of(event.request)
            if isinstance(event, StdoutReceived):
                if not exchange.ended and not self._feed(exchange, event.data):
                    if self.closed:
                        return  # it was given up with its only request
                    continue
            elif isinstance(event, RequestEnded):
                exchange.finish(event.app_status, event.protocol_status)
                # Break the reference cycle of the request and its exchange.
                event.request.owner = None
                ended += 1
            else:
                if not exchange.ended:
                    exchange.feed_stderr(event.data)
                continue
            if not exchange.notified:
                self.notify(exchange)
        if ended:
            self._requests_ended(ended)
        elif not self.paused and self.may_pause:
            self._pause_for_slow_reader()

    def _feed(self, exchange: Exchange, data: Buffer) -> bool:
        try:
            kept = exchange.feed(data)
        except (OSError, MemoryError) as error:
            reason = str(error) or "the system has no memory for it"
            self._give_up(
                exchange, ReaderStalled(f"{self.peer}: cannot store the response: {reason}")
            )
            return False
        if not kept:
            limit = "response_spool_bytes or total_response_spool_bytes"
            self._give_up(
                exchange,
                ReaderStalled(f"{self.peer}: the response is read too slowly: {limit} is reached"),
            )
        return kept

    def _requests_ended(self, count: int) -> None:
        self.served += count
        self.owner.silent = False
        if not self.protocol.requests:
            self.idle_since = monotonic()
            if self.retired:
                self.close()
                return
        self.owner.request_ended(self)

    def _take_values(self, values: dict[str, str] | None) -> None:
        on_values, self.on_values = self.on_values, None
        if on_values is not None:
            on_values(values)

    def _pause_for_slow_reader(self) -> None:
        (request,) = self.protocol.requests.values()
        exchange = exchange_of(request)
        waiting = exchange.waiting
        if exchange.ended or not waiting:
            return
        if waiting >= self.config.response_memory_bytes or self.is_short_of_memory:
            self.paused = True
            self._reader.stop()

    def may_resume(self, exchange: Exchange) -> None:
        """Resume reading if the slow reader has made room."""
        waiting = exchange.waiting
        if not waiting or (
            waiting < self.config.response_memory_bytes // 2 and not self.is_short_of_memory
        ):
            self._resume()

    def _resume(self) -> None:
        self.paused = False
        if not self.closed:
            self._reader.start(self._on_readable)

    # Timeouts.

    def check_timeouts(self, now: float) -> None:
        """End requests that have timed out, and close the connection if it is idle for too long.

        Args:
            now: the monotonic time in seconds.
        """
        config = self.config
        if self._sender.blocked_for(now) > config.response_timeout:
            self.owner.silent = True
            self.fail_all(
                f"nothing could be sent for {config.response_timeout:g} s", UpstreamTimeout
            )
            return
        for request in list(self.protocol.requests.values()):
            exchange = exchange_of(request)
            if exchange.ended:
                # The request was aborted, but the application has not ended it.
                if now - exchange.active_at > config.response_timeout:
                    if not self.retired:
                        self.retired = True
                        self.owner.request_ended(self)
                    if all(exchange_of(other).ended for other in self.protocol.requests.values()):
                        self.close()
                        return
            elif exchange.is_over_memory or self.paused:
                if now - exchange.taken_at > config.stall_timeout:
                    limit = f"{config.stall_timeout:g} s"
                    self._give_up(
                        exchange,
                        ReaderStalled(f"{self.peer}: the response was not read for {limit}"),
                    )
            elif (
                exchange.is_sent
                and now - max(exchange.active_at, exchange.taken_at) > config.response_timeout
            ):
                self.owner.silent = True
                limit = f"{config.response_timeout:g} s"
                self._give_up(exchange, UpstreamTimeout(f"{self.peer} sent nothing for {limit}"))
            if self.closed:
                return
        if not self.protocol.requests and now - self.idle_since > config.upstream_idle_timeout:
            self.close()

    def _give_up(self, exchange: Exchange, failure: UpstreamError) -> None:
        self.owner.log.warning("%s; the request is aborted", failure)
        exchange.fail(failure)
        self.notify(exchange)
        self.abort(exchange)

    # The end.

    def fail_all(self, reason: str, kind: type[UpstreamError] = UpstreamBroken) -> None:
        """Close the connection, and fail every request on it.

        Args:
            reason: the reason, for error messages.
            kind: the class of the error that each request gets.
        """
        if self.closed:
            return
        unsent = self._sender.unsent()
        for request in self.protocol.receive_eof():
            exchange = exchange_of(request)
            if not exchange.ended:
                failure = kind(f"{self.peer}: {reason}")
                self._fail(exchange, failure, unsent=request.id in unsent)
            request.owner = None
        self.close()

    def forked(self, *, stop: bool) -> None:
        """Leave the connection to the parent process after a fork.

        Args:
            stop: whether to stop the watchers; True if the loop may continue in this process.
        """
        self.closed = self.retired = True
        if stop:
            self._reader.stop()
            self._sender.stop()
        silence(self._sock.fileno())

    def close(self) -> None:
        """Close the connection; requests in flight fail."""
        if self.closed:
            return
        if self.protocol.requests:
            self.fail_all("the client closed the connection")
            return
        self.closed = self.retired = True
        self._reader.stop()
        self._reader.close()
        self._sender.close()
        self._sock.close()
        self._take_values(None)
        self.owner.connection_lost(self)
