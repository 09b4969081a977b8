"""Hand complete requests to workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from vsgi_fcgi.server.exchange import Exchange
from vsgi_fcgi.transport.thread_affinity import main_only


class Pool(Protocol):
    """What runs requests: threads, or the main context itself."""

    jobs: deque[Exchange]
    """The queue: requests that no worker has taken yet."""

    fresh: bool
    """Requests were queued after the last call of `hand_over`."""

    size: int
    """The number of workers."""

    @property
    def free(self) -> int:
        """The number of workers that have no request."""

    def hand_over(self) -> None:
        """Run queued requests. Called in each round of the loop, after everything was read."""

    def remove(self, exchange: Exchange) -> bool:
        """Take a request out of the queue; return False if a worker has it already."""

    def stop(self) -> None:
        """End the workers as they become free."""


class Dispatcher:
    """The way down, from the main context to the workers.

    Args:
        pool: the workers.
        max_queued: the setting ``max_queued``.
        request_round: has `Pool.hand_over` called at the end of this round of the loop.
        take_notes: called with each exchange before it is submitted: the access log keeps what it
            needs of the params, which become the app's.

    Attributes:
        intercept: called with each complete request; it is not submitted if this returns True.
    """

    __slots__ = ("_jobs", "_max_queued", "_pool", "_request_round", "_take_notes", "intercept")

    def __init__(
        self,
        pool: Pool,
        max_queued: int,
        request_round: Callable[[], object],
        take_notes: Callable[[Any], object] | None,
    ) -> None:
        self._pool = pool
        self._jobs = pool.jobs
        self._max_queued = max_queued
        self._take_notes = take_notes
        self.intercept: Callable[[Exchange], bool] | None = None
        self._request_round = request_round

    @main_only
    def submit(self, exchange: Exchange) -> None:
        """Queue a complete request, or answer 503 if too many requests wait already.

        A bare END_REQUEST with OVERLOADED would follow the specification more closely, but web
        servers turn it into an empty response with status 200, or into a timeout.
        """
        if self.intercept is not None and self.intercept(exchange):
            return
        waiting = len(self._jobs)
        if waiting >= self._max_queued and not self._make_room():
            exchange.refuse(503, f"{self._max_queued} requests wait for a worker")
            return
        if self._take_notes is not None:
            self._take_notes(exchange)
        exchange.submit()
        self._jobs.append(exchange)
        if not self._pool.fresh:
            self._pool.fresh = True
            self._request_round()

    def _make_room(self) -> bool:
        """Let workers begin before the end of the round, because the queue is full.

        Returns:
            Whether one more request can be queued.
        """
        self._pool.hand_over()
        # Requests that came together wait for a moment, even if there is a worker for each.
        return len(self._jobs) < self._max_queued + self._pool.free

    @main_only
    def forget(self, exchange: Exchange) -> bool:
        """Take a cancelled request out of the queue; return False if a worker has it already."""
        return self._pool.remove(exchange)

    @property
    def waiting(self) -> int:
        """The number of requests that no worker has taken yet."""
        return len(self._jobs)
