"""Accepts connections on one listener."""

from __future__ import annotations

import errno
import socket
import time
from typing import TYPE_CHECKING, Any

from gevent import monkey

from vsgi_fcgi.loop import READ
from vsgi_fcgi.native import Socket
from vsgi_fcgi.server.channel import Channel
from vsgi_fcgi.server.listeners import Listener
from vsgi_fcgi.server.peers import is_allowed

if TYPE_CHECKING:
    from vsgi_fcgi.server.context import MainContext

_ROUND = 64
"""Connections that are accepted before the others have their turn."""

_SILENCE = 10.0
"""Seconds for which it is not said again that all connections are taken."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_poll: Any = monkey.get_original("select", "poll")


class Acceptor:
    """Watches a listening socket.

    When the system is out of descriptors, or as many connections are open as may be and none of
    them is idle, accepting pauses: whoever connects waits in the listener's backlog.

    Args:
        context: the main context.
        listener: where connections come from.
        allowed: the only TCP peers that are served, or None for all.
    """

    def __init__(
        self, context: MainContext, listener: Listener, allowed: frozenset[str] | None
    ) -> None:
        self.listener = listener
        self._context = context
        self._allowed = allowed if listener.is_tcp else None
        sock = listener.sock
        self._kind = (int(sock.family), int(sock.type), sock.proto)
        self._watcher = context.loop.io(sock.fileno(), READ)
        pause = context.config.accept_pause
        self._timer = context.loop.timer(pause, pause)
        self._full = False
        self._silent_until = 0.0
        self._number = 0

    def start(self) -> None:
        """Begin to accept."""
        self._watcher.start(self._on_acceptable)

    def _on_acceptable(self) -> None:
        try:
            self.accept(_ROUND)
        except Exception as error:
            # The watcher stays: what went wrong with one connection must not close the door.
            self._context.log.error("cannot accept on %s", self.listener.uri, error=error)

    def accept(self, most: int) -> None:
        """Accept what waits.

        Args:
            most: connections that are accepted at the most.
        """
        accept = self.listener.sock._accept  # type: ignore[attr-defined]
        context = self._context
        for _ in range(most):
            if len(context.channels) >= context.config.max_connections and not (
                self._is_waited_for() and self._make_room()
            ):
                return
            try:
                fd, address = accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return
                continue  # this connection went before it was accepted
            sock = Socket(*self._kind, fileno=fd)
            sock.setblocking(False)
            if self._allowed is not None and not is_allowed(address[0], self._allowed):
                context.log.warning(
                    "%s: refused, FCGI_WEB_SERVER_ADDRS does not name it", address[0]
                )
                sock.close()
                continue
            context.adopt(Channel(context, sock, self._name(sock, address)))

    def _name(self, sock: Any, address: Any) -> str:
        """Name a peer for log lines."""
        if self.listener.is_tcp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return f"{address[0]}:{address[1]}"
        self._number += 1
        return f"connection {self._number} on {self.listener.uri}"

    # Limits.

    def _is_waited_for(self) -> bool:
        """Whether somebody waits to be accepted: for nobody, none is closed."""
        poll = _poll()
        poll.register(self.listener.sock.fileno(), READ)
        return bool(poll.poll(0))

    def _make_room(self) -> bool:
        """Close the connection that has been idle longest, or pause until one is closed."""
        while (idle := self._context.longest_idle()) is not None:
            # Read first: a request that has come already is not to be lost.
            idle.last_read()
            if idle.closed:
                self._context.log.info("%s: closed, the longest idle of all", idle.peer)
                return True
        self._context.wants_idle = True
        if not self._full:
            self._full = True
            self._watcher.stop()
            self._say_that_it_is_full()
        return False

    def _say_that_it_is_full(self) -> None:
        # A busy server is full and has room again many times a second.
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + _SILENCE
            self._context.log.warning(
                "%d connections are open and none is idle: new ones wait",
                self._context.config.max_connections,
            )

    def has_room(self) -> None:
        """Go on after a pause: a connection was closed, or became idle."""
        if self._full:
            self._full = False
            self._watcher.start(self._on_acceptable)

    def _pause(self, error: OSError) -> None:
        pause = self._context.config.accept_pause
        self._context.log.warning(
            "cannot accept on %s: %s; trying again in %g s",
            self.listener.uri,
            error.strerror,
            pause,
        )
        self._watcher.stop()
        self._timer.again(self._resume, update=True)

    def _resume(self) -> None:
        self._timer.stop()
        if not self._full:
            self._watcher.start(self._on_acceptable)

    def stop(self) -> None:
        """Accept no more."""
        for watcher in (self._watcher, self._timer):
            watcher.stop()
            watcher.close()
