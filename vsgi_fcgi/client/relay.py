"""The relay: web servers with a connection for each request in front, few connections behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, cast

import gevent
from gevent.event import Event

from vsgi_fcgi.accepting import Listening
from vsgi_fcgi.addresses import Address
from vsgi_fcgi.budget import Budget
from vsgi_fcgi.client.connection import Logger
from vsgi_fcgi.client.relay_acceptor import RelayAcceptor
from vsgi_fcgi.client.relay_channel import RelayChannel
from vsgi_fcgi.client.relay_config import RelayConfig
from vsgi_fcgi.client.relay_queue import RelayQueue
from vsgi_fcgi.client.relay_timeouts import RelayTimeouts
from vsgi_fcgi.client.relay_writer import RelayWriter
from vsgi_fcgi.client.upstreams import Upstreams
from vsgi_fcgi.descriptors import raise_limit
from vsgi_fcgi.loop import Loop, Watcher
from vsgi_fcgi.protocol import Limits

_LAST_ROUND: Final = 65536
"""Connections that are accepted from the backlog of a listener that is to be closed."""

_FIRST_WORD: Final = 0.5
"""Seconds that a new connection gets to send its request while the relay stops."""


class Relay:
    """Takes FastCGI requests from web servers and passes them on, many over one connection.

    ::

        relay = Relay(listeners, ["unix:/run/app.sock"], RelayConfig(), log)
        relay.stop(10)     # from a signal's callback in the loop
        status = relay.run()

    Params pass byte for byte, roles, STDERR and the application status as well. It belongs to
    the thread in which it was made, and to its event loop.

    Args:
        listeners: sockets that listen; it closes them.
        addresses: where the application servers listen, as `Upstreams` takes them.
        config: limits and timeouts.
        log: the log.
        is_allowed: which IP addresses may connect over TCP; all of them if None.

    Attributes:
        loop: the event loop.
        channels: all open connections in front.
        idle: those on which nothing has begun, the longest idle first.
        upstreams: what is behind.
        queue: who waits for it.
        params: bytes of params that have come in part.
        stopping: connections are closed as they become idle.
        done: set when it has stopped.
        cut_off: connections that still had requests at the end of the grace.

    Raises:
        UsageError: there is no upstream, or an address makes no sense.
    """

    def __init__(
        self,
        listeners: Iterable[Listening],
        addresses: Iterable[Address | str],
        config: RelayConfig,
        log: Logger,
        *,
        is_allowed: Callable[[str], bool] | None = None,
    ) -> None:
        self.config = config
        self.log = log
        self.is_allowed: Callable[[str], bool] = is_allowed or _everybody
        # A cast: the type stubs leave out a timer's `again`.
        self.loop = cast(Loop, gevent.get_hub().loop)
        self.upstreams = Upstreams(addresses, config, log)
        self.queue = RelayQueue(self.upstreams, config, log)
        self.limits = Limits(config.max_front_requests, config.max_params_bytes)
        self.values = {
            "FCGI_MAX_CONNS": str(config.max_front_connections),
            "FCGI_MAX_REQS": str(config.max_front_requests),
            "FCGI_MPXS_CONNS": "1",
        }
        self.params = Budget(config.total_params_bytes)
        # A dict for its order, and because there may be thousands.
        self.channels: dict[RelayChannel, None] = {}
        self.idle: dict[RelayChannel, None] = {}
        self.stopping = False
        self.done = Event()
        self.cut_off = 0
        self._dirty: list[RelayWriter] = []
        self._acceptors = [RelayAcceptor(self, listener) for listener in listeners]
        self._timeouts = RelayTimeouts(self)
        self._timers: list[Watcher] = []

    # Life.

    def run(self) -> int:
        """Serve until `stop` has ended.

        Returns:
            The exit status: 0 if every request was answered, 1 if some were cut off.
        """
        self.start()
        try:
            self.done.wait()
        finally:
            self.close()
        return 1 if self.cut_off else 0

    def start(self) -> None:
        """Begin to accept. Whoever needs no `run` waits for `done`, then calls `close`."""
        config = self.config
        # In front, behind, and a temporary file for each request behind.
        behind = max(config.connections, config.max_connections)
        raise_limit(config.max_front_connections + behind + config.requests_per_connection)
        for acceptor in self._acceptors:
            acceptor.start()

    def stop(self, grace: float | None = None) -> None:
        """Accept what is queued, close the listeners, let requests end. In the loop's thread.

        Args:
            grace: seconds that running requests get; None if somebody else keeps the time.
        """
        if self.stopping:
            return
        acceptors, self._acceptors = self._acceptors, []
        for acceptor in acceptors:
            listener = acceptor.listener
            if not listener.inherited:
                # No one finds it any more; whoever had connected is served. A listener that was
                # inherited belongs to others too, and what waits there is left to them.
                listener.unlink()
                acceptor.accept(_LAST_ROUND)
            acceptor.stop()
            listener.close()
        self.stopping = True
        for channel in list(self.channels):
            # But not one on which nothing has ever come: whoever has just connected is about to
            # ask, and a web server would take its end for a failure.
            if not channel.silent:
                channel.last_read()
        if not self.channels:
            self.done.set()
            return
        first_word = _FIRST_WORD if grace is None else min(_FIRST_WORD, grace / 2)
        self._after(first_word, self._close_idle)
        if grace is not None:
            self._after(grace, self._cut_off)

    def _after(self, seconds: float, callback: Callable[[], object]) -> None:
        timer = self.loop.timer(seconds)
        timer.start(callback)
        self._timers.append(timer)

    def _close_idle(self) -> None:
        for channel in list(self.channels):
            channel.last_read()

    def _cut_off(self) -> None:
        self.cut_off = len(self.channels)
        if self.cut_off:
            self.log.warning("%d connections still had requests and are cut off", self.cut_off)
        self.done.set()

    def close(self) -> None:
        """End everything; requests that are left are aborted."""
        for acceptor in self._acceptors:
            acceptor.stop()
            acceptor.listener.close()
        self._acceptors = []
        for channel in list(self.channels):
            channel.lose()
        self._timeouts.stop()
        for timer in self._timers:
            timer.stop()
            timer.close()
        self._timers = []
        self.queue.close()
        self.upstreams.close()

    # For its connections.

    def adopt(self, channel: RelayChannel) -> None:
        """Begin with an accepted connection."""
        self.channels[channel] = None
        channel.idle = True
        self.idle[channel] = None
        channel.start()

    def forget(self, channel: RelayChannel) -> None:
        """Let go of a connection that was closed."""
        self.channels.pop(channel, None)
        self.became_busy(channel)
        self._has_room()
        if self.stopping and not self.channels:
            self.done.set()

    def became_busy(self, channel: RelayChannel) -> None:
        """Take note of a connection on which a request has begun."""
        channel.idle = False
        self.idle.pop(channel, None)

    def became_idle(self, channel: RelayChannel) -> None:
        """Take note of a connection on which everything was answered: it may make room."""
        channel.idle = True
        self.idle[channel] = None
        if not self.stopping:
            self._has_room()
        elif channel.parting:
            channel.close()
        else:
            # Not at once: the web server may have sent the next request by now. But only once:
            # on a connection that never rests there is always a next one.
            channel.parting = True
            self.loop.run_callback(channel.last_read)

    def flush_soon(self, writer: RelayWriter) -> None:
        """Have what a connection has to send be sent when what happens now is over."""
        if not self._dirty:
            self.loop.run_callback(self._flush)
        self._dirty.append(writer)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for writer in dirty:
            writer.flush()

    def _has_room(self) -> None:
        for acceptor in self._acceptors:
            acceptor.has_room()


def _everybody(host: str) -> bool:
    """Whether a TCP peer may connect, if nobody says so."""
    return True
