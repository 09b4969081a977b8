"""The relay: forwards requests of many connections over few multiplexed connections."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from gevent.event import Event

from vsgi_fcgi.addresses import Address
from vsgi_fcgi.client.connection import Logger
from vsgi_fcgi.client.pool import Upstreams
from vsgi_fcgi.descriptors import raise_limit
from vsgi_fcgi.listen.listeners import Listener
from vsgi_fcgi.protocol import Limits, Role, ServerProtocol
from vsgi_fcgi.relay.config import RelayConfig
from vsgi_fcgi.relay.connection import RelayConnection, RelayTimeouts
from vsgi_fcgi.relay.queue import RelayQueue
from vsgi_fcgi.relay.relayed import RelayServices
from vsgi_fcgi.transport.acceptor import Acceptor
from vsgi_fcgi.transport.closing import Peer
from vsgi_fcgi.transport.connections import Connections
from vsgi_fcgi.transport.loop import Watcher, get_loop
from vsgi_fcgi.transport.quota import Quota
from vsgi_fcgi.transport.thread_affinity import main_threads
from vsgi_fcgi.transport.unpatched import get_ident

_MAX_BACKLOG: Final = 65536
"""Maximum number of connections that are accepted from the backlog before a listener closes."""

_ROLES: Final = frozenset(map(int, Role))
"""All roles: which ones are served is up to the application server."""


class Relay:
    """Forwards FastCGI requests of web servers, many over one upstream connection.

    ::

        relay = Relay(listeners, ["unix:/run/app.sock"], RelayConfig(), log)
        relay.stop(10)     # from a signal's callback in the loop
        status = relay.run()

    Params are forwarded byte for byte, and so are roles, STDERR and the application status. A relay
    belongs to the thread in which it was created, and to the event loop of that thread.

    Args:
        listeners: listening sockets; the relay closes them.
        addresses: where the application servers listen, as `Upstreams` takes them.
        config: limits and timeouts.
        log: the log.
        allowed: IP addresses that may connect over TCP, or None for all.

    Attributes:
        loop: the event loop.
        connections: all open connections of web servers, and what they share.
        upstreams: the application servers.
        queue: requests that wait for an application server.
        done: set when the relay has stopped.
        cut_off: number of connections that still had requests at the end of the grace period.

    Raises:
        UsageError: there is no upstream, or an address is invalid.
    """

    def __init__(
        self,
        listeners: Iterable[Listener],
        addresses: Iterable[Address | str],
        config: RelayConfig,
        log: Logger,
        *,
        allowed: frozenset[str] | None = None,
    ) -> None:
        self.config = config
        self.log = log
        self.loop = get_loop()
        self.upstreams = Upstreams(addresses, config, log)
        self.queue = RelayQueue(self.upstreams, config, log)
        self.connections: Connections[RelayConnection] = Connections(
            self.loop,
            log,
            limit=config.max_front_connections,
            memory=self.upstreams.memory,
            params=Quota(config.total_params_bytes),
            report_bug=self._report_bug,
        )
        self.connections.on_room = self._continue_accepting
        self._ident = get_ident()
        main_threads.add(self._ident)
        self.done = Event()
        self.cut_off = 0
        values = {
            "FCGI_MAX_CONNS": str(config.max_front_connections),
            "FCGI_MAX_REQS": str(config.max_front_requests),
            "FCGI_MPXS_CONNS": "1",
        }
        limits = Limits(config.max_front_requests, config.max_params_bytes)
        make_protocol = partial(ServerProtocol, limits, values, _ROLES, raw_params=True)
        self._services = RelayServices(
            config, log, self.upstreams, self.queue, self.connections, make_protocol
        )
        self._acceptors = [
            Acceptor(
                self.connections,
                listener,
                self._adopt,
                allowed=allowed,
                backoff=config.accept_backoff,
            )
            for listener in listeners
        ]
        if config.record is not None:
            from vsgi_fcgi.transport.recorder import Recorder, check_record

            check_record(config.record)
            self.connections.recorder = Recorder(config.record, config, log, self.loop)
        self._timeouts = RelayTimeouts(self.connections, config, self.queue.look)
        self._deadline: Watcher | None = None

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
        return 1 if self.cut_off or self.connections.late else 0

    def start(self) -> None:
        """Start to accept. A caller that does not use `run` waits for `done` and calls `close`."""
        config = self.config
        # Connections of web servers, upstream connections, and a temporary file for each upstream
        # request.
        upstream = max(config.connections, config.max_connections)
        raise_limit(config.max_front_connections + upstream + config.requests_per_connection)
        for acceptor in self._acceptors:
            acceptor.start()

    def stop(self, grace: float | None = None) -> None:
        """Accept the backlog, close the listeners, and let requests end. In the loop's thread.

        Args:
            grace: seconds that running requests get; None if the caller has a timer of its own.
        """
        if self.connections.stopping:
            return
        acceptors, self._acceptors = self._acceptors, []
        for acceptor in acceptors:
            acceptor.close(_MAX_BACKLOG)
        self.connections.on_empty = self.done.set
        self.connections.begin_stopping(grace)
        if not self.connections:
            self.done.set()
        elif grace is not None:
            self._deadline = self.loop.timer(grace)
            self._deadline.start(self._cut_off)

    def _cut_off(self) -> None:
        self.cut_off = self.connections.count_busy()
        self.done.set()

    def close(self) -> None:
        """Close everything. The remaining requests are aborted."""
        for acceptor in self._acceptors:
            acceptor.stop()
            acceptor.listener.close()
        self._acceptors = []
        self.connections.close()
        self._timeouts.stop()
        self.connections.report_late()
        if self._deadline is not None:
            self._deadline.stop()
            self._deadline.close()
            self._deadline = None
        self.queue.close()
        self.upstreams.close()
        main_threads.discard(self._ident)

    def _adopt(self, sock: Any, peer: Peer) -> None:
        self.connections.adopt(RelayConnection(self._services, sock, peer))

    def _report_bug(self, error: Exception, consequence: str) -> None:
        self.log.warning("a bug in the relay: %r; %s", error, consequence)

    def _continue_accepting(self) -> None:
        for acceptor in self._acceptors:
            acceptor.continue_accepting()
