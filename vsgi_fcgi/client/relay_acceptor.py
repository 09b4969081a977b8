"""Accepts the connections of web servers on one socket of the relay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vsgi_fcgi.accepting import Accepting, Listening
from vsgi_fcgi.client.relay_channel import RelayChannel

if TYPE_CHECKING:
    from vsgi_fcgi.client.relay import Relay


class RelayAcceptor(Accepting):
    """Watches a listening socket of the relay.

    Args:
        relay: gets the connections.
        listener: where they come from.
    """

    def __init__(self, relay: Relay, listener: Listening) -> None:
        config = relay.config
        super().__init__(
            relay.loop,
            relay.log,
            listener,
            most=config.max_front_connections,
            pause=config.accept_pause,
        )
        self._relay = relay

    def is_full(self) -> bool:
        """Whether as many connections are open as may be."""
        return len(self._relay.channels) >= self._most

    def longest_idle(self) -> RelayChannel | None:
        """The connection on which nothing has happened for longest, if any is idle."""
        return next(iter(self._relay.idle), None)

    def is_allowed(self, host: str) -> bool:
        """Whether a TCP peer may come."""
        allowed = self._relay.is_allowed(host)
        if not allowed:
            self._log.warning("%s: refused, it is no web server that may come", host)
        return allowed

    def adopt(self, sock: Any, peer: str) -> None:
        """Take over a connection."""
        self._relay.adopt(RelayChannel(self._relay, sock, peer))
