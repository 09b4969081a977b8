"""Looks, now and then, for requests and connections that make no progress.

Nothing is noted where bytes pass: a look compares what there is with what there was at the last
look. A request that is read, run and answered between two looks costs nothing here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vsgi_fcgi.protocol import Inbound, Outbound, Request
from vsgi_fcgi.server.endings import Ending

if TYPE_CHECKING:
    from vsgi_fcgi.server.channel import Channel
    from vsgi_fcgi.server.context import MainContext

_LOOKS = 4
"""Looks in the shortest of the timeouts: a timeout is kept to within a quarter of it."""
_MAX_INTERVAL = 1.0

Seen = dict["Request | Channel", tuple[int, float]]
"""Bytes at the last look, and the time in seconds since which there are no more."""


class Timeouts:
    """The receive, send and linger timeouts of all connections.

    Args:
        context: the main context.
    """

    def __init__(self, context: MainContext) -> None:
        self._context = context
        config = context.config
        shortest = min(config.receive_timeout, config.send_timeout, config.linger_timeout)
        interval = min(shortest / _LOOKS, _MAX_INTERVAL)
        self._seen: Seen = {}
        self._timer = context.loop.timer(interval, interval)
        self._timer.start(self._look)

    def stop(self) -> None:
        """Look no more."""
        self._timer.stop()
        self._timer.close()

    def _look(self) -> None:
        try:
            seen, self._seen = self._seen, {}
            now = self._context.loop.now()
            for channel in list(self._context.channels):
                if channel.writer.blocked or channel.connection.requests:
                    self._look_at(channel, seen, now)
        except Exception as error:
            self._context.log.error("a bug in the server", error=error)

    def _look_at(self, channel: Channel, seen: Seen, now: float) -> None:
        config = self._context.config
        if channel.writer.blocked and self._stuck(
            channel, channel.writer.sent, seen, now, config.send_timeout
        ):
            self._context.log.warning(
                "%s: nothing could be sent for %g seconds; the connection is closed",
                channel.peer,
                config.send_timeout,
            )
            channel.lose(Ending.TIMED_OUT)
            return
        for request in list(channel.connection.requests.values()):
            if request.outbound is Outbound.ENDED:
                # Answered early. However much comes, the wait for its end is bounded.
                if self._stuck(request, 0, seen, now, config.linger_timeout):
                    channel.connection.give_up_discarding()
                    channel.writer.touch()
            elif (
                request.inbound < Inbound.ENDED
                and not channel.paused
                and self._stuck(request, request.received, seen, now, config.receive_timeout)
            ):
                reason = f"nothing more of it came for {config.receive_timeout:g} seconds"
                self._context.assembler.refuse(channel, request, 408, reason)
        self._context.flush_dirty()

    def _stuck(
        self, what: Request | Channel, count: int, seen: Seen, now: float, timeout: float
    ) -> bool:
        """Whether the count of something has not changed for too long."""
        before = seen.get(what)
        if before is None or before[0] != count:
            self._seen[what] = (count, now)
            return False
        if now - before[1] >= timeout:
            return True
        self._seen[what] = before
        return False
