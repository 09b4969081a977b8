"""Closing a kept connection without losing a request."""

from __future__ import annotations

import socket
from enum import StrEnum
from time import monotonic
from typing import Any, Final

from vsgi_fcgi.exceptions import RemoteProtocolError
from vsgi_fcgi.protocol import Request, ServerProtocol
from vsgi_fcgi.transport.loop import Loop, Watcher
from vsgi_fcgi.transport.recording import Recording
from vsgi_fcgi.transport.thread_affinity import main_only

# How a request ended, as the access log names it.


class Outcome(StrEnum):
    """How a request ended."""

    COMPLETE = "complete"
    """The whole response was sent."""
    CANCELLED = "cancelled"
    """The web server aborted the request or closed the connection."""
    TIMED_OUT = "timed-out"
    """The rest of the request did not arrive (408), the app ran too long (504), or nothing could be
    sent."""
    REFUSED = "refused"
    """The server answered without the app: 400, 413, 431 or 503."""
    BROKEN = "broken"
    """The app failed in the middle of its response, or the connection violated the protocol."""
    STOPPED = "stopped"
    """The server stopped before the response was sent."""


Peer = tuple[str, int]
"""The IP address and the port of a peer; or the URI of a UNIX listener, and the number of the
connection."""

_OPEN: Final = 0
_WAITING: Final = 1
"""The input is shut down when the requests that had begun are complete."""
_SHUT: Final = 2
"""The peer can send nothing more; what it sent before is being read."""
_OVER: Final = 3
"""Everything was read."""
_LINGERING: Final = 4
"""TCP: our half is shut down, and the peer has not closed its half yet."""

_LINGER: Final = 0.5
"""Seconds that a TCP peer gets to close its half."""


