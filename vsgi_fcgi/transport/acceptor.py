"""Accept the connections of web servers on a listening socket."""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, final

from vsgi_fcgi.listen.listeners import Listener
from vsgi_fcgi.listen.tcp import is_allowed
from vsgi_fcgi.transport.closing import Peer
from vsgi_fcgi.transport.connections import Connections
from vsgi_fcgi.transport.loop import READ
from vsgi_fcgi.transport.unpatched import Socket, poll

if TYPE_CHECKING:
    from vsgi_fcgi.listen.sharing import Sharing

_ROUND: Final = 64
"""Maximum number of connections that are accepted before open connections get their turn."""

_YIELD: Final = 0.001
"""Seconds for which a connection is left to a process that has fewer connections."""

_MAX_YIELD: Final = 0.1
"""Seconds after which a connection is accepted although another process has fewer."""

_IMPATIENT: Final = 1.0
"""Seconds for which no connection is left to others that did not take one."""

_SILENCE: Final = 10.0
"""Seconds for which the same warning is not logged again."""

_OF_ONE: Final = frozenset(
    getattr(errno, name)
    for name in (
        *("ECONNABORTED", "EPROTO", "EINTR", "ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN"),
        *("ENONET", "EHOSTUNREACH", "EOPNOTSUPP", "ENETUNREACH"),
    )
)
"""Errors of accept(2) that concern only one connection, according to its manual page.

EPERM is not one of them: it comes from a seccomp filter or a security module. It persists, and the
connection stays in the backlog.
"""


