"""One multiplexed connection to a FastCGI application server."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from vsgi_fcgi.budget import Budget
from vsgi_fcgi.client.config import ClientConfig
from vsgi_fcgi.client.exchange import Exchange
from vsgi_fcgi.client.sender import Sender
from vsgi_fcgi.exceptions import (
    ReaderStalled,
    RemoteProtocolError,
    UpstreamBroken,
    UpstreamError,
    UpstreamTimeout,
)
from vsgi_fcgi.loop import READ, Loop, Watcher
from vsgi_fcgi.protocol import Role
from vsgi_fcgi.protocol.client import ClientConnection
from vsgi_fcgi.protocol.events import (
    Buffer,
    ClientEvent,
    RequestEnded,
    StderrReceived,
    StdoutReceived,
    ValuesReceived,
)
from vsgi_fcgi.protocol.state import Sending

_RECEIVE_SIZE: Final = 65536

_RESPONDER: Final = int(Role.RESPONDER)


class Logger(Protocol):
    """What the client writes to its log with."""

    def info(self, message: str, *args: object) -> object:
        """Log what is worth knowing."""

    def warning(self, message: str, *args: object) -> object:
        """Log what somebody should look at."""


class Owner(Protocol):
    """Who has opened a connection."""

    log: Logger

    def has_room(self, connection: Connection) -> None:
        """A request has ended on it."""

    def lost(self, connection: Connection) -> None:
        """It is closed."""


class Connection:
    """Drives one connection by watchers. Everything in it belongs to the loop's thread.

    Args:
        loop: the event loop of the calling thread.
        sock: a connected socket, non-blocking; it is closed with the connection.
        peer: who is on the other side, for messages.
        config: limits and timeouts.
        spool: bytes of temporary files, over all connections.
        owner: is told what becomes of it.

    Attributes:
        capacity: requests that may be in flight on it at once.
        multiplexed: it may be used for more than one request.
        retired: it takes no more requests, and is closed when the last has ended.
        closed: it is over.
        served: requests that have ended on it.
        idle_since: the loop's time when the last request ended, in seconds.
        paused: nothing is read, as its only request's reader is slow.
    """

    def __init__(
        self,
        loop: Loop,
        sock: Any,
        peer: str,
        config: ClientConfig,
        spool: Budget,
        owner: Owner,
    ) -> None:
        self.loop = loop
        self.peer = peer
        self.config = config
        self.spool = spool
        self.protocol = ClientConnection()
        self.capacity = 1
        self.multiplexed = False
        self.retired = False
        self.closed = False
        self.served = 0
        self.idle_since = loop.now()
        self.paused = False
        self.on_values: Callable[[dict[str, str] | None], object] | None = None
        self.owner = owner
        self._sock = sock
        self._told: list[Exchange] = []
        self._reader: Watcher = loop.io(sock.fileno(), READ)
        self._sender = Sender(self, sock)
        self._reader.start(self._on_readable)

    # Requests.

    @property
    def in_flight(self) -> int:
        """Requests of which END_REQUEST has not come, aborted ones included."""
        return len(self.protocol.requests)

    @property
    def has_room(self) -> bool:
        """Whether one more request may begin."""
        return not self.retired and len(self.protocol.requests) < self.capacity

    @property
    def may_pause(self) -> bool:
        """Whether nobody but a slow reader suffers if nothing is read."""
        requests = self.protocol.requests
        if len(requests) != 1:
            return False
        (request,) = requests.values()
        return request.sending is Sending.ENDED

    def is_stale(self) -> bool:
        """Whether the other side has closed it, as far as can be known without asking."""
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
        """Begin a request; see `Exchange` for its body and its answer.

        Args:
            block: its encoded params.
            on_change: see `Exchange`.
            role: what is wanted of the application.
        """
        # An application that serves one request at a time accepts no other connection while it
        # waits for more on this one: it would be lost to all others for as long as this is kept.
        request = self.protocol.begin_request(block, role, keep_conn=self.multiplexed)
        if not self.multiplexed:
            self.retired = True
        exchange = request.context = Exchange(self, request, on_change)
        if self.paused:
            self._resume()
        self._sender.send_soon()
        return exchange

    def ask_values(
        self, names: Iterable[str], on_values: Callable[[dict[str, str] | None], object]
    ) -> None:
        """Ask what the application server can do.

        Args:
            names: what is asked.
            on_values: gets the answer, or None if the connection is lost before it comes.
        """
        self.on_values = on_values
        self.protocol.get_values(names)
        self._sender.send_soon()

    def abort(self, exchange: Exchange) -> None:
        """Give a request up; from `Exchange.abort`."""
        if self.closed:
            return
        if not self.multiplexed and len(self.protocol.requests) == 1:
            # Whoever serves one request at a time reads nothing meanwhile: to go away is the one
            # sign that is seen.
            self.close()
            return
        exchange.active_at = self.loop.now()
        self.protocol.abort(exchange.request)
        if self.paused:
            self._resume()
        self._sender.send_soon()

    def tell(self, exchange: Exchange) -> None:
        """Have `on_change` called, once, when what happens now is over."""
        if not exchange.told:
            exchange.told = True
            if not self._told:
                self.loop.run_callback(self._tell)
            self._told.append(exchange)

    def _tell(self) -> None:
        told, self._told = self._told, []
        for exchange in told:
            exchange.told = False
            try:
                exchange.on_change()
            except Exception as error:
                self.owner.log.warning("%s: %r in the callback of a request", self.peer, error)

    def wants_to_send(self, exchange: Exchange) -> None:
        """Take note of a request that has something of its body to send."""
        self._sender.add(exchange)

    def cannot_send(self) -> None:
        """The other side takes nothing any more.

        Answers may have come before it closed the connection: they are read yet, and then its
        end is. Should that not come, it is `look` that ends it.
        """
        self.retired = True

    # Receiving.

    def _on_readable(self) -> None:
        """Read once. The callback of a watcher: nothing may escape, or the watcher is deaf."""
        try:
            try:
                data = self._sock.recv(_RECEIVE_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                self.lose(f"the connection broke: {error.strerror or error}")
                return
            if not data:
                self.lose("the connection was closed")
                return
            events: list[ClientEvent] = []
            try:
                self.protocol.receive_data(data, events)
            except RemoteProtocolError as error:
                # What came before it is right.
                self._receive(events)
                self.owner.log.warning("%s: %s; the connection is closed", self.peer, error)
                self.lose(str(error))
            else:
                self._receive(events)
        except Exception as error:
            self.owner.log.warning("%s: %r in the client; it is closed", self.peer, error)
            self.lose(f"{error!r} in the client")

    def _receive(self, events: list[ClientEvent]) -> None:
        ended = 0
        for event in events:
            kind = type(event)
            if kind is ValuesReceived:
                self._take_values(event.values)  # type: ignore[union-attr]
                continue
            if kind is StdoutReceived:
                exchange: Exchange = event.request.context  # type: ignore[union-attr]
                if not exchange.ended and not self._feed(exchange, event.data):  # type: ignore[union-attr]
                    continue
            elif kind is RequestEnded:
                exchange = event.request.context  # type: ignore[union-attr]
                exchange.finish(event.app_status, event.protocol_status)  # type: ignore[union-attr]
                # Each holds the other; no more than one of them is needed now.
                event.request.context = None  # type: ignore[union-attr]
                ended += 1
            elif kind is StderrReceived:
                exchange = event.request.context  # type: ignore[union-attr]
                if not exchange.ended:
                    exchange.feed_stderr(event.data)  # type: ignore[union-attr]
                continue
            else:
                continue
            if not exchange.told:
                self.tell(exchange)
        if ended:
            self._requests_ended(ended)
        elif not self.paused and self.may_pause:
            self._pause_for_slow_reader()

    def _feed(self, exchange: Exchange, data: Buffer) -> bool:
        try:
            kept = exchange.feed(data)
        except OSError as error:
            self._give_up(
                exchange, ReaderStalled(f"no room for the answer of {self.peer}: {error}")
            )
            return False
        if not kept:
            limit = "response_spool_bytes or total_response_spool_bytes"
            self._give_up(
                exchange,
                ReaderStalled(f"the answer of {self.peer} is read too slowly: {limit} is reached"),
            )
        return kept

    def _requests_ended(self, count: int) -> None:
        self.served += count
        if not self.protocol.requests:
            self.idle_since = self.loop.now()
            if self.retired:
                self.close()
                return
        self.owner.has_room(self)

    def _take_values(self, values: dict[str, str] | None) -> None:
        on_values, self.on_values = self.on_values, None
        if on_values is not None:
            on_values(values)

    def _pause_for_slow_reader(self) -> None:
        (request,) = self.protocol.requests.values()
        exchange: Exchange = request.context
        if not exchange.ended and exchange.waiting >= self.config.response_memory_bytes:
            self.paused = True
            self._reader.stop()

    def may_resume(self, exchange: Exchange) -> None:
        """Read again, if the slow reader has made room."""
        if exchange.waiting < self.config.response_memory_bytes // 2:
            self._resume()

    def _resume(self) -> None:
        self.paused = False
        if not self.closed:
            self._reader.start(self._on_readable)

    # Timeouts.

    def look(self, now: float) -> None:
        """End what takes too long; called now and then.

        Args:
            now: the loop's time, in seconds.
        """
        config = self.config
        if self._sender.blocked_for(now) > config.response_timeout:
            self.lose(f"nothing could be sent for {config.response_timeout:g} s", UpstreamTimeout)
            return
        for request in list(self.protocol.requests.values()):
            exchange: Exchange = request.context
            if exchange.ended:
                # Given up; the application has not ended it yet.
                if now - exchange.active_at > config.response_timeout:
                    if not self.retired:
                        self.retired = True
                        self.owner.has_room(self)
                    if all(other.context.ended for other in self.protocol.requests.values()):
                        self.close()
                        return
            elif exchange.is_over_memory or self.paused:
                if now - exchange.taken_at > config.stall_timeout:
                    limit = f"{config.stall_timeout:g} s"
                    self._give_up(
                        exchange,
                        ReaderStalled(f"nobody read the answer of {self.peer} for {limit}"),
                    )
            elif (
                exchange.is_sent
                and now - max(exchange.active_at, exchange.taken_at) > config.response_timeout
            ):
                limit = f"{config.response_timeout:g} s"
                self._give_up(exchange, UpstreamTimeout(f"{self.peer} did not answer for {limit}"))
            if self.closed:
                return
        if not self.protocol.requests and now - self.idle_since > config.upstream_idle_timeout:
            self.close()

    def _give_up(self, exchange: Exchange, failure: UpstreamError) -> None:
        self.owner.log.warning("%s; the request is given up", failure)
        exchange.fail(failure)
        self.tell(exchange)
        self.abort(exchange)

    # The end.

    def lose(self, reason: str, kind: type[UpstreamError] = UpstreamBroken) -> None:
        """End it, and every request on it.

        Args:
            reason: why, for those who asked.
            kind: what they get.
        """
        if self.closed:
            return
        for request in self.protocol.receive_eof():
            exchange: Exchange = request.context
            if not exchange.ended:
                exchange.fail(kind(f"{self.peer}: {reason}"))
                self.tell(exchange)
            request.context = None
        self.close()

    def close(self) -> None:
        """Close the socket; requests that are left on it fail."""
        if self.closed:
            return
        if self.protocol.requests:
            self.lose("the connection was given up")
            return
        self.closed = self.retired = True
        self._reader.stop()
        self._reader.close()
        self._sender.close()
        self._sock.close()
        self._take_values(None)
        self.owner.lost(self)
