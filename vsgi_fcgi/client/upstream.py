"""One FastCGI application server: its connections and its capabilities."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from errno import EINPROGRESS
from ipaddress import ip_address
from itertools import count, takewhile
from socket import (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    IPPROTO_TCP,
    SO_ERROR,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_NODELAY,
)
from time import monotonic
from typing import Any, Final

import gevent
import gevent.socket
from gevent.event import Event

from vsgi_fcgi.addresses import MAX_NAME, AbstractAddress, Address, InetAddress, UnixAddress
from vsgi_fcgi.client.config import ClientConfig
from vsgi_fcgi.client.connection import Connection, Logger
from vsgi_fcgi.exceptions import UpstreamError, UpstreamOverloaded, UpstreamUnreachable, UsageError
from vsgi_fcgi.transport.loop import Loop
from vsgi_fcgi.transport.quota import Quota
from vsgi_fcgi.transport.unpatched import Socket

# Connect to an application server; the calling greenlet waits.

_BACKLOG_PAUSE: Final = 0.005
"""Seconds between two attempts to connect to a UNIX socket whose backlog is full."""


def connect_to(address: UnixAddress | AbstractAddress | InetAddress, seconds: float) -> Any:
    """Connect to an address; the caller ends this after ``seconds``.

    Args:
        address: the address; all IP addresses of a host name are tried in turn.
        seconds: the time for all of them. Each but the last one gets an equal part of it, because
            one may drop packets.

    Returns:
        A non-blocking socket of the unpatched class.

    Raises:
        OSError: the connection failed.
    """
    failure: OSError | None = None
    targets = _targets(address)
    for left, (family, target) in zip(range(len(targets) - 1, -1, -1), targets, strict=True):
        # Not a gevent socket, because a connection has watchers of its own.
        sock = Socket(family, SOCK_STREAM)
        try:
            sock.setblocking(False)
            share = seconds / len(targets) if left else None
            with gevent.Timeout(share, TimeoutError("timed out")):
                _connect(sock, target)
            if family != AF_UNIX:
                sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure or OSError("the host name has no address")


def _targets(address: UnixAddress | AbstractAddress | InetAddress) -> list[tuple[int, Any]]:
    """Return address families and addresses to try in turn."""
    if isinstance(address, UnixAddress):
        return [(AF_UNIX, address.path)]
    if isinstance(address, AbstractAddress):
        return [(AF_UNIX, f"\0{address.name}")]
    host, port = address.host, address.port
    version: int | None = None
    with contextlib.suppress(ValueError):
        version = ip_address(host).version
    if version is None or "%" in host:
        # gevent resolves a name in a thread; a numeric address does not need that.
        found = gevent.socket.getaddrinfo(host, port, type=SOCK_STREAM)
        return [(each[0], each[4]) for each in found]
    return [(AF_INET if version == 4 else AF_INET6, (host, port))]


def _connect(sock: Any, target: Any) -> None:
    while True:
        try:
            sock.connect(target)
            return
        except BlockingIOError as error:
            if error.errno == EINPROGRESS:
                break
            # EAGAIN: the backlog of a UNIX socket is full.
            gevent.sleep(_BACKLOG_PAUSE)
    gevent.socket.wait_write(sock.fileno())
    number = sock.getsockopt(SOL_SOCKET, SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))


_KNOWN_SECONDS: Final = 60.0
"""Seconds for which it is remembered, without a connection, that a server does not multiplex."""

_KNOWN_SECONDS_SILENT: Final = 600.0
"""The same if a server ignores GET_VALUES, as libfcgi does; asking costs `values_timeout`."""

_MAX_OPENED: Final = 3
"""Maximum connections for one request, if each is closed before the request can begin."""

VALUES: Final = ("FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS")


class _Waiter:
    """A request that waits for room."""

    __slots__ = ("event", "failure", "ticket")

    def __init__(self, ticket: int) -> None:
        self.ticket = ticket
        self.event = Event()
        self.failure: UpstreamError | None = None


class Upstream:
    """The connections to one application server, and the requests that wait for one.

    The first connection asks the server for its capabilities (GET_VALUES, section 4.1). A server
    that does not answer in time, or answers that it does not multiplex, gets a connection for each
    request.

    Args:
        address: the address of the server.
        config: limits and timeouts.
        memory: the quota for bodies and responses in memory, over all servers.
        spool: the quota for temporary files, over all servers.
        loop: the event loop of the calling thread.
        log: the log.

    Attributes:
        connections: the open connections.
        multiplexes: whether the server multiplexes; None if that is unknown.
        accepted: connections that were made so far.
        backoff_until: the monotonic time in seconds until which other servers are preferred.
        silent: whether a request has timed out, and none has ended since.

    Raises:
        UsageError: a client cannot connect to this kind of address.
    """

    def __init__(
        self,
        address: Address,
        config: ClientConfig,
        memory: Quota,
        spool: Quota,
        loop: Loop,
        log: Logger,
    ) -> None:
        if not isinstance(address, UnixAddress | AbstractAddress | InetAddress):
            raise UsageError(
                f"{address} cannot be connected to; write HOST:PORT, unix:PATH or unix:@NAME"
            )
        self.address = _absolute(address) if isinstance(address, UnixAddress) else address
        self.log = log
        self.connections: list[Connection] = []
        self.multiplexes: bool | None = None
        self.accepted = 0
        self.backoff_until = 0.0
        self.silent = False
        self._config = config
        self._memory = memory
        self._spool = spool
        self._loop = loop
        self._backoff = 0.0
        self._known_until = 0.0
        self._max_requests = config.requests_per_connection
        self._max_connections = config.max_connections
        self._opening = 0
        self._waiting: deque[_Waiter] = deque()
        self._tickets = count()
        self._closed = False

    def __str__(self) -> str:
        return str(self.address)

    @property
    def in_flight(self) -> int:
        """The number of requests that the server has not ended."""
        return sum(connection.in_flight for connection in self.connections)

    @property
    def load(self) -> int:
        """The load, for a comparison with other servers."""
        return self.in_flight + len(self._waiting) + self._opening

    @property
    def is_free(self) -> bool:
        """Whether a request can begin before another one ends."""
        if self.multiplexes and self.in_flight >= self._max_requests:
            return False
        if self._opening or self.may_open():
            return True
        return any(connection.has_room for connection in self.connections)

    # Getting a connection.

    def try_acquire(self) -> Connection | None:
        """Return the connection with the fewest requests in flight, or None if none has room."""
        if self.multiplexes and self.in_flight >= self._max_requests:
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
            connection.fail_all("the connection was closed while it was idle")
        if fewest and self.may_open():
            return None
        return best

    def acquire(self, deadline: float = 0.0) -> Connection:
        """Return a connection that has room for a request; the calling greenlet may wait.

        Args:
            deadline: the monotonic time in seconds until which to wait; 0 for wait_timeout from
                now.

        Raises:
            UpstreamUnreachable: there is no connection, and none can be made.
            UpstreamOverloaded: too many requests wait, or this one has waited too long.
        """
        ticket: int | None = None
        opened = 0
        while True:
            if self._closed:
                raise UpstreamUnreachable(f"{self}: the client was closed")
            connection = self.try_acquire()
            if connection is not None:
                return connection
            if self.may_open():
                opened += 1
                if opened > _MAX_OPENED:
                    raise UpstreamUnreachable(f"{self} closes each connection at once")
                try:
                    self._open()
                except UpstreamError:
                    if not self.connections:
                        raise
                continue
            if not deadline:
                deadline = monotonic() + self._config.wait_timeout
            ticket = self._wait(deadline, ticket)

    def may_open(self) -> bool:
        """Return whether `acquire` opens a connection if none has room."""
        if self.multiplexes is None:
            # The first connection asks for the capabilities; the others wait.
            return not self._opening
        if self.connections and self.backoff_until > monotonic():
            # The server accepts no more connections now; the open ones continue.
            return False
        if not self.multiplexes:
            return len(self.connections) + self._opening < self._max_connections
        if self.in_flight >= self._max_requests:
            return False
        fresh = sum(not connection.retired for connection in self.connections)
        return fresh + self._opening < min(self._config.connections, self._max_connections)

    def _wait(self, deadline: float, ticket: int | None) -> int:
        if ticket is None:
            if len(self._waiting) >= self._config.max_queued:
                raise UpstreamOverloaded(
                    f"{self}: {len(self._waiting)} requests wait, the maximum (max_queued)"
                )
            waiter = _Waiter(next(self._tickets))
            self._waiting.append(waiter)
        else:
            # A request that was woken too late keeps its place in the queue.
            waiter = _Waiter(ticket)
            before = sum(1 for _ in takewhile(lambda other: other.ticket < ticket, self._waiting))
            self._waiting.insert(before, waiter)
        came = False
        try:
            came = waiter.event.wait(max(0.0, deadline - monotonic()))
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif not came:
                # The request was woken, but it ends: pass the room on to the next one.
                self._wake(1)
        if waiter.failure is not None:
            raise type(waiter.failure)(str(waiter.failure))
        if not came:
            limit = f"{self._config.wait_timeout:g} s"
            raise UpstreamOverloaded(f"{self}: no room for another request within {limit}")
        return waiter.ticket

    def _wake(self, count: int) -> None:
        while self._waiting and count > 0:
            self._waiting.popleft().event.set()
            count -= 1

    # Making a connection.

    def _open(self) -> None:
        """Make a connection, and ask for the server's capabilities if they are unknown."""
        self._opening += 1
        if self._backoff:
            # Other requests must prefer other servers meanwhile.
            self.backoff_until = monotonic() + self._config.connect_timeout
        connection: Connection | None = None
        try:
            connection = self._connect()
            asked = self.multiplexes is None
            if asked and not self._ask_values(connection):
                # The state of this connection is unknown, so use a new one without the question.
                connection.close()
                connection = self._connect()
            elif self.multiplexes and not asked:
                # The values are known. Asking tells the server that requests share the connection:
                # vsgi-fcgi then does not close it to break off a response.
                connection.protocol.get_values(VALUES)
            connection.multiplexed = bool(self.multiplexes)
            connection.capacity = self._max_requests if self.multiplexes else 1
        except UpstreamError as error:
            self._back_off(error)
            raise
        except BaseException:
            # The greenlet was killed while it connected: let the next request try.
            if connection is not None:
                connection.close()
            self._wake(1)
            raise
        finally:
            self._opening -= 1
        if connection.closed:
            self.connection_lost(connection)
        self._backoff = self.backoff_until = 0.0
        # Wake the requests that have room on this connection, or may make one of their own.
        room = self._max_requests if self.multiplexes else self._max_connections
        self._wake(room - self.in_flight)

    def _connect(self) -> Connection:
        timeout = self._config.connect_timeout
        try:
            with gevent.Timeout(timeout) as limit:
                sock = connect_to(self.address, timeout)
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
        connection = Connection(
            self._loop, sock, str(self), self._config, self._memory, self._spool, self
        )
        self.connections.append(connection)
        return connection

    def _ask_values(self, connection: Connection) -> bool:
        """Ask for the capabilities, and return whether the connection is usable afterwards."""
        answers: list[dict[str, str] | None] = []
        came = Event()

        def on_values(values: dict[str, str] | None) -> None:
            answers.append(values)
            came.set()

        # No other request may begin on this connection yet.
        connection.capacity = 0
        connection.ask_values(VALUES, on_values)
        came.wait(self._config.values_timeout)
        values = answers[0] if answers else None
        if values is None:
            self._set_not_multiplexing(_KNOWN_SECONDS if answers else _KNOWN_SECONDS_SILENT)
            self.log.info(
                "%s does not answer GET_VALUES: it gets a connection for each request", self
            )
            return False
        self._set_capabilities(values)
        return True

    def _set_capabilities(self, values: dict[str, str]) -> None:
        config = self._config
        if values.get("FCGI_MPXS_CONNS") == "1":
            self.multiplexes = True
        else:
            self._set_not_multiplexing()
        self._max_requests = config.requests_per_connection
        max_requests = _number(values.get("FCGI_MAX_REQS"))
        if max_requests:
            self._max_requests = min(max_requests, config.requests_per_connection)
        max_connections = _number(values.get("FCGI_MAX_CONNS"))
        if max_connections == 1 and not self.multiplexes:
            # This is the limit of one process, but several may share the socket. Surplus
            # connections wait in the backlog.
            max_connections = 0
        self._max_connections = min(
            max_connections or config.max_connections, config.max_connections
        )

    def stop_multiplexing(self) -> None:
        """Stop multiplexing after CANT_MPX_CONN, whatever the server's values were."""
        self._set_not_multiplexing()
        for connection in self.connections:
            connection.capacity = 1
            connection.multiplexed = False

    def _set_not_multiplexing(self, seconds: float = _KNOWN_SECONDS) -> None:
        self.multiplexes = False
        self._known_until = monotonic() + seconds

    def _back_off(self, failure: UpstreamError) -> None:
        """Avoid the server for a while, twice as long each time, and fail the waiting requests."""
        config = self._config
        self._backoff = min(self._backoff * 2 or config.backoff_min, config.backoff_max)
        self.backoff_until = monotonic() + self._backoff
        if self.connections:
            return
        self._forget()
        waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            waiter.failure = failure
            waiter.event.set()

    # Called by the connections.

    def request_ended(self, connection: Connection) -> None:
        """Wake waiting requests after a request has ended on a connection."""
        if self._waiting:
            self._wake(max(1, connection.capacity - connection.in_flight))

    def connection_lost(self, connection: Connection) -> None:
        """Remove a closed connection."""
        if connection in self.connections:
            self.connections.remove(connection)
        # Another server may listen on the address next. It must not be treated as one that
        # multiplexes; the opposite error is harmless for a while.
        known = self.multiplexes is False and monotonic() < self._known_until
        if not self.connections and not self._opening and not known:
            self._forget()
        self._wake(1)

    def _forget(self) -> None:
        self.multiplexes = None
        self._max_requests = self._config.requests_per_connection
        self._max_connections = self._config.max_connections

    def check_timeouts(self, now: float) -> None:
        """End requests and connections that have timed out."""
        for connection in list(self.connections):
            connection.check_timeouts(now)

    def forked(self, *, stop: bool) -> None:
        """Leave the connections to the parent process after a fork.

        Args:
            stop: whether to stop the watchers; True if the loop may continue in this process.
        """
        for connection in self.connections:
            connection.forked(stop=stop)
        self.connections = []
        self._waiting.clear()
        self._opening = 0
        self._forget()

    def close(self) -> None:
        """Close all connections; requests in flight fail."""
        self._closed = True
        for connection in list(self.connections):
            connection.close()
        self._back_off(UpstreamUnreachable(f"{self}: the client was closed"))


def _absolute(address: UnixAddress) -> UnixAddress:
    """Return an address that stays valid after `os.chdir`."""
    if os.path.isabs(address.path):
        return address
    path = os.path.abspath(address.path)
    # A relative path may be in use because the absolute one is too long for a UNIX socket.
    return UnixAddress(path) if len(os.fsencode(path)) <= MAX_NAME else address


def _number(text: str | None) -> int:
    """Parse a number in GET_VALUES_RESULT; return 0 if it is not a number."""
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 10 else 0
