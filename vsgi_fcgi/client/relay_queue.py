"""Requests of the relay that wait until there is room behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import gevent

from vsgi_fcgi.client.config import ClientConfig
from vsgi_fcgi.client.connection import Logger
from vsgi_fcgi.client.upstreams import Upstreams
from vsgi_fcgi.exceptions import UpstreamOverloaded, UpstreamUnreachable

if TYPE_CHECKING:
    from vsgi_fcgi.client.connection import Connection
    from vsgi_fcgi.client.relayed import Relayed

_MOST_FETCHERS: Final = 8
"""Greenlets that get connections at the same time, however many requests wait."""


class RelayQueue:
    """Begins requests in the order in which they came.

    As a rule there is room at once. Else a few greenlets get connections for all who wait: what
    waits is no greenlet, and leaves without a trace when its web server goes.

    Args:
        upstreams: where the requests go.
        config: limits and timeouts.
        log: the log.
    """

    def __init__(self, upstreams: Upstreams, config: ClientConfig, log: Logger) -> None:
        self._upstreams = upstreams
        self._config = config
        self._log = log
        self._fetchers: set[gevent.Greenlet[[], None]] = set()
        self._waiting: dict[Relayed, float] = {}
        """Since when, by the loop's time, in seconds."""

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, relayed: Relayed) -> None:
        """Begin a request now if there is room, else when there is."""
        waiting = self._waiting
        if not waiting:
            connection = self._upstreams.try_acquire()
            if connection is not None:
                relayed.start(connection)
                return
        # One may always wait: until there is a first connection, there is no room for anybody.
        if len(waiting) >= max(1, self._config.max_waiting):
            relayed.fail(UpstreamOverloaded(f"{len(waiting)} requests wait already"))
            return
        waiting[relayed] = self._upstreams.loop.now()
        if len(self._fetchers) < min(len(waiting), _MOST_FETCHERS):
            self._fetchers.add(gevent.spawn(self._fetch))

    def forget(self, relayed: Relayed) -> None:
        """Take out a request that need not be begun."""
        if self._waiting.pop(relayed, None) is not None and not self._waiting:
            # Nobody needs the connections any more that would be made.
            self._end_fetchers(block=False)

    def look(self, now: float) -> None:
        """Give up what has waited too long; called now and then.

        Args:
            now: the loop's time, in seconds.
        """
        limit = self._config.wait_timeout
        for relayed, since in list(self._waiting.items()):
            if now - since <= limit:
                return
            relayed.fail(UpstreamOverloaded(f"no room for one more request within {limit:g} s"))

    def _fetch(self) -> None:
        """Get connections until nobody waits."""
        waiting = self._waiting
        try:
            # With as many others on their way as wait, this one is not needed any more.
            while waiting and len(self._fetchers) <= len(waiting):
                try:
                    connection: Connection | None = self._upstreams.acquire()
                except UpstreamUnreachable as error:
                    # Nobody else could be served either.
                    for relayed in list(waiting):
                        relayed.fail(error)
                except UpstreamOverloaded as error:
                    if waiting:
                        next(iter(waiting)).fail(error)
                else:
                    while waiting and connection is not None:
                        relayed = next(iter(waiting))
                        del waiting[relayed]
                        relayed.start(connection)
                        connection = self._upstreams.try_acquire()
        except Exception as error:
            self._log.warning("%r in the relay's queue", error)
        finally:
            self._fetchers.discard(gevent.getcurrent())

    def close(self) -> None:
        """End the greenlets; nobody waits any more."""
        self._end_fetchers(block=True)

    def _end_fetchers(self, *, block: bool) -> None:
        fetchers, self._fetchers = self._fetchers, set()
        gevent.killall(list(fetchers), block=block)