class ClosableConnection:
    """The part of a connection that closes it when the process stops.

    On Linux, ``shutdown(SHUT_RD)`` on a UNIX socket makes each later write of the peer fail with
    EPIPE, while what it wrote before can still be read. So every request was either read, and is
    answered, or the peer knows that it was not sent. TCP has no such call: data that crosses our
    FIN is lost. It is read and counted, so that the exit status can report it.

    The methods that raise NotImplementedError belong to `vsgi_fcgi.transport.connection`.

    Args:
        loop: the event loop.
        protocol: the protocol.
        sock: the accepted socket, non-blocking.
        peer: the peer.

    Attributes:
        source: the peer.
        last_active: the monotonic time in seconds when something was last received.
        silent: nothing was ever received.
        paused: the number of reasons not to read.
        counted: bytes of unfinished requests that are charged to the quota.
        closed: the socket is closed.
        late: requests that came over TCP after our half was shut down.
        recording: keeps what passes on it; None usually.
    """

    __slots__ = (
        "_awaited",
        "_ending",
        "_linger",
        "_loop",
        "closed",
        "counted",
        "last_active",
        "late",
        "paused",
        "protocol",
        "recording",
        "silent",
        "sock",
        "source",
    )

    def __init__(self, loop: Loop, protocol: ServerProtocol, sock: Any, peer: Peer) -> None:
        self.protocol = protocol
        self.sock = sock
        self.source = peer
        self.last_active = monotonic()
        self.silent = True
        self.paused = 0
        self.counted = 0
        self.closed = False
        self.late = 0
        self._loop = loop
        self._ending = _OPEN
        self._awaited: list[Request] = []
        self._linger: Watcher | None = None
        self.recording: Recording | None = None

    def ended_badly(self, what: str) -> None:
        """Have the recording of the connection written, if there is one.

        Args:
            what: the fault, without data of the client or the app.
        """
        if self.recording is not None:
            self.recording.end_badly(what)

    @property
    def peer(self) -> str:
        """The name of the peer, for log lines."""
        where, number = self.source
        if self.sock.family == socket.AF_UNIX:
            return f"connection {number} on {where}"
        return f"{where}:{number}"

    @main_only
    def watch(self) -> None:
        """Start to read whenever something arrives."""
        raise NotImplementedError

    @main_only
    def on_readable(self) -> None:
        """Read once."""
        raise NotImplementedError

    @main_only
    def pause(self) -> None:
        """Stop reading until `resume` is called; may be nested."""
        raise NotImplementedError

    @main_only
    def resume(self) -> None:
        """Read again, unless there is another reason not to."""
        raise NotImplementedError

    @main_only
    def is_idle(self) -> bool:
        """Whether no request has begun, and nothing waits to be sent."""
        raise NotImplementedError

    def count_params(self) -> None:
        """Charge unfinished requests to the quota, which limits them over all connections."""
        raise NotImplementedError

    @main_only
    def close(self) -> None:
        """Close the socket and forget the connection."""
        raise NotImplementedError

    @main_only
    def lose(self, outcome: Outcome = Outcome.CANCELLED) -> None:
        """Abort all its requests and close it."""
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        """Close it after an error in this package."""
        raise NotImplementedError

    def refuse_rest(self) -> None:
        """Stop watching the input, refuse incomplete requests, and send these answers."""
        raise NotImplementedError

    # Closing it.

    @property
    def input_over(self) -> bool:
        """Whether all input was read. Such a connection is closed when it is idle."""
        return self._ending == _OVER

    def last_read(self) -> None:
        """Read what has arrived, and close the connection if it is still idle."""
        if self.closed:
            return
        if not self.paused:
            self.on_readable()
        if not self.closed and self.is_idle():
            if self.sock.family == socket.AF_UNIX:
                self._shut_input()
            if not self.closed and self.is_idle():
                self.close()

    def begin_closing(self) -> None:
        """Start to close the connection because the process stops.

        Idle connections of web servers that send one request at a time stay open for a while. nginx
        reuses its idle connections all the time: when 8 of them were closed at the same time, nginx
        was sending a POST on 2 of them, and it does not repeat a POST (nginx 1.22).
        """
        if self.protocol.asked_values:
            self.close_if_idle()

    def close_if_idle(self, *, at_once: bool = False) -> None:
        """Close the connection if it is idle, because the process stops.

        Args:
            at_once: do not read before, because the input was read just now.
        """
        if self.closed or self._ending >= _SHUT:
            return
        if not self.paused and not at_once:
            self.on_readable()
        if self.closed or not self.is_idle() or self.protocol.mid_record:
            return
        if self.sock.family == socket.AF_UNIX:
            self._shut_input()
        else:
            self._shut_output()

    def close_soon(self) -> None:
        """Accept no more requests on a connection that is busy, as it might never become idle.

        A request that has begun is read to its end first. A connection that the web server has
        not asked to keep is closed after its response anyway.
        """
        if self.closed or self._ending != _OPEN or self.sock.family != socket.AF_UNIX:
            return
        requests = self.protocol.requests.values()
        if requests and not any(request.keep_conn for request in requests):
            return
        self._awaited = self.protocol.unread()
        self._ending = _WAITING
        self._look()

    def _look(self) -> None:
        """Shut down the input as soon as the requests that had begun were read."""
        unread = set(self.protocol.unread())
        self._awaited = [request for request in self._awaited if request in unread]
        if not self._awaited:
            self._shut_input()

    def _shut_input(self) -> None:
        """Make each later write of the peer fail, and read the bytes that it wrote before."""
        if self._ending < _SHUT:
            self._ending = _SHUT
            try:
                self.sock.shutdown(socket.SHUT_RD)
            except OSError:
                self.lose()
        while self._ending == _SHUT and not self.closed and not self.paused:
            self.on_readable()

    def _shut_output(self) -> None:
        """Shut down our half of a TCP connection, and wait for the peer to close its half."""
        self._ending = _LINGERING
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._linger = self._loop.timer(_LINGER)
        self._linger.start(self.close)

    # Called where the connection is read.

    def _input_ended(self) -> None:
        """Handle the end of the input."""
        if self._ending < _SHUT:
            self.lose()
        elif self._ending == _SHUT:
            self._ending = _OVER
            self.refuse_rest()
            if not self.closed and self.is_idle():
                self.close()
        elif self._ending == _LINGERING:
            self.close()

    @property
    def is_lingering(self) -> bool:
        """Whether it is a TCP connection whose half on our side is shut down."""
        return self._ending == _LINGERING

    def _receive_late(self, data: bytes | memoryview) -> None:
        """Count requests that can no longer be answered. No app sees them."""
        try:
            self.protocol.receive_data(data)
        except RemoteProtocolError:
            self.lose()
            return
        self.late = len(self.protocol.requests)

    def _note_input(self) -> None:
        """Handle input that was read after a stop has begun."""
        if self._ending == _WAITING:
            self._look()

    def _stop_lingering(self) -> None:
        if self._linger is not None:
            self._linger.stop()
            self._linger.close()
            self._linger = None
