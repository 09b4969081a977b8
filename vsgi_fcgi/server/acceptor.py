"""Accepts the connections of web servers on one listener."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vsgi_fcgi.accepting import Accepting
from vsgi_fcgi.server.channel import Channel
from vsgi_fcgi.server.listeners import Listener
from vsgi_fcgi.server.peers import is_allowed

if TYPE_CHECKING:
    from vsgi_fcgi.server.context import MainContext


class Acceptor(Accepting):
    """Watches a listening socket of the server.

    Args:
        context: the main context.
        listener: where connections come from.
        allowed: the only TCP peers that are served, or None for all.
    """

    def __init__(
        self, context: MainContext, listener: Listener, allowed: frozenset[str] | None
    ) -> None:
        config = context.config
        super().__init__(
            context.loop,
            context.log,
            listener,
            most=config.max_connections,
            pause=config.accept_pause,
        )
        self._context = context
        self._allowed = allowed

    def is_full(self) -> bool:
        """Whether as many connections are open as may be."""
        return len(self._context.channels) >= self._most

    def longest_idle(self) -> Channel | None:
        """The connection on which nothing has happened for longest, if any is idle."""
        idle = self._context.longest_idle()
        if idle is None:
            self._context.wants_idle = True
        return idle

    def is_allowed(self, host: str) -> bool:
        """Whether a TCP peer may come (section 3.2 of the specification)."""
        if is_allowed(host, self._allowed):
            return True
        self._log.warning("%s: refused, FCGI_WEB_SERVER_ADDRS does not name it", host)
        return False

    def adopt(self, sock: Any, peer: str) -> None:
        """Take over a connection."""
        self._context.adopt(Channel(self._context, sock, peer))
