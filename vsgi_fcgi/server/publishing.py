"""Writes what this process does to the scoreboard, from time to time and before it is read."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import chain
from operator import itemgetter
from queue import Empty
from typing import Any, Final, TypeVar

from vsgi_fcgi.server.mailbox import ThreadLatch
from vsgi_fcgi.server.services import Services
from vsgi_fcgi.server.stacks import stack_of, stack_text
from vsgi_fcgi.server.watching import RunningRequests, WatchedExchange
from vsgi_fcgi.server.workers.base import Pool
from vsgi_fcgi.server.workers.threads import WorkerThread
from vsgi_fcgi.status.scoreboard import (
    BUCKETS,
    COUNTERS,
    ENDED,
    GAUGES,
    MAX_REQUESTS,
    PERIOD,
    PERIODS,
    SERVING,
    SLOW,
    STUCK,
    Period,
    Process,
    Running,
    Scoreboard,
    bucket_of,
)
from vsgi_fcgi.transport.connections import Connections
from vsgi_fcgi.transport.thread_affinity import main_only
from vsgi_fcgi.transport.unpatched import SimpleQueue, start_thread

T = TypeVar("T")

_INTERVAL: Final = 1.0
"""Seconds between two updates."""

_MAX_TASKS: Final = 64
"""Maximum number of pages that wait to be made."""

_LAST_UPDATE: Final = 1.0
"""Seconds for the last update when the server stops."""

_LONG: Final = 1_000_000_000
"""Nanoseconds (1 s) after which the stack of a running request is published."""

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

_CODES: Final = {code: f"responses_{chr(code)}xx" for code in b"12345"}


class Publisher:
    """Counts the requests that have ended, and writes the scoreboard.

    A native thread does this once a second, also while an app blocks the main context. The same
    thread makes the pages, so that the main context does not wait for source files.

    Args:
        services: the services of the server, which have counts.
        running: the requests that run.
        pool: the workers.
        connections: all connections.
        scoreboard: the scoreboard.
        index: the number of this process in it.

    Attributes:
        state: what the process does, as in `vsgi_fcgi.status.scoreboard`.
        scoreboard: the scoreboard.
    """

    def __init__(
        self,
        services: Services,
        running: RunningRequests,
        pool: Pool,
        connections: Connections[Any],
        scoreboard: Scoreboard,
        index: int,
    ) -> None:
        assert services.counts is not None
        self.scoreboard = scoreboard
        self.state = SERVING
        self._services = services
        self._counts = services.counts
        self._running = running
        self._pool = pool
        self._connections = connections
        self._index = index
        self._process = Process(os.getpid(), SERVING, started=time.time())
        self._tasks: SimpleQueue[tuple[Callable[[], Any], Callable[[Any], object]] | None]
        self._tasks = SimpleQueue()
        self._waiting = 0
        self._ended = ThreadLatch()
        start_thread(self._run, "vsgi-fcgi-status")

    @main_only
    def ask(self, task: Callable[[], T], done: Callable[[T], object]) -> bool:
        """Update the scoreboard and run ``task()``, then ``done(result)`` in the main context.

        Returns:
            False if too many tasks wait.
        """
        if self._waiting >= _MAX_TASKS:
            return False
        self._waiting += 1
        self._tasks.put((task, done))
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
            result = task()
            self._services.mailbox.post(self._answer, (done, result))

    def _answer(self, item: tuple[Callable[[Any], object], Any]) -> None:
        self._waiting -= 1
        done, result = item
        done(result)

    def stop(self) -> None:
        """Write the last state, and end the thread."""
        self.state = ENDED
        self._tasks.put(None)
        self._ended.wait(_LAST_UPDATE)

    def _publish(self) -> None:
        try:
            self._update()
        except Exception as error:
            self._services.log.error("a bug in the server", error=error)

    # For the pages.

    def stack(self, ident: int) -> str:
        """Return the stack of a thread of this process."""
        return stack_text(stack_of(ident, self._running.greenlet))

    def stacks(self) -> str:
        """Return the stacks of all threads of this process that run requests, or could."""
        running, now = self._running, time.monotonic_ns()
        exchanges = running.stuck.copy() | running.threads.copy()
        by_thread = {ident: exchange for exchange, ident in exchanges.items()}
        parts = []
        for thread in threading.enumerate():
            found = by_thread.get(thread.ident or 0)
            if found is None and not isinstance(thread, WorkerThread):
                continue
            doing = "idle"
            if found is not None:
                doing = f"{found.name} has run for {(now - found.run_began) / 1e9:.1f} seconds"
            name = f"process {os.getpid()}, {thread.name}"
            parts.append(f"{name}: {doing}\n{self.stack(thread.ident or 0)}\n")
        return "\n".join(parts)

    def _update(self) -> None:
        process = self._process
        process.state = self.state
        process.cpu = time.process_time()
        process.updated = time.monotonic()
        process.requests = self._requests()
        process.gauges = self._gauges(len(process.requests))
        self._count_done(process.gauges)
        process.counters = [self._counts[name] for name in COUNTERS]
        self.scoreboard.write(self._index, process)

    def _count_done(self, gauges: list[int]) -> None:
        """Count the requests that have ended since the last update."""
        done = self._running.done
        items = [done.popleft() for _ in range(len(done))]
        counts, process = self._counts, self._process
        codes = Counter(map(itemgetter(0), items))
        for code, count in codes.items():
            counts[_CODES.get(code, "responses_none")] += count
        waits = list(map(itemgetter(1), items))
        runs = list(map(itemgetter(2), items))
        counts["sent_bytes"] += sum(map(itemgetter(3), items))
        process.queue_wait.total += sum(waits) / 1e9
        process.run_time.total += sum(runs) / 1e9
        for bucket, count in Counter(map(bucket_of, waits)).items():
            process.queue_wait.counts[bucket] += count
        buckets = Counter(map(bucket_of, runs))
        for bucket, count in buckets.items():
            process.run_time.counts[bucket] += count
        begin = int(time.time()) // PERIOD
        if not process.periods or process.periods[-1].begin != begin:
            process.periods.append(Period(begin))
            del process.periods[:-PERIODS]
        period = process.periods[-1]
        period.requests += len(items)
        period.errors += codes[ord("5")]
        period.busy = max(period.busy, gauges[GAUGES.index("busy")])
        period.queued = max(period.queued, gauges[GAUGES.index("queued")])
        period.run = [period.run[number] + buckets[number] for number in range(BUCKETS)]

    def _gauges(self, busy: int) -> list[int]:
        # Copies, made in one step of the interpreter: the main context changes the set.
        connections = list(self._connections.open)
        in_flight = [len(connection.protocol.requests) for connection in connections]
        found = {
            "threads": self._pool.size,
            "busy": busy,
            "queued": len(self._pool.jobs),
            "connections": len(connections),
            "idle_connections": in_flight.count(0),
            "multiplexed_connections": sum(count > 1 for count in in_flight),
            "resident_bytes": _resident(),
            "buffered_bytes": self._services.memory.used,
            "file_bytes": self._services.spool.used,
        }
        return [found[name] for name in GAUGES]

    def _requests(self) -> list[Running]:
        running, now = self._running, time.monotonic_ns()
        stuck = running.stuck.copy()
        found = []
        for exchange, ident in chain(stuck.items(), running.threads.copy().items()):
            stack = ""
            if now - exchange.run_began >= _LONG:
                stack = stack_text(stack_of(ident, running.greenlet))
            marks = (SLOW if exchange in running.slow else 0) | (STUCK if exchange in stuck else 0)
            found.append(_running(exchange, ident, marks, stack))
            if len(found) == MAX_REQUESTS:
                break
        return found


def _running(exchange: WatchedExchange, ident: int, marks: int, stack: str) -> Running:
    queued = exchange.run_began - exchange.submitted_at
    return Running(ident, exchange.run_began, queued, marks, *exchange.about, stack)


def _resident() -> int:
    """Return the bytes of this process that are in memory, or 0 where the system has no /proc."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return 0
