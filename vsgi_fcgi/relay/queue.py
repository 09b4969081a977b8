"""Requests of the relay that wait for a connection to an application server."""

from __future__ import annotations

from time import monotonic
from typing import Final, Protocol

import gevent

from vsgi_fcgi.client.config import ClientConfig
from vsgi_fcgi.client.connection import Connection, Logger
from vsgi_fcgi.client.pool import Upstreams
from vsgi_fcgi.exceptions import UpstreamError, UpstreamOverloaded, UpstreamUnreachable

_MAX_FETCHERS: Final = 8
"""Maximum number of greenlets that open connections at the same time."""


class Waiting(Protocol):
    """A request, as the queue sees it."""

    def start(self, upstream: Connection) -> None:
        """Send the request on a connection with room for it."""

    def fail(self, failure: UpstreamError) -> None:
        """Answer the request with an error."""


class RelayQueue:
    """Starts requests in the order in which they arrived.

    Usually a connection has room at once. If not, a few greenlets get connections for all requests
    in the queue. A queued request has no greenlet of its own, so it can be removed at any time.

    Args:
        upstreams: the application servers.
        config: limits and timeouts.
        log: the log.
    """

    def __init__(self, upstreams: Upstreams, config: ClientConfig, log: Logger) -> None:
        self._upstreams = upstreams
        self._config = config
        self._log = log
        self._fetchers: set[gevent.Greenlet[[], None]] = set()
        self._waiting: dict[Waiting, float] = {}
        """Queued requests, with the monotonic time in seconds at which each was queued."""

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, relayed: Waiting) -> None:
        """Start a request now if a connection has room, or queue it."""
        waiting = self._waiting
        if not waiting:
            connection = self._upstreams.try_acquire()
            if connection is not None:
                _start(relayed, connection)
                return
        # One request may always wait: before the first connection is open, none has room.
        if len(waiting) >= max(1, self._config.max_queued):
            relayed.fail(UpstreamOverloaded(f"{len(waiting)} requests are queued already"))
            return
        waiting[relayed] = monotonic()
        if len(self._fetchers) < min(len(waiting), _MAX_FETCHERS):
            self._fetchers.add(gevent.spawn(self._fetch))

    def forget(self, relayed: Waiting) -> None:
        """Remove a request that need not be started."""
        if self._waiting.pop(relayed, None) is not None and not self._waiting:
            # The connections that the greenlets would open are no longer needed.
            self._end_fetchers(block=False)

    def look(self, now: float) -> None:
        """End requests that have waited too long. A timer calls this method.

        Args:
            now: the monotonic time in seconds.
        """
        limit = self._config.wait_timeout
        for relayed, since in list(self._waiting.items()):
            if now - since <= limit:
                return
            relayed.fail(UpstreamOverloaded(f"no application server had room within {limit:g} s"))

    def _fetch(self) -> None:
        """Get connections until the queue is empty."""
        waiting = self._waiting
        try:
            # This greenlet ends if the others suffice for the requests that still wait.
            while waiting and len(self._fetchers) <= len(waiting):
                try:
                    connection: Connection | None = self._upstreams.acquire()
                except UpstreamUnreachable as error:
                    # The other requests could not be sent either.
                    for relayed in list(waiting):
                        relayed.fail(error)
                except UpstreamOverloaded as error:
                    if waiting:
                        next(iter(waiting)).fail(error)
                else:
                    while waiting and connection is not None:
                        relayed = next(iter(waiting))
                        del waiting[relayed]
                        _start(relayed, connection)
                        connection = self._upstreams.try_acquire()
        except Exception as error:
            self._log.warning("%r in the relay's queue", error)
        finally:
            self._fetchers.discard(gevent.getcurrent())

    def close(self) -> None:
        """End the greenlets, after the queue has become empty."""
        self._end_fetchers(block=True)

    def _end_fetchers(self, *, block: bool) -> None:
        fetchers, self._fetchers = self._fetchers, set()
        gevent.killall(list(fetchers), block=block)


def _start(relayed: Waiting, connection: Connection) -> None:
    try:
        relayed.start(connection)
    except MemoryError:
        # It is in no queue any more, so nothing else would answer it.
        relayed.fail(UpstreamOverloaded("the system has no memory for it"))
