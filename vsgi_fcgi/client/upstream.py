"""One FastCGI application server: its connections, and what it has said that it can do."""

from __future__ import annotations

from collections import deque
from itertools import count, takewhile
from typing import Final

import gevent
import gevent.socket
from gevent.event import Event

from vsgi_fcgi.addresses import AbstractAddress, Address, InetAddress, UnixAddress
from vsgi_fcgi.budget import Budget
from vsgi_fcgi.client.config import ClientConfig
from vsgi_fcgi.client.connecting import connect_to
from vsgi_fcgi.client.connection import Connection, Logger
from vsgi_fcgi.exceptions import (
    UpstreamError,
    UpstreamOverloaded,
    UpstreamUnreachable,
    UsageError,
)
from vsgi_fcgi.loop import Loop

_REMEMBERED: Final = 60.0
"""Seconds for which it is known that a server does not multiplex, without a connection to it."""

_REMEMBERED_SILENT: Final = 600.0
"""The same if it did not answer, and the question costs `values_timeout`: libfcgi is such a one."""

_MOST_OPENED: Final = 3
"""Connections that are made for one request, if each is closed before it can begin."""

VALUES: Final = ("FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS")


class _Waiter:
    """Who waits until there is room."""

    __slots__ = ("event", "failure", "ticket")

    def __init__(self, ticket: int) -> None:
        self.ticket = ticket
        self.event = Event()
        self.failure: UpstreamError | None = None


