"""Writes what this process does to the scoreboard, and serves ``--status-path``."""

from __future__ import annotations

import ipaddress
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty
from typing import Any, Final, cast

from vsgi_fcgi.log.access_format import rebuild_target
from vsgi_fcgi.log.access_log import AccessLog
from vsgi_fcgi.server.exchange import READING, Exchange, LoggedExchange
from vsgi_fcgi.server.mailbox import ThreadLatch
from vsgi_fcgi.server.recycling import resident_bytes
from vsgi_fcgi.server.services import Services
from vsgi_fcgi.server.stacks import stack_text
from vsgi_fcgi.server.watching import RunLimits, WatchedExchange, running
from vsgi_fcgi.server.workers.base import Pool
from vsgi_fcgi.server.workers.threads import WorkerThread
from vsgi_fcgi.status.app import PATHS, Response, respond, respond_as_cgi
from vsgi_fcgi.status.counting import CLASSES
from vsgi_fcgi.status.scoreboard import (
    COUNTERS,
    ENDED,
    GAUGES,
    MAX_REQUESTS,
    PERIOD,
    PERIODS,
    SERVING,
    SLOW,
    STOPPING,
    STUCK,
    Histogram,
    Period,
    Process,
    Running,
    Scoreboard,
)
from vsgi_fcgi.transport.closing import Outcome
from vsgi_fcgi.transport.connections import Connections
from vsgi_fcgi.transport.loop import TimerWatcher
from vsgi_fcgi.transport.thread_affinity import main_only
from vsgi_fcgi.transport.unpatched import SimpleQueue, start_thread
from vsgi_fcgi.wsgi.response import error_page

_INTERVAL: Final = 1.0
"""Seconds between two updates."""

_MAX_TASKS: Final = 64
"""Maximum number of pages that wait to be made."""

_LAST_UPDATE: Final = 1.0
"""Seconds for the last update when the server stops."""

_LONG: Final = 1_000_000_000
"""Nanoseconds (1 s) after which the stack of a running request is published."""


