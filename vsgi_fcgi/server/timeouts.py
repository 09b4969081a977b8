"""Looks, now and then, for requests and connections that make no progress.

Nothing is noted where bytes pass: a look compares what there is with what there was at the last
look. A request that is read, run and answered between two looks costs nothing here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vsgi_fcgi.progress import Progress
from vsgi_fcgi.protocol import Inbound, Outbound, Request
from vsgi_fcgi.server.endings import Ending

if TYPE_CHECKING:
    from vsgi_fcgi.server.channel import Channel
    from vsgi_fcgi.server.context import MainContext

_LOOKS = 4
"""Looks in the shortest of the timeouts: a timeout is kept to within a quarter of it."""
_MAX_INTERVAL = 1.0


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
        self._progress: Progress[Request | Channel] = Progress()
        self._timer = context.loop.timer(interval, interval)
        self._timer.start(self._look)

    def stop(self) -> None:
        """Look no more."""
        self._timer.stop()
        self._timer.close()

    def _look(self) -> None:
        try:
            self._progress.begin_look(self._context.loop.now())
            for channel in list(self._context.channels):
                if channel.writer.blocked or channel.connection.requests:
                    self._look_at(channel)
        except Exception as error:
            self._context.log.error("a bug in the server", error=error)

    def _look_at(self, channel: Channel) -> None:
        config = self._context.config
        if channel.writer.blocked and self._progress.is_stuck(
            channel, channel.writer.sent, config.send_timeout
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
                if self._progress.is_stuck(request, 0, config.linger_timeout):
                    channel.connection.give_up_discarding()
                    channel.writer.touch()
            elif (
                request.inbound < Inbound.ENDED
                and not channel.paused
                and self._progress.is_stuck(request, request.received, config.receive_timeout)
            ):
                reason = f"nothing more of it came for {config.receive_timeout:g} seconds"
                self._context.assembler.refuse(channel, request, 408, reason)
        self._context.flush_dirty()
