"""Looks, now and then, for what makes no progress in front of the relay.

Nothing is noted where bytes pass: a look compares what there is with what there was at the last
look.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any, Final

from gevent import monkey

from vsgi_fcgi.progress import Progress
from vsgi_fcgi.protocol import Inbound, Outbound, Request

if TYPE_CHECKING:
    from vsgi_fcgi.client.relay import Relay
    from vsgi_fcgi.client.relay_channel import RelayChannel
    from vsgi_fcgi.client.relayed import Relayed

_LOOKS: Final = 4
"""Looks in the shortest of the timeouts: a timeout is kept to within a quarter of it."""
_MAX_INTERVAL: Final = 0.5
"""Seconds between two looks: so soon it is seen that a web server has gone whose request body
waits, and that is not read meanwhile."""

_GONE: Final = select.POLLRDHUP | select.POLLHUP | select.POLLERR | select.POLLNVAL

_poll: Any = monkey.get_original("select", "poll")


class RelayTimeouts:
    """The receive, send, linger and wait timeouts of all that is in front.

    Args:
        relay: the relay.
    """

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        config = relay.config
        shortest = min(
            config.receive_timeout, config.send_timeout, config.linger_timeout, config.wait_timeout
        )
        interval = min(shortest / _LOOKS, _MAX_INTERVAL)
        self._progress: Progress[Request | RelayChannel] = Progress()
        self._timer = relay.loop.timer(interval, interval)
        self._timer.start(self._look)

    def stop(self) -> None:
        """Look no more."""
        self._timer.stop()
        self._timer.close()

    def _look(self) -> None:
        relay = self._relay
        try:
            now = relay.loop.now()
            self._progress.begin_look(now)
            relay.queue.look(now)
            paused: dict[int, RelayChannel] = {}
            for channel in list(relay.channels):
                if channel.paused:
                    paused[channel.sock.fileno()] = channel
                if channel.writer.blocked or channel.connection.requests:
                    self._look_at(channel)
            if paused:
                _lose_gone(paused)
        except Exception as error:
            relay.log.warning("a bug in the relay: %r", error)

    def _look_at(self, channel: RelayChannel) -> None:
        config = self._relay.config
        if channel.writer.blocked and self._progress.is_stuck(
            channel, channel.writer.sent, config.send_timeout
        ):
            self._relay.log.warning(
                "%s: nothing could be sent for %g seconds; the connection is closed",
                channel.peer,
                config.send_timeout,
            )
            channel.lose()
            return
        for request in list(channel.connection.requests.values()):
            if request.outbound is Outbound.ENDED:
                # Answered early. However much comes, the wait for its end is bounded.
                if self._progress.is_stuck(request, 0, config.linger_timeout):
                    channel.connection.give_up_discarding()
                    channel.writer.touch()
            elif request.inbound < Inbound.ENDED and not channel.paused:
                relayed: Relayed | None = request.context
                count = request.received + (0 if relayed is None else relayed.sent)
                if self._progress.is_stuck(request, count, config.receive_timeout):
                    reason = f"nothing more of it came for {config.receive_timeout:g} seconds"
                    if relayed is None:
                        channel.refuse(request, 408, reason)
                    else:
                        channel.give_up(relayed, 408, reason)


def _lose_gone(paused: dict[int, RelayChannel]) -> None:
    """Find web servers that have gone while they are not read."""
    poll = _poll()
    for fd in paused:
        poll.register(fd, select.POLLRDHUP)
    for fd, what in poll.poll(0):
        if what & _GONE:
            paused[fd].lose()