class Publisher:
    """Writes the scoreboard.

    A native thread does this once a second, also while an app blocks the main context. The same
    thread makes the pages, so that the main context does not wait for source files.

    Args:
        services: the services of the server, which have counts.
        pool: the workers, with the requests that run.
        connections: all connections.
        limits: the limits on running requests, or None if there are none.
        scoreboard: the scoreboard.
        index: the number of this process in it.

    Attributes:
        scoreboard: the scoreboard.
    """

    def __init__(
        self,
        services: Services,
        pool: Pool,
        connections: Connections[Any],
        limits: RunLimits | None,
        scoreboard: Scoreboard,
        index: int,
    ) -> None:
        assert services.counts is not None
        self.scoreboard = scoreboard
        self._state = SERVING
        self._services = services
        self._counts = services.counts
        self._limits = limits
        self._pool = pool
        self._connections = connections
        self._index = index
        self._errors = 0
        self._process = Process(os.getpid(), SERVING, started=time.time())
        self._tasks: SimpleQueue[tuple[Callable[[], Response], Callable[[Response], object]] | None]
        self._tasks = SimpleQueue()
        self._waiting = 0
        self._ended = ThreadLatch()
        self._timer: TimerWatcher | None = None
        try:
            start_thread(self._run, "vsgi-fcgi-status")
        except RuntimeError:
            # This host allows no more threads, so the main context does it.
            self._timer = services.loop.timer(_INTERVAL, _INTERVAL)
            self._timer.start(self._publish)

    @main_only
    def ask(self, task: Callable[[], Response], done: Callable[[Response], object]) -> bool:
        """Update the scoreboard and run ``task()``, then ``done(result)`` in the main context.

        Returns:
            False if too many tasks wait.
        """
        if self._waiting >= _MAX_TASKS:
            return False
        self._waiting += 1
        if self._timer is None:
            self._tasks.put((task, done))
        else:
            self._publish()
            self._services.mailbox.post(self._answer, (done, self._make(task)))
        return True

    def _run(self) -> None:
        while True:
            try:
                item = self._tasks.get(timeout=_INTERVAL)
            except Empty:
                self._publish()
                continue
            self._publish()
            if item is None:
                self._ended.open()
                return
            task, done = item
            self._services.mailbox.post(self._answer, (done, self._make(task)))

    def _make(self, task: Callable[[], Response]) -> Response:
        try:
            return task()
        except Exception as error:
            # For example, no memory. The request must get an answer, and the next task must run.
            self._services.log.error("a page of the status cannot be made", error=error)
            return error_page(500)

    def _answer(self, item: tuple[Callable[[Response], object], Response]) -> None:
        self._waiting -= 1
        done, result = item
        done(result)

    def begin_stopping(self) -> None:
        """Note that the process accepts no more connections."""
        self._state = STOPPING

    def stop(self) -> None:
        """Write the last state, and end the thread."""
        self._state = ENDED
        if self._timer is None:
            self._tasks.put(None)
            self._ended.wait(_LAST_UPDATE)
        else:
            self._publish()
            self._timer.stop()
            self._timer.close()

    def forked(self) -> None:
        """Leave the scoreboard to the parent process, in a child that an app has forked."""
        if self._timer is not None:
            self._timer.stop()

    def _publish(self) -> None:
        try:
            self._update()
        except Exception as error:
            self._services.log.error("a bug in the server", error=error)

    # For the pages.

    def stack(self, ident: int) -> str:
        """Return the stack of a worker of this process."""
        return stack_text(self._pool.stack(ident))

    def stacks(self) -> str:
        """Return the stacks of the workers of this process that run requests, or could.

        At most `MAX_REQUESTS` greenlets: those that have run for longest.
        """
        now = time.monotonic_ns()
        by_ident = {ident: exchange for exchange, ident in running(self._pool)[:MAX_REQUESTS]}
        names = {
            thread.ident or 0: thread.name
            for thread in threading.enumerate()
            if isinstance(thread, WorkerThread) or thread.ident in by_ident
        }
        parts = []
        for ident in dict.fromkeys((*names, *by_ident)):
            found = by_ident.get(ident)
            name = f"process {os.getpid()}, {names.get(ident, f'greenlet {ident}')}"
            if found is None:
                parts.append(f"{name}: idle\n")
                continue
            run = (now - found.run_began) / 1e9
            parts.append(
                f"{name}: {found.name} has run for {run:.1f} seconds\n{self.stack(ident)}\n"
            )
        return "\n".join(parts) or f"process {os.getpid()}: no request runs\n"

    def _update(self) -> None:
        process = self._process
        process.state = self._state
        process.cpu = time.process_time()
        process.updated = time.monotonic()
        found = running(self._pool)
        process.requests = self._requests(found[:MAX_REQUESTS])
        process.gauges = self._gauges(len(found))
        self._copy_counts(process)
        self.scoreboard.write(self._index, process)

    def _copy_counts(self, process: Process) -> None:
        """Copy what is counted, and add what is new to the current period."""
        counts = self._counts
        # The main context counts on meanwhile. Each copy is made in one step of the interpreter.
        responses, runs = counts.responses.copy(), counts.run_time.copy()
        named = zip(CLASSES, responses, strict=True)
        found = {f"responses_{name}": count for name, count in named}
        found |= {**counts.events, "sent_bytes": counts.sent_bytes}
        last_errors, last_runs = self._errors, process.run_time.counts
        self._errors = responses[CLASSES.index("5xx")]
        process.counters = [found.get(name, 0) for name in COUNTERS]
        process.queue_wait = Histogram(counts.queue_wait.copy(), counts.queue_wait_total / 1e9)
        process.run_time = Histogram(runs, counts.run_time_total / 1e9)
        begin = int(time.time()) // PERIOD
        if not process.periods or process.periods[-1].begin != begin:
            process.periods.append(Period(begin))
            del process.periods[:-PERIODS]
        period = process.periods[-1]
        new = [count - last for count, last in zip(runs, last_runs, strict=True)]
        period.requests += sum(new)
        period.errors += self._errors - last_errors
        period.busy = max(period.busy, process.gauges[GAUGES.index("busy")])
        period.queued = max(period.queued, process.gauges[GAUGES.index("queued")])
        period.run = [count + more for count, more in zip(period.run, new, strict=True)]

    def _gauges(self, busy: int) -> list[int]:
        # Copies, made in one step of the interpreter: the main context changes the set.
        connections = list(self._connections.open)
        in_flight = [len(connection.protocol.requests) for connection in connections]
        held = self._services.held
        found = {
            "threads": self._pool.size,
            "busy": busy,
            "queued": len(self._pool.jobs),
            "held": 0 if held is None else len(held),
            "connections": len(connections),
            "idle_connections": in_flight.count(0),
            "multiplexed_connections": sum(count > 1 for count in in_flight),
            "resident_bytes": resident_bytes(),
            "buffered_bytes": self._services.memory.used,
            "file_bytes": self._services.spool.used,
        }
        return [found[name] for name in GAUGES]

    def _requests(self, shown: Sequence[tuple[WatchedExchange, int]]) -> list[Running]:
        limits, now = self._limits, time.monotonic_ns()
        found = []
        for exchange, ident in shown:
            began, stack, marks = exchange.run_began, "", 0
            if now - began >= _LONG:
                stack = self.stack(ident)
            if limits is not None:
                marks += SLOW if exchange in limits.slow else 0
                marks += STUCK if exchange in limits.replaced else 0
            what = exchange.method, exchange.target, exchange.client
            queued = began - exchange.submitted_at
            found.append(Running(ident, began, queued, marks, *what, stack))
        return found


class StatusPath:
    """``--status-path``: answers requests for the status over FastCGI, without a worker.

    Args:
        path: the URL path of the status.
        allowed: addresses of clients that may read it, besides those of this machine.
        publisher: makes the responses.
        access_log: the access log, or None if there is none.
    """

    def __init__(
        self,
        path: str,
        allowed: Sequence[str],
        publisher: Publisher,
        access_log: AccessLog | None,
    ) -> None:
        self._path = path.rstrip("/")
        self._allowed = allowed
        self._publisher = publisher
        self._access_log = access_log

    @main_only
    def take(self, exchange: Exchange) -> bool:
        """Answer a complete request later if it is for the status; return whether it is."""
        get = exchange.request.params.get
        path, _, query = (get("REQUEST_URI") or rebuild_target(get)).partition("?")
        if not path.startswith(self._path):
            return False
        rest = path[len(self._path) :] or "/"
        if rest not in PATHS:
            return False
        client = get("REMOTE_ADDR") or ""
        if client not in self._allowed and not _is_loopback(client):
            exchange.refuse(403, f"status_allow does not name the client {client or 'at all'}")
            return True
        task = partial(respond, self._publisher, rest, query, self._path)
        if not self._publisher.ask(task, partial(self._answer, exchange)):
            exchange.refuse(503, "too many requests for the status wait")
        return True

    def _answer(self, exchange: Exchange, response: Response) -> None:
        if exchange.state is not READING:
            return  # the web server has given it up
        data = respond_as_cgi(response)
        if self._access_log is not None:
            logged = cast(LoggedExchange, exchange)
            self._access_log.refused(logged, data, Outcome.COMPLETE)
        exchange.answer(data)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
