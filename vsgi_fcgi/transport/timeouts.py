"""Timeouts: a timer looks for requests and connections that make no progress."""

from __future__ import annotations

from time import monotonic
from typing import Any, Final, Generic, Protocol, TypeVar

from vsgi_fcgi.protocol import Inbound, Outbound, Request
from vsgi_fcgi.transport.closing import Outcome
from vsgi_fcgi.transport.connection import Connection
from vsgi_fcgi.transport.connections import Connections

_LOOKS: Final = 4
"""Looks in the shortest timeout: each timeout is kept to within a quarter of the shortest one."""
_MAX_INTERVAL: Final = 1.0

T = TypeVar("T")


class StallDetector(Generic[T]):
    """Remembers counts of things from one look to the next. It forgets things not asked for."""

    def __init__(self) -> None:
        # The count at the last look, and the time in seconds since which it has not changed.
        self._seen: dict[T, tuple[int, float]] = {}
        self._before: dict[T, tuple[int, float]] = {}
        self._now = 0.0

    def begin_look(self, now: float) -> None:
        """Start a look at all things.

        Args:
            now: the time, in seconds.
        """
        self._before, self._seen = self._seen, {}
        self._now = now

    def is_stuck(self, what: T, count: int, timeout: float) -> bool:
        """Return whether the count of a thing has not changed for too long.

        Args:
            what: the thing.
            count: a number that grows with its progress, such as bytes.
            timeout: seconds for which the number may stay the same.
        """
        before = self._before.get(what)
        if before is None or before[0] != count:
            self._seen[what] = (count, self._now)
            return False
        if self._now - before[1] >= timeout:
            return True
        self._seen[what] = before
        return False


class Times(Protocol):
    """The settings of timeouts, in seconds."""

    @property
    def receive_timeout(self) -> float:
        """The time in which more of an incomplete request must arrive."""

    @property
    def send_timeout(self) -> float:
        """The time in which something must be sent on a connection that is blocked."""

    @property
    def linger_timeout(self) -> float:
        """The time in which an incomplete request must end that was answered early."""


class Timeouts:
    """The receive, send and linger timeouts of all connections.

    Nothing is noted where bytes pass: a look compares what there is with what there was at the last
    look. A request that is read, run and answered between two looks costs nothing here.

    Args:
        connections: all connections.
        times: the timeouts.
        max_interval: maximum number of seconds between two looks.
    """

    def __init__(
        self, connections: Connections[Any], times: Times, max_interval: float = _MAX_INTERVAL
    ) -> None:
        self._connections = connections
        self._times = times
        self._stalls: StallDetector[Request | Connection[Any]] = StallDetector()
        shortest = min(times.receive_timeout, times.send_timeout, times.linger_timeout)
        interval = min(shortest / _LOOKS, max_interval)
        self._timer = connections.loop.timer(interval, interval)
        self._timer.start(self._on_time)

    def stop(self) -> None:
        """Stop the timer."""
        self._timer.stop()
        self._timer.close()

    def _on_time(self) -> None:
        connections = self._connections
        try:
            now = monotonic()
            self._stalls.begin_look(now)
            self.look(now)
        except Exception as error:
            connections.report_bug(error, "the timeouts are checked again later")

    def look(self, now: float) -> None:
        """Look at all connections.

        Args:
            now: the monotonic time in seconds.
        """
        for connection in self._connections:
            if connection.writer.blocked or connection.protocol.requests:
                self._look_at(connection)

    def _look_at(self, connection: Connection[Any]) -> None:
        times, is_stuck = self._times, self._stalls.is_stuck
        writer = connection.writer
        if writer.blocked and is_stuck(connection, writer.sent, times.send_timeout):
            self._connections.log.warning(
                "%s: nothing could be sent for %g seconds; the connection is closed",
                connection.peer,
                times.send_timeout,
            )
            connection.ended_badly(f"nothing could be sent for {times.send_timeout:g} seconds")
            connection.lose(Outcome.TIMED_OUT)
            return
        for request in list(connection.protocol.requests.values()):
            if request.outbound is Outbound.ENDED:
                # Answered early. However much still arrives, the wait for its end is limited.
                if is_stuck(request, 0, times.linger_timeout):
                    connection.protocol.give_up_discarding()
                    writer.touch()
            elif request.inbound < Inbound.ENDED and not connection.paused:
                progress = connection.progress_of(request)
                if is_stuck(request, progress, times.receive_timeout):
                    reason = f"no more of it arrived within {times.receive_timeout:g} seconds"
                    connection.ended_badly(f"request {request.id}: {reason}")
                    connection.time_out(request, reason)
