"""When a process should end although nothing is wrong: ``--max-requests`` and similar settings."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from vsgi_fcgi.server.config import Config
from vsgi_fcgi.server.main_context_calls import Stats
from vsgi_fcgi.server.services import Services
from vsgi_fcgi.transport.connections import Connections

_INTERVAL: Final = 1.0
"""Seconds between two looks at the memory and at the last request."""

_JITTER: Final = 0.1
"""Part of ``max_requests`` by which the limits of processes differ, so that not all end at once."""

_MIB: Final = 1024 * 1024
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

Note = Callable[[Any], object]


class Recycling:
    """Counts requests, and looks at the memory and at the last request from time to time.

    Args:
        services: the services of the server.
        connections: all connections.
        stats: the statistics.

    Attributes:
        on_due: called once in the main context, with the reason why the process should be replaced.
        on_idle: called in the main context with whether the process had nothing to do for
            ``idle_exit`` seconds, when this changes.
    """

    def __init__(self, services: Services, connections: Connections[Any], stats: Stats) -> None:
        config: Config = services.config
        self.on_due: Callable[[str], object] | None = None
        self.on_idle: Callable[[bool], object] | None = None
        self._services = services
        self._connections = connections
        self._stats = stats
        self._max_memory = config.max_memory
        self._idle_exit = config.idle_exit
        self._max_requests = config.max_requests
        if self._max_requests is not None:
            jitter = int(_JITTER * self._max_requests)
            self._max_requests += random.randint(0, jitter)  # nosec B311 # no secret
        self._count = 0
        self._said = False
        self._accepted = 0
        self._active_at = monotonic()
        self._idle = False
        interval = min(_INTERVAL, (self._idle_exit or _INTERVAL) / 4)
        self._timer = services.loop.timer(interval, interval)
        self._timer.start(self._look)

    def counting(self, note: Note | None) -> Note | None:
        """Return a function that counts an exchange, and then calls another function.

        Args:
            note: the other function, or None.
        """
        limit = self._max_requests
        if limit is None:
            return note

        def count(exchange: Any) -> None:
            self._count += 1
            if self._count == limit:
                self._due(f"its number of requests is {limit}")
            if note is not None:
                note(exchange)

        return count

    def stop(self) -> None:
        """Stop looking."""
        self._timer.stop()
        self._timer.close()

    def _due(self, reason: str) -> None:
        if not self._said and self.on_due is not None:
            self._said = True
            # Not here, where a connection is being read.
            self._services.mailbox.post(self.on_due, reason)

    def _look(self) -> None:
        try:
            if self._max_memory is not None and (used := resident_bytes()) > self._max_memory:
                self._due(
                    f"its memory of {used // _MIB} MiB exceeds {self._max_memory // _MIB} MiB"
                )
            if self._idle_exit is not None:
                self._look_for_requests(self._idle_exit)
        except Exception as error:
            self._connections.report_bug(error, "it is tried again later")

    def _look_for_requests(self, limit: float) -> None:
        now, stats = monotonic(), self._stats
        latest = max((each.last_active for each in self._connections.open), default=0.0)
        if stats.requests_in_flight or stats.connections_accepted != self._accepted:
            latest = now
        self._accepted = stats.connections_accepted
        self._active_at = max(self._active_at, latest)
        idle = now - self._active_at >= limit
        if idle is not self._idle:
            self._idle = idle
            if self.on_idle is not None:
                self.on_idle(idle)


def resident_bytes() -> int:
    """Return the bytes of memory that this process occupies; 0 if the system has no /proc."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return 0