@final
class Acceptor:
    """Watches a listening socket.

    Accepting pauses when the system is out of descriptors, and when the maximum number of
    connections is open and none of them is idle. Until it continues, new connections wait in the
    listener's backlog.

    Args:
        connections: all open connections, over all listeners.
        listener: where connections come from.
        adopt: takes over an accepted connection; called with the socket and its peer.
        allowed: IP addresses that may connect over TCP, or None for all.
        backoff: seconds for which accepting pauses when the system is out of descriptors.
    """

    def __init__(
        self,
        connections: Connections[Any],
        listener: Listener,
        adopt: Callable[[Any, Peer], object],
        *,
        allowed: frozenset[str] | None,
        backoff: float,
    ) -> None:
        self.listener = listener
        self._connections = connections
        self._log = connections.log
        self._adopt = adopt
        self._allowed = allowed
        self._backoff = backoff
        loop = connections.loop
        sock = listener.sock
        # The flag is only for Python's socket object. To set it in the kernel would cost a system
        # call for each connection; the connection passes MSG_DONTWAIT instead.
        self._kind = (int(sock.family), int(sock.type) | socket.SOCK_NONBLOCK, sock.proto)
        self._watcher = loop.io(sock.fileno(), READ)
        self._timer = loop.timer(backoff, backoff)
        self._yield_timer = loop.timer(_YIELD, _YIELD)
        self._left_to = 0
        self._yielding_since = 0.0
        self._impatient_until = 0.0
        self._full = False
        self._silent_until = 0.0
        self._pause_silent_until = 0.0
        self._number = 0

    def start(self) -> None:
        """Start to accept."""
        self._watcher.start(self._on_acceptable)

    def _on_acceptable(self) -> None:
        try:
            count = _ROUND
            if self._connections.sharing is not None and self.listener.supervised:
                if self._yields(self._connections.sharing):
                    return
                count = 1
            # A UNIX socket that was shut down stays readable; poll reports it, accept does not.
            if not self.accept(count) and self._polls(select.POLLRDHUP):
                if self.listener.supervised:
                    self._watcher.stop()
                else:
                    self._pause("it was shut down")
        except Exception as error:
            # The watcher stays active: an error on one connection must not stop the acceptor.
            self._log.warning("cannot accept on %s: %r", self.listener.uri, error)

    def _yields(self, sharing: Sharing) -> bool:
        """Leave a connection to a process that has fewer, if that process takes it soon."""
        now, fewer = time.monotonic(), sharing.fewer()
        if now < self._impatient_until or not fewer:
            self._left_to = 0
            return False
        if fewer != self._left_to:
            # The first look, or one of them has taken a connection since the last one.
            self._left_to, self._yielding_since = fewer, now
        elif now - self._yielding_since > _MAX_YIELD:
            # The other processes are busy, or stopped.
            self._left_to, self._impatient_until = 0, now + _IMPATIENT
            return False
        self._watcher.stop()
        self._yield_timer.again(self._look_again, update=True)
        return True

    def _look_again(self) -> None:
        self._yield_timer.stop()
        if not self._has_backlog():
            self._left_to = 0
        if not self._full:
            self._watcher.start(self._on_acceptable)

    def accept(self, max_count: int) -> bool:
        """Accept connections that wait in the backlog.

        Args:
            max_count: maximum number of connections to accept.

        Returns:
            False if no connection was waiting.
        """
        # The type of sockets has no `_accept`, which returns a descriptor.
        sock: Any = self.listener.sock
        accept = sock._accept
        is_tcp = self.listener.is_tcp
        connections = self._connections
        for number in range(max_count):
            if len(connections.open) >= connections.limit and not (
                self._has_backlog() and self._make_room()
            ):
                return True
            try:
                fd, address = accept()
            except BlockingIOError:
                return number > 0
            except OSError as error:
                if error.errno in _OF_ONE:
                    continue  # the peer closed the connection before it was accepted
                # The system is out of descriptors, or another process has shut down the listening
                # socket. The socket stays readable, so without a pause this would be a busy loop.
                self._pause(error.strerror or repr(error))
                return True
            accepted = Socket(*self._kind, fileno=fd)
            if is_tcp:
                if not is_allowed(address[0], self._allowed):
                    # Section 3.2 of the specification.
                    accepted.close()
                    self._log.warning(
                        "%s: refused, FCGI_WEB_SERVER_ADDRS does not name it", address[0]
                    )
                    continue
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._adopt(accepted, (address[0], address[1]))
            else:
                self._number += 1
                self._adopt(accepted, (self.listener.uri, self._number))
        return True

    def _polls(self, events: int) -> bool:
        """Return whether poll reports one of the events, or an error, for the listening socket."""
        poller = poll()
        poller.register(self.listener.sock.fileno(), events)
        return bool(poller.poll(0))

    # Limits.

    def _has_backlog(self) -> bool:
        """Return whether a connection waits in the backlog. If not, no idle one is closed."""
        return self._polls(READ)

    def _make_room(self) -> bool:
        """Close the connection that has been idle longest, or pause until one is closed."""
        while (idle := self._connections.longest_idle()) is not None:
            # Read first: a request that has arrived already must not be lost.
            idle.last_read()
            if idle.closed:
                self._log.info("%s: closed to make room, it was idle longest", idle.peer)
                return True
        if not self._full:
            self._full = True
            self._connections.wants_room = True
            self._watcher.stop()
            self._say_that_it_is_full()
        return False

    def _say_that_it_is_full(self) -> None:
        # A busy server can be full, and have room again, many times a second.
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + _SILENCE
            self._log.warning(
                "%d connections are open and none is idle: new ones wait", len(self._connections)
            )

    def continue_accepting(self) -> None:
        """Continue after a pause, because a connection was closed or became idle."""
        if self._full:
            self._full = False
            self._watcher.start(self._on_acceptable)

    def _pause(self, reason: str) -> None:
        now = time.monotonic()
        if now >= self._pause_silent_until:
            self._pause_silent_until = now + _SILENCE
            self._log.warning(
                "cannot accept on %s: %s; trying again in %g s",
                self.listener.uri,
                reason,
                self._backoff,
            )
        self._watcher.stop()
        self._timer.again(self._resume, update=True)

    def _resume(self) -> None:
        self._timer.stop()
        if not self._full:
            self._watcher.start(self._on_acceptable)

    def close(self, max_count: int) -> None:
        """Accept the connections in the backlog, stop, and close the listener.

        The backlog of an inherited listener is left to the other processes that have the listener.

        Args:
            max_count: maximum number of connections to accept.
        """
        listener = self.listener
        if not listener.inherited:
            # From here on no web server can connect; those that have connected are served.
            listener.unlink()
            listener.refuse()
            self.accept(max_count)
        self.stop()
        listener.close()

    def stop(self) -> None:
        """Stop accepting."""
        for watcher in (self._watcher, self._timer, self._yield_timer):
            watcher.stop()
            watcher.close()
