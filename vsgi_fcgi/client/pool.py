"""The application servers of a client: picks the least busy one for each request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from time import monotonic

from vsgi_fcgi.addresses import Address, parse_bind
from vsgi_fcgi.children import give_up_in_children
from vsgi_fcgi.client.config import ClientConfig
from vsgi_fcgi.client.connection import Connection, Logger
from vsgi_fcgi.client.exchange import Exchange
from vsgi_fcgi.client.upstream import Upstream
from vsgi_fcgi.exceptions import UpstreamError, UpstreamOverloaded, UpstreamUnreachable, UsageError
from vsgi_fcgi.protocol import Role
from vsgi_fcgi.transport.loop import get_loop
from vsgi_fcgi.transport.quota import Quota
from vsgi_fcgi.transport.unpatched import get_ident

_MIN_CHECK_INTERVAL = 0.02
_MAX_CHECK_INTERVAL = 1.0
"""Bounds of the interval between two checks of all timeouts, in seconds."""

_RESPONDER = int(Role.RESPONDER)


class Upstreams:
    """One or several application servers that serve the same app.

    A request goes to the least busy server. Of several, one is preferred whose last request has not
    timed out. A server that cannot be reached is avoided for a while,
    which gets longer with each failure. It is tried at once if there is no other server.

    Only the thread that created this object may use it.

    Args:
        addresses: the addresses of the servers, in the form of `parse_bind`.
        config: limits and timeouts.
        log: the log; the logger ``vsgi_fcgi.client`` if None.

    Raises:
        UsageError: there is no address, or an address is invalid.
    """

    def __init__(
        self,
        addresses: Iterable[Address | str],
        config: ClientConfig,
        log: Logger | None = None,
    ) -> None:
        self.loop = get_loop()
        self.config = config
        self.log: Logger = log or logging.getLogger("vsgi_fcgi.client")
        self.memory = Quota(config.total_memory_bytes)
        spool = Quota(config.total_response_spool_bytes)
        self.all = [
            Upstream(
                parse_bind(address) if isinstance(address, str) else address,
                config,
                self.memory,
                spool,
                self.loop,
                self.log,
            )
            for address in addresses
        ]
        if not self.all:
            raise UsageError("no address of an application server is given")
        shortest = min(config.response_timeout, config.stall_timeout, config.upstream_idle_timeout)
        interval = min(_MAX_CHECK_INTERVAL, max(_MIN_CHECK_INTERVAL, shortest / 4))
        # With `ref=False`, the timer does not keep a program alive.
        self._timer = self.loop.timer(interval, interval, ref=False)
        self._timer.start(self._check_timeouts)
        self._ident = get_ident()
        give_up_in_children(self)

    def begin(
        self,
        block: bytes,
        on_change: Callable[[], object],
        role: int = _RESPONDER,
        *,
        avoid: Upstream | None = None,
    ) -> Exchange:
        """Begin a request on the least busy server; the calling greenlet may wait.

        Args:
            block: the encoded params.
            on_change: see `Exchange`.
            role: the role of the application.
            avoid: a server to use only if there is no other.

        Raises:
            UpstreamUnreachable: no server can be reached.
            UpstreamOverloaded: no server has room.
        """
        return self.acquire(avoid).begin(block, on_change, role)

    def acquire(self, avoid: Upstream | None = None) -> Connection:
        """Return a connection that has room for a request; the calling greenlet may wait.

        Args:
            avoid: a server to use only if there is no other.

        Raises:
            UpstreamUnreachable: no server can be reached.
            UpstreamOverloaded: no server has room.
        """
        failure: UpstreamError | None = None
        deadline = monotonic() + self.config.wait_timeout
        for upstream in self._by_preference(avoid):
            try:
                return upstream.acquire(deadline)
            except (UpstreamUnreachable, UpstreamOverloaded) as error:
                if failure is None or isinstance(error, UpstreamOverloaded):
                    failure = error
        assert failure is not None
        raise failure

    def try_acquire(self) -> Connection | None:
        """Return a connection that has room for a request, or None; do not wait.

        The result is also None if `acquire` would open a connection to a less busy server.
        """
        for upstream in self._by_preference(None):
            connection = upstream.try_acquire()
            if connection is not None:
                return connection
            if upstream.may_open():
                return None
        return None

    def _by_preference(self, avoid: Upstream | None) -> Iterator[Upstream]:
        if len(self.all) == 1:
            return iter(self.all)
        now = monotonic()

        def rank(upstream: Upstream) -> tuple[bool, float, bool, int, bool]:
            rest = max(0.0, upstream.backoff_until - now)
            # A server that hangs accepts connections, and has no request after each timeout.
            return upstream is avoid, rest, not upstream.is_free, upstream.load, upstream.silent

        return iter(sorted(self.all, key=rank))

    def _check_timeouts(self) -> None:
        now = monotonic()
        for upstream in self.all:
            try:
                upstream.check_timeouts(now)
            except Exception as error:
                # The timer continues: a bug in one connection must not disable all timeouts.
                self.log.warning("%s: internal error while checking timeouts: %r", upstream, error)

    def forked(self) -> None:
        """Leave all connections to the parent process after a fork, and start without connections.

        A greenlet of this process that waits for a response waits for ever, because the parent
        process receives the response.
        """
        in_hub = get_ident() == self._ident
        for upstream in self.all:
            upstream.forked(stop=in_hub)
        give_up_in_children(self)

    def close(self) -> None:
        """Close all connections; requests in flight fail."""
        self._timer.stop()
        self._timer.close()
        for upstream in self.all:
            upstream.close()
