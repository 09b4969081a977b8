"""The main context: one native thread, its hub, and everything that only this thread uses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import gevent

from vsgi_fcgi.log.access_log import AccessLog
from vsgi_fcgi.log.background_writer import LineWriter
from vsgi_fcgi.log.log import Log
from vsgi_fcgi.protocol import Outbound, Role, ServerProtocol
from vsgi_fcgi.server.config import Config
from vsgi_fcgi.server.connection import (
    RequestReader,
    RoleRequestReader,
    ServerConnection,
    protocol_factory,
)
from vsgi_fcgi.server.exchange import Exchange, LoggedExchange, TimedExchange
from vsgi_fcgi.server.file_io import FileIO
from vsgi_fcgi.server.mailbox import Mailbox
from vsgi_fcgi.server.main_context_calls import MainContextCalls, Stats
from vsgi_fcgi.server.roles import Apps
from vsgi_fcgi.server.services import Counts, Services
from vsgi_fcgi.server.workers.base import Dispatcher, Pool, make_run
from vsgi_fcgi.server.workers.threads import ThreadPool
from vsgi_fcgi.transport import thread_affinity as contract
from vsgi_fcgi.transport.closing import Peer
from vsgi_fcgi.transport.connections import Connections
from vsgi_fcgi.transport.handover import State, restore
from vsgi_fcgi.transport.loop import get_loop
from vsgi_fcgi.transport.quota import Quota
from vsgi_fcgi.transport.timeouts import Timeouts
from vsgi_fcgi.transport.unpatched import get_ident

# Modules that few settings need are imported by the functions that read these settings, because
# each import delays the start of every process.
if TYPE_CHECKING:
    from vsgi_fcgi.server.publishing import Publisher
    from vsgi_fcgi.server.recycling import Recycling
    from vsgi_fcgi.server.watching import RunLimits
    from vsgi_fcgi.status.scoreboard import Scoreboard

_SCRATCH_SIZE: Final = 262144
"""Bytes that are read at a time while a large body arrives."""

_KEPT_MEMORY: Final = 16777216
"""Bytes of free memory that the C library may keep for the next large bodies."""

_END_PAUSE = 0.1
"""Seconds between two groups of held requests that are ended at a stop."""

_DISK_END = 2.0
"""Seconds to finish work on temporary files when the server stops."""


class MainContext:
    """Owns the loop of one server, its services, connections and workers, and connects them.

    To be made in the thread that becomes the main context. Its hub runs whenever that thread waits.

    Args:
        apps: the apps.
        config: the settings.
        log: the log.
        access_lines: writes the access log, or None if there is none.
        request_reader: the class of the request reader; None for the one that the apps' roles need.
        protocol: the class of the protocol of each connection.
        multiprocess: other processes serve the same sockets.

    Attributes:
        services: what the other modules share.
        access_log: the access log, or None if there is none.
        connections: all open connections, and what they share.
        calls: the object that apps call to run functions in the main context.
        dispatcher: hands complete requests to the workers.
        request_reader: reads the requests that arrive on each connection.
        recycling: says when the process should end, or None if no setting asks for it.
        publisher: writes the scoreboard, or None if there is none.
        run_limits: ends or reports requests that take too long, or None if no setting asks for it.
        make_protocol: makes the protocol of a connection.
    """

    def __init__(
        self,
        apps: Apps,
        config: Config,
        log: Log,
        access_lines: LineWriter | None = None,
        request_reader: type[RequestReader] | None = None,
        protocol: type[ServerProtocol] = ServerProtocol,
        *,
        multiprocess: bool = False,
        scoreboard: tuple[Scoreboard, int] | None = None,
    ) -> None:
        loop = get_loop()
        self._ident = get_ident()
        contract.main_threads.add(self._ident)
        memory = Quota(config.total_memory_bytes)
        self.connections: Connections[ServerConnection] = Connections(
            loop,
            log,
            limit=config.max_connections,
            memory=memory,
            params=Quota(config.total_params_bytes),
            report_bug=self._report_bug,
        )
        mailbox = Mailbox(self.connections.wake, self._failed)
        self.connections.collect_with(mailbox.drain)
        self.services = Services(
            config,
            log,
            loop,
            mailbox,
            FileIO(mailbox),
            memory=memory,
            spool=Quota(config.total_spool_bytes),
        )
        self.access_log: AccessLog | None = None
        if access_lines is not None:
            self.access_log = AccessLog(config.access_log_format, access_lines, loop)
        # glibc returns the memory of each large object to the kernel, which has to clear it for the
        # next one. It keeps free memory up to twice the size of the largest mapping that was freed.
        with contextlib.suppress(MemoryError):
            bytes(_KEPT_MEMORY // 2)
        # A body copies what it keeps of a large read.
        self.connections.scratch = memoryview(bytearray(_SCRATCH_SIZE))
        self.calls = MainContextCalls(self.services, Stats(self.connections.open))
        take_notes = None if self.access_log is None else self.access_log.take_notes
        if scoreboard is not None:
            self.services.counts = Counts()
        self.recycling: Recycling | None = None
        if config.recycles:
            from vsgi_fcgi.server.recycling import Recycling

            self.recycling = Recycling(self.services, self.connections, self.calls.stats)
            take_notes = self.recycling.counting(take_notes)
        if config.push:
            apps = self._hold_requests(apps)
        self._pool = self._start_pool(apps, multiprocess)
        self.connections.hand_over = self._pool.hand_over
        self.dispatcher = Dispatcher(
            self._pool, config.max_queued, self.connections.request_round, take_notes
        )
        self.make_protocol = protocol_factory(protocol, config, apps.roles, self._pool.size)
        others = apps.roles - {Role.RESPONDER}
        reader = request_reader or (RoleRequestReader if others else RequestReader)
        self.request_reader = reader(self.services, self.dispatcher, self.access_log)
        self.timeouts = Timeouts(self.connections, config)
        if config.record is not None:
            from vsgi_fcgi.transport.recorder import Recorder

            self.connections.recorder = Recorder(config.record, config, log, loop)
        self.request_reader.make_exchange = self._exchange_class()
        self.run_limits: RunLimits | None = None
        self.publisher: Publisher | None = None
        what = self.services, self._pool, self.connections
        if any(config.run_limits):
            from vsgi_fcgi.server.watching import RunLimits

            self.run_limits = RunLimits(*what, self.access_log)
        if scoreboard is not None:
            from vsgi_fcgi.server.publishing import Publisher, StatusPath

            self.publisher = Publisher(*what, self.run_limits, *scoreboard)
            if config.status_path is not None:
                allowed = config.status_allow
                status = StatusPath(config.status_path, allowed, self.publisher, self.access_log)
                self.dispatcher.intercept = status.take

    def _hold_requests(self, apps: Apps) -> Apps:
        """Prepare for held requests; return the apps with the layer that reads instructions."""
        from vsgi_fcgi.push.app import PushApp
        from vsgi_fcgi.push.held import HeldRequests
        from vsgi_fcgi.push.publishing import PROCESS
        from vsgi_fcgi.server.inner_request import ask

        services, config = self.services, self.services.config
        log, loop, post = services.log, services.loop, services.mailbox.post
        services.held = HeldRequests(
            config, log, loop, post, services.count, partial(ask, self), self._report_bug
        )
        PROCESS.open(services.held.deliver, config.max_item_bytes)
        if apps.responder is None:
            return apps
        limits = config.max_channels, config.max_item_bytes
        app = PushApp(apps.responder, config.signing_key, *limits, log.error)
        return replace(apps, responder=app)

    @property
    def make_exchange(self) -> type[Exchange]:
        """The class of the exchanges."""
        return self.request_reader.make_exchange

    def end_held(self, seconds: float) -> None:
        """End all held requests, spread over some seconds. In a greenlet of the main context."""
        held = self.services.held
        if held is None:
            return
        held.stop_holding()
        ending = held.all()
        pauses = max(1, int(seconds / _END_PAUSE))
        size = -(-len(ending) // pauses)
        for at in range(0, len(ending), size or 1):
            for each in ending[at : at + size]:
                held.end(each)
            gevent.sleep(_END_PAUSE)

    @property
    def _watched(self) -> bool:
        """Whether a limit or the status needs to know which requests run."""
        return any(self.services.config.run_limits) or self.services.counts is not None

    def _exchange_class(self) -> type[Exchange]:
        config = self.services.config
        if self._watched:
            from vsgi_fcgi.server.watching import InterruptibleExchange, WatchedExchange

            limited = config.request_timeout is not None
            return InterruptibleExchange if limited else WatchedExchange
        if self.access_log is None:
            return Exchange
        return TimedExchange if self.access_log.times_runs else LoggedExchange

    def _start_pool(self, apps: Apps, multiprocess: bool) -> Pool:
        """Start the workers: threads, greenlets, or the main context itself.

        The main context runs the app too if this host allows no threads.
        """
        services, config = self.services, self.services.config
        around: Callable[..., None] | None = None
        if any(config.run_limits):
            from vsgi_fcgi.server.watching import run_limited

            around = run_limited
        make = partial(make_run, apps, around=around, mount=config.mount_point)
        make = partial(make, vsgi_fcgi__main_context=self.calls, multiprocess=multiprocess)
        make = partial(make, wsgi__file_wrapper=config.file_wrapper)
        if config.worker == "thread":
            run = make(multithread=True)
            threads = ThreadPool(run, services.loop, services.mailbox, self._stray)
            started = threads.start(config.threads)
            if started < config.threads:
                services.log.warning(
                    "only %d of %d threads could be started: this host limits them%s",
                    started,
                    config.threads,
                    "" if started else "; the app runs in the main context instead",
                )
            if started:
                return threads
        services.workers_in_loop = True
        request_round = self.connections.request_round
        if config.worker == "greenlet":
            from vsgi_fcgi.server.workers.greenlets import GreenletPool

            # PEP 3333 asks whether another request may run at the same time in this process.
            return GreenletPool(make(multithread=True), services, request_round, self._stray)
        from vsgi_fcgi.server.workers.main import MainWorker

        run = make(multithread=False)
        return MainWorker(run, request_round, self._stray, watched=self._watched)

    def _failed(self, error: BaseException) -> None:
        self.services.log.error("a bug in the server", error=error)

    def _report_bug(self, error: Exception, consequence: str) -> None:
        self.services.log.error("a bug in the server; %s", consequence, error=error)

    def _stray(self, error: BaseException) -> None:
        self.services.log.warning(
            "%r was raised in a worker between two requests: an app has caused it, for example by a"
            " timeout that it did not cancel; the worker continues",
            error,
        )

    # Connections.

    def adopt(self, sock: Any, peer: Peer) -> None:
        """Take over an accepted socket."""
        self.calls.stats.connections_accepted += 1
        self.connections.adopt(ServerConnection(self, sock, peer))

    def adopt_moved(self, sock: Any, state: State) -> None:
        """Take over a connection from another process, in which it was open."""
        connection = ServerConnection(self, sock, tuple(state["peer"]))
        connection.silent = state["silent"]
        restore(connection.protocol, state)
        self.connections.adopt(connection)
        if self.connections.stopping and not connection.closed:
            connection.begin_closing()

    def open_exchanges(self) -> Iterator[LoggedExchange]:
        """Yield all exchanges that have not ended, if there is an access log."""
        for connection in list(self.connections):
            for request in list(connection.protocol.requests.values()):
                if request.outbound is Outbound.OPEN:
                    exchange = self.request_reader.exchange_of(connection, request)
                    yield cast(LoggedExchange, exchange)

    def forked(self) -> bool:
        """Leave all connections to the parent process, in a child that an app has forked.

        Returns:
            Whether the loop may continue in this process.
        """
        self.services.in_child = True
        if self.connections.recorder is not None:
            self.connections.recorder.forked()
        self.services.mailbox.forked()
        in_hub = get_ident() == self._ident
        for connection in self.connections:
            connection.forked(stop=in_hub)
        if in_hub:
            self.connections.stop_collecting()
            self.timeouts.stop()
            if self.run_limits is not None:
                self.run_limits.stop()
            if self.recycling is not None:
                self.recycling.stop()
            if self.publisher is not None:
                self.publisher.forked()
            self.connections.stop_timer()
            if self.access_log is not None:
                self.access_log.forked()
            # Otherwise the child would use the epoll instance of the parent.
            self.services.loop.reinit()
        else:
            # The loop's thread does not exist here. This closes the descriptors of the loop.
            self.services.loop.destroy()
        return in_hub

    def close(self) -> None:
        """Close everything. Requests that have not ended are lost."""
        if self.publisher is not None:
            self.publisher.stop()
        self.timeouts.stop()
        if self.run_limits is not None:
            self.run_limits.stop()
        if self.recycling is not None:
            self.recycling.stop()
        self.connections.close()
        # Give the loop a round, in which it calls the callbacks of cancelled requests.
        gevent.sleep(0)
        if self.access_log is not None:
            self.access_log.close()
        self._pool.stop()
        if self.services.held is not None:
            from vsgi_fcgi.push.publishing import PROCESS

            PROCESS.close(self.services.held.deliver)
            self.services.held.close()
        self.services.file_io.stop(_DISK_END)
        for function, argument in self.calls.close(self.services.mailbox.close()):
            # Nothing can be sent now, but exchanges and bodies release what they hold.
            try:
                function(argument)
            except Exception as error:
                self._failed(error)
        self.connections.stop_collecting()
        contract.main_threads.discard(self._ident)
