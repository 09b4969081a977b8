"""The application servers that share the work, the least busy first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import gevent

from vsgi_fcgi.addresses import Address, parse_bind
from vsgi_fcgi.budget import Budget
from vsgi_fcgi.client.config import ClientConfig
from vsgi_fcgi.client.connection import Connection, Logger
from vsgi_fcgi.client.exchange import Exchange
from vsgi_fcgi.client.upstream import Upstream
from vsgi_fcgi.exceptions import UpstreamError, UpstreamOverloaded, UpstreamUnreachable, UsageError
from vsgi_fcgi.loop import Loop
from vsgi_fcgi.protocol import Role

_LEAST_LOOK = 0.02
_MOST_LOOK = 1.0
"""Seconds between two looks at what takes too long."""

_RESPONDER = int(Role.RESPONDER)


class Upstreams:
    """One or several application servers that serve the same app.

    The least busy one is asked first; one that cannot be reached is set aside for a pause that
    grows each time, and tried again, or at once if there is no other.

    Everything belongs to the thread in which it was made, and to its event loop.

    Args:
        addresses: where they listen, as `parse_bind` takes it.
        config: limits and timeouts.
        log: the log; the logger ``vsgi_fcgi.client`` if None.

    Raises:
        UsageError: there is none, or an address makes no sense.
    """

    def __init__(
        self,
        addresses: Iterable[Address | str],
        config: ClientConfig,
        log: Logger | None = None,
    ) -> None:
        # A cast: the type stubs leave out a timer's `again`.
        self.loop = cast(Loop, gevent.get_hub().loop)
        self.config = config
        self.log: Logger = log or logging.getLogger("vsgi_fcgi.client")
        spool = Budget(config.total_response_spool_bytes)
        self.all = [
            Upstream(
                _parse(address) if isinstance(address, str) else address,
                config,
                spool,
                self.loop,
                self.log,
            )
            for address in addresses
        ]
        if not self.all:
            raise UsageError("no upstream is named")
        least = min(config.response_timeout, config.stall_timeout, config.upstream_idle_timeout)
        interval = min(_MOST_LOOK, max(_LEAST_LOOK, least / 4))
        # `ref`: a program that has nothing else to do is not kept alive by it.
        self._timer: Any = cast(Any, self.loop).timer(interval, interval, ref=False)
        self._timer.start(self._look)

    def begin(
        self,
        block: bytes,
        on_change: Callable[[], object],
        role: int = _RESPONDER,
        *,
        avoid: Upstream | None = None,
    ) -> Exchange:
        """Begin a request where there is most room; the calling greenlet may wait.

        Args:
            block: its encoded params.
            on_change: see `Exchange`.
            role: what is wanted of the application.
            avoid: the one to take only if there is no other.

        Raises:
            UpstreamUnreachable: no application server can be reached.
            UpstreamOverloaded: none of them has room.
        """
        return self.acquire(avoid).begin(block, on_change, role)

    def acquire(self, avoid: Upstream | None = None) -> Connection:
        """Get a connection on which a request may begin at once; the calling greenlet may wait.

        Args:
            avoid: the one to take only if there is no other.

        Raises:
            UpstreamUnreachable: no application server can be reached.
            UpstreamOverloaded: none of them has room.
        """
        failure: UpstreamError | None = None
        deadline = self.loop.now() + self.config.wait_timeout
        for upstream in self._by_preference(avoid):
            try:
                return upstream.acquire(deadline)
            except (UpstreamUnreachable, UpstreamOverloaded) as error:
                if failure is None or isinstance(error, UpstreamOverloaded):
                    failure = error
        assert failure is not None
        raise failure

    def try_acquire(self) -> Connection | None:
        """Find a connection on which a request may begin at once, without waiting."""
        for upstream in self._by_preference(None):
            connection = upstream.try_acquire()
            if connection is not None:
                return connection
        return None

    def _by_preference(self, avoid: Upstream | None) -> Iterator[Upstream]:
        if len(self.all) == 1:
            return iter(self.all)
        now = self.loop.now()

        def rank(upstream: Upstream) -> tuple[bool, float, bool, int]:
            rest = max(0.0, upstream.resting_until - now)
            return upstream is avoid, rest, not upstream.is_free, upstream.load

        return iter(sorted(self.all, key=rank))

    def _look(self) -> None:
        now = self.loop.now()
        for upstream in self.all:
            try:
                upstream.look(now)
            except Exception as error:
                # The timer stays: a bug that one connection shows is not to spare the others.
                self.log.warning("%s: %r while looking for what takes too long", upstream, error)

    def close(self) -> None:
        """Close all connections; what is in flight fails."""
        self._timer.stop()
        self._timer.close()
        for upstream in self.all:
            upstream.close()


def _parse(text: str) -> Address:
    """Read an address to connect to.

    Raises:
        UsageError: it is none.
    """
    try:
        return parse_bind(text)
    except UsageError as error:
        raise UsageError(str(error).replace("cannot listen on", "cannot connect to", 1)) from None
