"""What a server can say of itself in numbers."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vsgi_fcgi.server.channel import Channel


class Figures:
    """Connections and requests of a running server, for any thread to read.

    A multiplexing web server shows in them: few connections accepted, many requests in flight.
    The main context counts the connections that it accepts and nothing else; the rest is looked
    up by whoever asks, so that it costs a request nothing. Two figures that are read one after the
    other may be of different moments.

    Args:
        channels: the connections that are open.

    Attributes:
        connections_accepted: connections accepted since the start; those that were refused
            because FCGI_WEB_SERVER_ADDRS does not name their peer are not among them.
    """

    __slots__ = ("_channels", "connections_accepted")

    def __init__(self, channels: Collection[Channel] = ()) -> None:
        self._channels = channels
        self.connections_accepted = 0

    @property
    def connections_open(self) -> int:
        """Connections that are open now, idle ones among them."""
        return len(self._channels)

    @property
    def requests_in_flight(self) -> int:
        """Requests that have begun and not ended, whether they are read, wait, run or are sent."""
        # One step of the interpreter: the main context changes the set meanwhile.
        channels = list(self._channels)
        return sum(len(channel.connection.requests) for channel in channels)