class Upstream:
    """The connections to one application server, and who waits for them.

    What it can do is asked on the first connection (GET_VALUES, section 4.1). Whoever does not
    answer in time, or says that it does not multiplex, gets a connection for each request.

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
        self._remembered_until = 0.0
        self._most_requests = config.requests_per_connection
        self._most_connections = config.max_connections
        self._opening = 0
        self._waiting: deque[_Waiter] = deque()
        self._tickets = count()
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

    @property
    def is_free(self) -> bool:
        """Whether a request may begin before another one ends."""
        if self.multiplexes and self.in_flight >= self._most_requests:
            return False
        if self._opening or self._may_open():
            return True
        return any(connection.has_room for connection in self.connections)

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

    def acquire(self, deadline: float = 0.0) -> Connection:
        """Get a connection on which a request may begin; the calling greenlet may wait.

        Args:
            deadline: the loop's time until which it waits for room; wait_timeout from now if 0.

        Raises:
            UpstreamUnreachable: there is none, and none can be made.
            UpstreamOverloaded: too many wait already, or this one has waited too long.
        """
        ticket: int | None = None
        opened = 0
        while True:
            if self._closed:
                raise UpstreamUnreachable(f"{self}: the client was closed")
            connection = self.try_acquire()
            if connection is not None:
                return connection
            if self._may_open():
                opened += 1
                if opened > _MOST_OPENED:
                    raise UpstreamUnreachable(f"{self} closes each connection at once")
                try:
                    self._open()
                except UpstreamError:
                    if not self.connections:
                        raise
                continue
            if not deadline:
                deadline = self._loop.now() + self._config.wait_timeout
            ticket = self._wait(deadline, ticket)

    def _may_open(self) -> bool:
        if self.multiplexes is None:
            # One goes first and asks.
            return not self._opening
        if self.connections and self.resting_until > self._loop.now():
            # It takes no more connections now; those that are open go on.
            return False
        if not self.multiplexes:
            return len(self.connections) + self._opening < self._most_connections
        if self.in_flight >= self._most_requests:
            return False
        fresh = sum(not connection.retired for connection in self.connections)
        return fresh + self._opening < min(self._config.connections, self._most_connections)

    def _wait(self, deadline: float, ticket: int | None) -> int:
        if ticket is None:
            if len(self._waiting) >= self._config.max_waiting:
                raise UpstreamOverloaded(f"{self}: {len(self._waiting)} requests wait already")
            waiter = _Waiter(next(self._tickets))
            self._waiting.append(waiter)
        else:
            # Whoever was woken and came too late keeps the place in the queue.
            waiter = _Waiter(ticket)
            before = sum(1 for _ in takewhile(lambda other: other.ticket < ticket, self._waiting))
            self._waiting.insert(before, waiter)
        came = False
        try:
            came = waiter.event.wait(max(0.0, deadline - self._loop.now()))
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif not came:
                # It was woken and ends all the same: the room is for the next one.
                self._wake(1)
        if waiter.failure is not None:
            raise type(waiter.failure)(str(waiter.failure))
        if not came:
            limit = f"{self._config.wait_timeout:g} s"
            raise UpstreamOverloaded(f"{self}: no room for one more request within {limit}")
        return waiter.ticket

    def _wake(self, most: int) -> None:
        while self._waiting and most > 0:
            self._waiting.popleft().event.set()
            most -= 1

    # Making a connection.

    def _open(self) -> None:
        """Make one more connection, and ask on the first what can be done with it."""
        self._opening += 1
        if self._pause:
            # Nobody else is to try it meanwhile, where there are others.
            self.resting_until = self._loop.now() + self._config.connect_timeout
        connection: Connection | None = None
        try:
            connection = self._connect()
            if self.multiplexes is None and not self._ask(connection):
                # Nobody knows what state it is in; one that was not asked anything is clean.
                connection.close()
                connection = self._connect()
            connection.multiplexed = bool(self.multiplexes)
            connection.capacity = self._most_requests if self.multiplexes else 1
        except UpstreamError as error:
            self._rest(error)
            raise
        except BaseException:
            # Whoever opened it was ended meanwhile: the next one tries.
            if connection is not None:
                connection.close()
            self._wake(1)
            raise
        finally:
            self._opening -= 1
        if connection.closed:
            self.lost(connection)
        self._pause = self.resting_until = 0.0
        # Those who waited for it, and those who may now make one of their own.
        most = self._most_requests if self.multiplexes else self._most_connections
        self._wake(most - self.in_flight)

    def _connect(self) -> Connection:
        timeout = self._config.connect_timeout
        try:
            with gevent.Timeout(timeout) as limit:
                sock = connect_to(self.address)
        except gevent.Timeout as error:
            if error is not limit:
                raise
            raise UpstreamUnreachable(f"{self}: no connection within {timeout:g} s") from None
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

    def _ask(self, connection: Connection) -> bool:
        """Ask what it can do; returns whether the connection can be used afterwards."""
        answers: list[dict[str, str] | None] = []
        came = Event()

        def on_values(values: dict[str, str] | None) -> None:
            answers.append(values)
            came.set()

        # Nobody else is to begin a request on it.
        connection.capacity = 0
        connection.ask_values(VALUES, on_values)
        came.wait(self._config.values_timeout)
        values = answers[0] if answers else None
        if values is None:
            self._does_not_multiplex(_REMEMBERED if answers else _REMEMBERED_SILENT)
            self.log.info(
                "%s does not say what it can do: it gets a connection for each request", self
            )
            return False
        self._learn(values)
        return True

    def _learn(self, values: dict[str, str]) -> None:
        config = self._config
        if values.get("FCGI_MPXS_CONNS") == "1":
            self.multiplexes = True
        else:
            self._does_not_multiplex()
        self._most_requests = config.requests_per_connection
        most = _number(values.get("FCGI_MAX_REQS"))
        if most:
            self._most_requests = min(most, config.requests_per_connection)
        most = _number(values.get("FCGI_MAX_CONNS"))
        if most == 1 and not self.multiplexes:
            # One process of several that share a socket knows only itself. What is too much waits
            # in the backlog.
            most = 0
        self._most_connections = min(most or config.max_connections, config.max_connections)

    def does_not_multiplex(self) -> None:
        """Take note of CANT_MPX_CONN, whatever it has said before."""
        self._does_not_multiplex()
        for connection in self.connections:
            connection.capacity = 1
            connection.multiplexed = False

    def _does_not_multiplex(self, seconds: float = _REMEMBERED) -> None:
        self.multiplexes = False
        self._remembered_until = self._loop.now() + seconds

    def _rest(self, failure: UpstreamError) -> None:
        """Leave it alone for a while, twice as long each time, and tell those who wait."""
        config = self._config
        self._pause = min(self._pause * 2 or config.first_pause, config.last_pause)
        self.resting_until = self._loop.now() + self._pause
        if self.connections:
            return
        self._forget()
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
        # What listens there next may be another one, and that must not be taken for one that
        # multiplexes; the other mistake does no harm for a while.
        known = self.multiplexes is False and self._loop.now() < self._remembered_until
        if not self.connections and not self._opening and not known:
            self._forget()
        self._wake(1)

    def _forget(self) -> None:
        self.multiplexes = None
        self._most_requests = self._config.requests_per_connection
        self._most_connections = self._config.max_connections

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
