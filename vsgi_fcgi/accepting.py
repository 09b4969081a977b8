"""Accepting connections on a listening socket: what the server and the relay have in common."""

from __future__ import annotations

import errno
import socket
import time
from typing import Any, Final, Protocol

from gevent import monkey

from vsgi_fcgi.loop import READ, Loop
from vsgi_fcgi.native import Socket

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


class Idle(Protocol):
    """A connection that may be closed to make room for another."""

    peer: str
    closed: bool

    def last_read(self) -> None:
        """Take what can be read, and close the connection if nothing came of it."""


class Log(Protocol):
    """What is written to the log."""

    def info(self, message: str, *args: object) -> object:
        """Log what is worth knowing."""

    def warning(self, message: str, *args: object) -> object:
        """Log what somebody should look at."""


class Accepting:
    """Watches a listening socket.

    When the system is out of descriptors, or as many connections are open as may be and none of
    them is idle, accepting pauses: whoever connects waits in the listener's backlog.

    Args:
        loop: the event loop.
        log: the log.
        listener: where connections come from.
        most: connections that may be open at once, over all listeners.
        pause: seconds for which accepting pauses when the system is out of descriptors.
    """

    def __init__(
        self, loop: Loop, log: Log, listener: Listening, *, most: int, pause: float
    ) -> None:
        self.listener = listener
        self._loop = loop
        self._log = log
        self._most = most
        self._pause_time = pause
        sock = listener.sock
        self._kind = (int(sock.family), int(sock.type), sock.proto)
        self._watcher = loop.io(sock.fileno(), READ)
        self._timer = loop.timer(pause, pause)
        self._full = False
        self._silent_until = 0.0
        self._number = 0

    # What becomes of connections is decided elsewhere.

    def is_full(self) -> bool:
        """Whether as many connections are open as may be."""
        raise NotImplementedError

    def longest_idle(self) -> Idle | None:
        """The connection on which nothing has happened for longest, if any is idle."""
        raise NotImplementedError

    def is_allowed(self, host: str) -> bool:
        """Whether a TCP peer may come; who may not is named in the log."""
        raise NotImplementedError

    def adopt(self, sock: Any, peer: str) -> None:
        """Take over a connection."""
        raise NotImplementedError

    # Accepting.

    def start(self) -> None:
        """Begin to accept."""
        self._watcher.start(self._on_acceptable)

    def _on_acceptable(self) -> None:
        try:
            self.accept(_ROUND)
        except Exception as error:
            # The watcher stays: what went wrong with one connection must not close the door.
            self._log.warning("cannot accept on %s: %r", self.listener.uri, error)

    def accept(self, most: int) -> None:
        """Accept what waits.

        Args:
            most: connections that are accepted at the most.
        """
        accept = self.listener.sock._accept
        is_tcp = self.listener.is_tcp
        for _ in range(most):
            if self.is_full() and not (self._is_waited_for() and self._make_room()):
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
            if is_tcp and not self.is_allowed(address[0]):
                sock.close()
                continue
            self.adopt(sock, self._name(sock, address))

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
        while (idle := self.longest_idle()) is not None:
            # Read first: a request that has come already is not to be lost.
            idle.last_read()
            if idle.closed:
                self._log.info("%s: closed, the longest idle of all", idle.peer)
                return True
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
            self._log.warning("%d connections are open and none is idle: new ones wait", self._most)

    def has_room(self) -> None:
        """Go on after a pause: a connection was closed, or became idle."""
        if self._full:
            self._full = False
            self._watcher.start(self._on_acceptable)

    def _pause(self, error: OSError) -> None:
        self._log.warning(
            "cannot accept on %s: %s; trying again in %g s",
            self.listener.uri,
            error.strerror,
            self._pause_time,
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
