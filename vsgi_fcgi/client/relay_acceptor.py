"""Accepts the connections of web servers on one socket of the relay."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, Final, Protocol

from gevent import monkey

from vsgi_fcgi.client.relay_channel import RelayChannel
from vsgi_fcgi.loop import READ
from vsgi_fcgi.native import Socket

if TYPE_CHECKING:
    from vsgi_fcgi.client.relay import Relay

_ROUND: Final = 64
"""Connections that are accepted before the others have their turn."""

_SILENCE: Final = 10.0
"""Seconds for which it is not said again that all connections are taken."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_poll: Any = monkey.get_original("select", "poll")


class Listening(Protocol):
    """A socket that listens, and what is to be known of it."""

    @property
    def sock(self) -> Any:
        """The native socket, non-blocking."""

    @property
    def uri(self) -> str:
        """Where it listens, for messages."""

    @property
    def inherited(self) -> bool:
        """Whether the process was started with it: then it belongs to others too."""

    @property
    def is_tcp(self) -> bool:
        """Whether peers have IP addresses."""

    def unlink(self) -> None:
        """Remove the file of a UNIX socket."""

    def close(self) -> None:
        """Remove the file and close the socket; again is harmless."""


class RelayAcceptor:
    """Watches a listening socket.

    When the system is out of descriptors, or as many connections are open as may be and none of
    them is idle, accepting pauses: whoever connects waits in the listener's backlog.

    Args:
        relay: gets the connections.
        listener: where they come from.
    """

    def __init__(self, relay: Relay, listener: Listening) -> None:
        self.listener = listener
        self._relay = relay
        sock = listener.sock
        self._kind = (int(sock.family), int(sock.type), sock.proto)
        self._watcher = relay.loop.io(sock.fileno(), READ)
        pause = relay.config.accept_pause
        self._timer = relay.loop.timer(pause, pause)
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
            self._relay.log.warning("cannot accept on %s: %r", self.listener.uri, error)

    def accept(self, most: int) -> None:
        """Accept what waits.

        Args:
            most: connections that are accepted at the most.
        """
        accept = self.listener.sock._accept
        relay = self._relay
        for _ in range(most):
            if len(relay.channels) >= relay.config.max_front_connections and not (
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
            if self.listener.is_tcp and not relay.is_allowed(address[0]):
                relay.log.warning("%s: refused, it is no web server that may come", address[0])
                sock.close()
                continue
            relay.adopt(RelayChannel(relay, sock, self._name(sock, address)))

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
        idle = self._relay.idle
        while idle:
            channel = next(iter(idle))
            # Read first: a request that has come already is not to be lost.
            channel.last_read()
            if channel.closed:
                self._relay.log.info("%s: closed, the longest idle of all", channel.peer)
                return True
        if not self._full:
            self._full = True
            self._watcher.stop()
            self._say_that_it_is_full()
        return False

    def _say_that_it_is_full(self) -> None:
        # A busy relay is full and has room again many times a second.
        now = self._relay.loop.now()
        if now >= self._silent_until:
            self._silent_until = now + _SILENCE
            self._relay.log.warning(
                "%d connections are open and none is idle: new ones wait",
                self._relay.config.max_front_connections,
            )

    def has_room(self) -> None:
        """Go on after a pause: a connection was closed, or became idle."""
        if self._full:
            self._full = False
            self._watcher.start(self._on_acceptable)

    def _pause(self, error: OSError) -> None:
        pause = self._relay.config.accept_pause
        self._relay.log.warning(
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
