"""The main context: one native thread, its hub, and everything that only it touches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import gevent

from vsgi_fcgi.budget import Budget
from vsgi_fcgi.loop import Loop, Watcher
from vsgi_fcgi.native import get_ident
from vsgi_fcgi.protocol import Limits, Role, ServerConnection
from vsgi_fcgi.server import contract
from vsgi_fcgi.server.access_log import AccessLog
from vsgi_fcgi.server.assembler import Assembler
from vsgi_fcgi.server.calls import MainContextCalls
from vsgi_fcgi.server.channel import Channel
from vsgi_fcgi.server.config import Config
from vsgi_fcgi.server.disk import Disk
from vsgi_fcgi.server.dispatcher import Dispatcher, Pool
from vsgi_fcgi.server.endings import Ending
from vsgi_fcgi.server.figures import Figures
from vsgi_fcgi.server.gates import Gate, GreenletGate, ThreadGate
from vsgi_fcgi.server.line_writer import LineWriter
from vsgi_fcgi.server.log import Log
from vsgi_fcgi.server.mailbox import Mailbox
from vsgi_fcgi.server.main_worker import MainWorker
from vsgi_fcgi.server.role_assembler import RoleAssembler
from vsgi_fcgi.server.roles import Apps
from vsgi_fcgi.server.running import make_run
from vsgi_fcgi.server.thread_pool import ThreadPool
from vsgi_fcgi.server.timeouts import Timeouts
from vsgi_fcgi.server.writer import Writer

T = TypeVar("T")

_FIRST_WORD = 0.5
"""Seconds that a new connection gets to send its request while the server stops."""

_DISK_END = 2.0
"""Seconds that work on temporary files gets at the end."""


class MainContext:
    """Made in the thread that is to be the main context; its hub runs whenever that thread waits.

    Args:
        apps: the apps.
        config: the settings.
        log: the log.
        access_lines: writes the access log, if there is to be one.
        make_assembler: makes the assembler; None for the one that the apps' roles need.

    Attributes:
        access_log: None if there is none.
        channels: all open connections.
        dirty: writers that have something to send when the current batch is done.
        stopping: connections are closed as they become idle.
        wants_idle: `became_idle` is to be told of connections, as a rule it is not.
        memory: bytes of bodies and of unsent output in memory.
        params: bytes of params that have come in part.
        spool: bytes of temporary files.
        make_connection: makes the protocol of a connection.
        make_gate: makes what a worker waits at.
        hand_over: to be called when requests were submitted, once for many.
    """

    def __init__(
        self,
        apps: Apps,
        config: Config,
        log: Log,
        access_lines: LineWriter | None = None,
        make_assembler: Callable[[MainContext], Assembler] | None = None,
    ) -> None:
        self.config = config
        self.log = log
        # A cast: the type stubs leave out a timer's `again`.
        self.loop = cast(Loop, gevent.get_hub().loop)
        self._ident = get_ident()
        contract.main_threads.add(self._ident)
        self.access_log: AccessLog | None = None
        if access_lines is not None:
            self.access_log = AccessLog(config.access_log_format, access_lines, self.loop)
        self._async = self.loop.async_()
        self._async.start(self._drain)
        self.mailbox = Mailbox(self._wake, self._failed)
        self.channels: set[Channel] = set()
        self.calls = MainContextCalls(self.mailbox, self.loop, Figures(self.channels))
        self.disk = Disk(self.mailbox)
        self.memory = Budget(config.total_memory_bytes)
        self.params = Budget(config.total_params_bytes)
        self.spool = Budget(config.total_spool_bytes)
        self.dirty: list[Writer] = []
        self.stopping = False
        self.wants_idle = False
        self._last_call: Watcher | None = None
        self._parting: set[Channel] = set()
        self._by_age: list[tuple[float, Channel]] = []
        self.on_room: Callable[[], object] | None = None
        self.on_empty: Callable[[], object] | None = None
        self._inside = True
        self._pool = self._start_pool(apps)
        self.make_gate: Callable[[], Gate] = GreenletGate if self._inside else ThreadGate
        self.hand_over = self._pool.hand_over
        self.dispatcher = Dispatcher(self, self._pool)
        others = apps.roles - {Role.RESPONDER}
        make_assembler = make_assembler or (RoleAssembler if others else Assembler)
        self.assembler = make_assembler(self)
        self.timeouts = Timeouts(self)

    def _start_pool(self, apps: Apps) -> Pool:
        """Start the workers, and work out what the web server may be told of them."""
        config = self.config
        pool: Pool | None = None
        workers = 1
        timed = self.access_log is not None and self.access_log.times_runs
        make = partial(make_run, apps, timed=timed, mount=config.mount_point)
        make = partial(make, vsgi_fcgi__main_context=self.calls)
        make = partial(make, wsgi__file_wrapper=config.file_wrapper)
        if config.worker == "thread":
            threads = ThreadPool(make(multithread=True), self.loop, self.mailbox)
            workers = threads.start(config.threads)
            if workers:
                pool = threads
                self._inside = False
            if workers < config.threads:
                self.log.warning(
                    "only %d of %d threads could be started: this host limits them%s",
                    workers,
                    config.threads,
                    "" if workers else "; the app runs in the main context instead",
                )
        requests = min(config.max_queued + max(workers, 1), config.max_requests_per_connection)
        limits = Limits(
            config.max_requests_per_connection, config.max_params_bytes, config.max_params_count
        )
        values = {
            "FCGI_MAX_CONNS": str(config.max_connections),
            "FCGI_MAX_REQS": str(requests),
            "FCGI_MPXS_CONNS": "1",
        }
        self.make_connection = partial(ServerConnection, limits, values, apps.roles)
        if pool is None:
            pool = MainWorker(make(multithread=False), self.loop, self.mailbox, self._drain)
        return pool

    # Waking up.

    def _wake(self) -> None:
        """Have the mailbox drained soon. From any thread."""
        if get_ident() == self._ident:
            self.loop.run_callback(self._drain)
        else:
            self._async.send()

    def _drain(self) -> None:
        """Make the calls that came, then send what they left, each connection once."""
        self.mailbox.drain()
        if self.dirty:
            self.flush_dirty()

    def flush_dirty(self) -> None:
        """Send on every connection that was touched."""
        dirty, self.dirty = self.dirty, []
        for writer in dirty:
            writer.flush()

    def _failed(self, error: BaseException) -> None:
        self.log.error("a bug in the server", error=error)

    def blocking(self, task: Callable[[], T]) -> T:
        """Do disk work for a worker: at once in a thread, in the disk's thread for a greenlet.

        Raises:
            OSError: the task did.
        """
        if not self._inside:
            return task()
        gate = GreenletGate()
        results: list[Any] = []

        def done(result: Any) -> None:
            results.append(result)
            gate.open()

        self.disk.submit(task, done)
        gate.wait(None)
        if isinstance(results[0], OSError):
            raise results[0]
        result: T = results[0]
        return result

    # Connections.

    def adopt(self, channel: Channel) -> None:
        """Begin with an accepted connection."""
        self.channels.add(channel)
        self.calls.figures.connections_accepted += 1
        channel.start()

    def forget(self, channel: Channel) -> None:
        """Let go of a connection that was closed."""
        self.channels.discard(channel)
        if self.on_room is not None:
            self.on_room()
        if not self.channels and self.on_empty is not None:
            self.on_empty()

    def became_idle(self, channel: Channel) -> None:
        """Take note of a connection on which everything was answered: it may make room."""
        if channel in self._parting:
            channel.close()
        elif self.stopping:
            # Not at once: the web server may have sent the next request by now. But only once:
            # on a connection that never rests there is always a next one.
            self._parting.add(channel)
            self.loop.run_callback(channel.last_read)
        else:
            self.wants_idle = False
            if self.on_room is not None:
                self.on_room()

    def longest_idle(self) -> Channel | None:
        """Find the connection on which nothing has happened for longest, if any is idle.

        Sorting all connections for each that is to be closed would be felt; the order is kept
        until it is used up, and who has been active since is passed over.
        """
        for fresh in (False, True):
            if fresh:
                idle = [(channel.last_active, channel) for channel in self.channels]
                idle = [item for item in idle if item[1].is_idle()]
                self._by_age = sorted(idle, key=lambda item: item[0], reverse=True)
            while self._by_age:
                seen, channel = self._by_age.pop()
                if not channel.closed and channel.is_idle() and channel.last_active == seen:
                    return channel
        return None

    def begin_stopping(self) -> None:
        """Read what has come on each connection, and close each as it becomes idle.

        But not one on which nothing has ever come: whoever has just connected is about to ask,
        and a web server would take its end for a failure.
        """
        self.stopping = self.wants_idle = True
        for channel in list(self.channels):
            if not channel.silent:
                channel.last_read()
        if self.channels:
            wait = min(_FIRST_WORD, self.config.graceful_timeout / 2)
            self._last_call = self.loop.timer(wait)
            self._last_call.start(self._close_idle)

    def _close_idle(self) -> None:
        for channel in list(self.channels):
            channel.last_read()

    def close(self) -> None:
        """End everything, whatever is still running: the requests that are left are lost."""
        self.timeouts.stop()
        if self._last_call is not None:
            self._last_call.stop()
            self._last_call.close()
        for channel in list(self.channels):
            channel.lose(Ending.STOPPED)
        if self.access_log is not None:
            self.access_log.close()
        self._pool.stop()
        self.disk.stop(_DISK_END)
        for function, argument in self.calls.close(self.mailbox.close()):
            # Nothing is sent any more; but what a reply or a body holds is given back.
            try:
                function(argument)
            except Exception as error:
                self._failed(error)
        self._async.stop()
        self._async.close()
        contract.main_threads.discard(self._ident)
