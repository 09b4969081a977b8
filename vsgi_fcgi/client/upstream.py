"""One FastCGI application server: its connections, and what it has said that it can do."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import gevent
import gevent.socket
from gevent.event import Event

from vsgi_fcgi.addresses import AbstractAddress, Address, InetAddress, UnixAddress
from vsgi_fcgi.budget import Budget
from vsgi_fcgi.client.config import ClientConfig
from vsgi_fcgi.client.connection import Connection, Logger
from vsgi_fcgi.exceptions import (
    UpstreamError,
    UpstreamOverloaded,
    UpstreamUnreachable,
    UsageError,
)
from vsgi_fcgi.loop import Loop
from vsgi_fcgi.native import Socket

VALUES: Final = ("FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS")


class _Waiter:
    """Who waits until there is room."""

    __slots__ = ("event", "failure")

    def __init__(self) -> None:
        self.event = Event()
        self.failure: UpstreamError | None = None


class Upstream:
    """The connections to one application server, and who waits for them.

    What it can do is asked on the first connection (GET_VALUES, section 4.1). Whoever does not
    answer in time, or says that it does not multiplex, gets one request at a time on each of
    many connections.

    Args:
        address: where it listens.
        config: limits and timeouts.
        spool: bytes of temporary files, over all application servers.
        loop: the event loop of the calling thread.
        log: the log.

    Attributes:
        connections: those that are open.
        multiplexes: whether it serves many requests on one connection; None before it was asked.
        accepted: connections that were made so far.
        resting_until: the loop's time until which others are preferred, in seconds.

    Raises:
        UsageError: nobody can connect to such an address.
    """

    def __init__(
        self, address: Address, config: ClientConfig, spool: Budget, loop: Loop, log: Logger
    ) -> None:
        if not isinstance(address, UnixAddress | AbstractAddress | InetAddress):
            raise UsageError(
                f"{address} cannot be connected to; write HOST:PORT, unix:PATH or unix:@NAME"
            )
        self.address = address
        self.log = log
        self.connections: list[Connection] = []
        self.multiplexes: bool | None = None
        self.accepted = 0
        self.resting_until = 0.0
        self._config = config
        self._spool = spool
        self._loop = loop
        self._pause = 0.0
        self._most_requests = config.requests_per_connection
        self._most_connections = config.max_connections
        self._opening = 0
        self._waiting: deque[_Waiter] = deque()
        self._closed = False

    def __str__(self) -> str:
        return str(self.address)

    @property
    def in_flight(self) -> int:
        """Requests that it has not ended."""
        return sum(connection.in_flight for connection in self.connections)

    @property
    def load(self) -> int:
        """How much it has to do, for a comparison with others."""
        return self.in_flight + len(self._waiting) + self._opening

    # Getting a connection.

    def try_acquire(self) -> Connection | None:
        """Find a connection on which a request may begin at once."""
        if self.multiplexes and self.in_flight >= self._most_requests:
            return None
        best: Connection | None = None
        fewest = 0
        stale: list[Connection] = []
        for connection in self.connections:
            if not connection.has_room:
                continue
            count = connection.in_flight
            if not count and connection.served and connection.is_stale():
                stale.append(connection)
                continue
            if best is None or count < fewest:
                best, fewest = connection, count
                if not count:
                    break
        for connection in stale:
            connection.lose("it was closed while nobody used it")
        if fewest and self._may_open():
            return None
        return best

    def acquire(self) -> Connection:
        """Get a connection on which a request may begin; the calling greenlet may wait.

        Raises:
            UpstreamUnreachable: there is none, and none can be made.
            UpstreamOverloaded: too many wait already, or this one has waited too long.
        """
        deadline = 0.0
        while True:
            if self._closed:
                raise UpstreamUnreachable(f"{self}: the client was closed")
            connection = self.try_acquire()
            if connection is not None:
                return connection
            if self._may_open():
                self._open()
                continue
            if not deadline:
                deadline = self._loop.now() + self._config.wait_timeout
            self._wait(deadline)

    def _may_open(self) -> bool:
        if self.multiplexes is None:
            # One goes first and asks.
            return not self._opening
        if self.multiplexes:
            if self.in_flight >= self._most_requests:
                return False
            limit = min(self._config.connections, self._most_connections)
        else:
            limit = self._most_connections
        fresh = sum(not connection.retired for connection in self.connections)
        return fresh + self._opening < limit

    def _wait(self, deadline: float) -> None:
        if len(self._waiting) >= self._config.max_waiting:
            raise UpstreamOverloaded(f"{self}: {len(self._waiting)} requests wait already")
        waiter = _Waiter()
        self._waiting.append(waiter)
        try:
            came = waiter.event.wait(max(0.0, deadline - self._loop.now()))
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
        if waiter.failure is not None:
            raise type(waiter.failure)(str(waiter.failure))
        if not came:
            limit = f"{self._config.wait_timeout:g} s"
            raise UpstreamOverloaded(f"{self}: no room for one more request within {limit}")

    def _wake(self, most: int) -> None:
        while self._waiting and most > 0:
            self._waiting.popleft().event.set()
            most -= 1

    # Making a connection.

    def _open(self) -> None:
        """Make one more connection, and ask on the first what can be done with it."""
        self._opening += 1
        try:
            connection = self._connect()
            if self.multiplexes is None and not self._ask(connection):
                # Nobody knows what state it is in; one that was not asked anything is clean.
                connection.close()
                connection = self._connect()
            if self.multiplexes:
                connection.capacity = self._most_requests
        except UpstreamError as error:
            self._rest(error)
            raise
        finally:
            self._opening -= 1
        self._pause = self.resting_until = 0.0
        # Those who waited for it, and those who may now make one of their own.
        self._wake(len(self._waiting))

    def _connect(self) -> Connection:
        timeout = self._config.connect_timeout
        try:
            with gevent.Timeout(timeout, TimeoutError(f"no connection within {timeout:g} s")):
                sock = self._connected_socket()
        except OSError as error:
            reason = error.strerror or str(error)
            raise UpstreamUnreachable(f"{self} cannot be connected to: {reason}") from None
        if self._closed:
            sock.close()
            raise UpstreamUnreachable(f"{self}: the client was closed")
        self.accepted += 1
        connection = Connection(self._loop, sock, str(self), self._config, self._spool, self)
        self.connections.append(connection)
        return connection

    def _connected_socket(self) -> Any:
        address = self.address
        if isinstance(address, InetAddress):
            made = gevent.socket.create_connection((address.host, address.port))
            made.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        else:
            made = gevent.socket.socket(gevent.socket.AF_UNIX)
            try:
                made.connect(
                    address.path if isinstance(address, UnixAddress) else f"\0{address.name}"
                )
            except BaseException:
                made.close()
                raise
        # The C class, without a layer that waits: the connection has watchers of its own.
        sock = Socket(made.family, made.type, made.proto, made.detach())
        sock.setblocking(False)
        return sock

    def _ask(self, connection: Connection) -> bool:
        """Ask what it can do; returns whether the connection can be used afterwards."""
        answers: list[dict[str, str] | None] = []
        came = Event()

        def on_values(values: dict[str, str] | None) -> None:
            answers.append(values)
            came.set()

        connection.ask_values(VALUES, on_values)
        came.wait(self._config.values_timeout)
        values = answers[0] if answers else None
        if values is None:
            self.multiplexes = False
            self.log.info(
                "%s does not say what it can do: it gets one request at a time on each connection",
                self,
            )
            return False
        self._learn(values)
        return True

    def _learn(self, values: dict[str, str]) -> None:
        config = self._config
        self.multiplexes = values.get("FCGI_MPXS_CONNS") == "1"
        self._most_requests = config.requests_per_connection
        most = _number(values.get("FCGI_MAX_REQS"))
        if most:
            self._most_requests = min(most, config.requests_per_connection)
        most = _number(values.get("FCGI_MAX_CONNS"))
        self._most_connections = min(most or config.max_connections, config.max_connections)

    def does_not_multiplex(self) -> None:
        """Take note of CANT_MPX_CONN, whatever it has said before."""
        self.multiplexes = False
        for connection in self.connections:
            connection.capacity = 1

    def _rest(self, failure: UpstreamError) -> None:
        """Leave it alone for a while, twice as long each time, and tell those who wait."""
        config = self._config
        self._pause = min(self._pause * 2 or config.first_pause, config.last_pause)
        self.resting_until = self._loop.now() + self._pause
        waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            waiter.failure = failure
            waiter.event.set()

    # For the connections.

    def has_room(self, connection: Connection) -> None:
        """A request has ended on a connection."""
        if self._waiting:
            self._wake(max(1, connection.capacity - connection.in_flight))

    def lost(self, connection: Connection) -> None:
        """A connection is closed."""
        if connection in self.connections:
            self.connections.remove(connection)
        if not self.connections and not self._opening:
            # What listens there next may be another one.
            self.multiplexes = None
            self._most_requests = self._config.requests_per_connection
            self._most_connections = self._config.max_connections
        self._wake(1)

    def look(self, now: float) -> None:
        """End what takes too long."""
        for connection in list(self.connections):
            connection.look(now)

    def close(self) -> None:
        """Close all connections; what is in flight fails."""
        self._closed = True
        for connection in list(self.connections):
            connection.close()
        self._rest(UpstreamUnreachable(f"{self}: the client was closed"))


def _number(text: str | None) -> int:
    """A number in an answer to GET_VALUES; 0 if it is none."""
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 10 else 0
