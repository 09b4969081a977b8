"""Hand the connections of a process that retires over to another process.

A web server that keeps its connections notices nothing: no connection is closed, and every request
is answered by the process that has read it. A connection moves when no request is active on it. A
busy multiplexed connection might never be in this state. So it is read only to the end of the
requests that have begun, and moves when these have ended. What its web server sends meanwhile waits
in the socket, and the next process reads it.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from vsgi_fcgi.transport.connection import Connection
from vsgi_fcgi.transport.connections import Connections
from vsgi_fcgi.transport.loop import Watcher

_MAX_UNPARSED: Final = 16384
"""Maximum bytes of an incomplete record that move with a connection."""

_RETRY: Final = 0.01
"""Seconds until the next try if the supervisor reads no messages."""

State = dict[str, Any]
"""What the next process must know about a connection, as JSON encodes it."""

PassOn = Callable[[int, State], bool]
"""Sends a descriptor to the supervisor. Returns False if it must be tried again later.

It raises OSError if there is no supervisor any more.
"""


class Handover:
    """The connections of a process that retires.

    Args:
        connections: all connections.
        pass_on: sends a connection.
        on_failure: called if there is no supervisor any more.

    Attributes:
        moved: the number of connections that were handed over.
    """

    def __init__(
        self,
        connections: Connections[Any],
        pass_on: PassOn,
        on_failure: Callable[[], object],
    ) -> None:
        self._connections = connections
        self._pass_on = pass_on
        self._on_failure = on_failure
        self.moved = 0
        self._waiting: deque[Connection[Any]] = deque()
        self._timer = connections.loop.timer(_RETRY, _RETRY)

    def begin(self) -> None:
        """Hand over all connections as soon as possible."""
        for connection in self._connections:
            connection.sock = _Stepwise(connection)
            self.look(connection)

    def watch(self, connection: Connection[Any], reader: Watcher) -> None:
        """Read from a connection, if a request on it is incomplete."""
        if not self._may_rest(connection):
            reader.start(partial(self._read, connection))

    def _read(self, connection: Connection[Any]) -> None:
        connection.on_readable()
        self.look(connection)

    def look(self, connection: Connection[Any]) -> None:
        """Hand over a connection if nothing is active on it; otherwise read what must be read."""
        if connection.closed or connection in self._waiting:
            return
        if not connection.is_idle() or self._unparsed(connection) is None:
            connection.read_on()
            return
        connection.stop_reading()
        self._waiting.append(connection)
        self._send_waiting()

    def _may_rest(self, connection: Connection[Any]) -> bool:
        protocol = connection.protocol
        return not protocol.mid_record and not protocol.unread()

    def _unparsed(self, connection: Connection[Any]) -> bytes | None:
        """Return the start of a record that has arrived, or None if it cannot move."""
        unparsed = connection.protocol.unparsed
        return unparsed if unparsed is not None and len(unparsed) <= _MAX_UNPARSED else None

    def _send_waiting(self) -> None:
        waiting = self._waiting
        while waiting:
            connection = waiting[0]
            if not connection.closed:
                state = {
                    "peer": connection.source,
                    "silent": connection.silent,
                    "asked_values": connection.protocol.asked_values,
                    "multiplexes": connection.protocol.multiplexes,
                    "unparsed": base64.b64encode(connection.protocol.unparsed or b"").decode(),
                }
                try:
                    if not self._pass_on(connection.sock.fileno(), state):
                        self._timer.again(self._try_again, update=True)
                        return
                except OSError:
                    waiting.clear()
                    self._on_failure()
                    return
                self.moved += 1
            waiting.popleft()
            # The other process has a copy of the descriptor, so its web server notices nothing.
            connection.close()

    def _try_again(self) -> None:
        self._timer.stop()
        self._send_waiting()

    def stop(self) -> None:
        """Hand over no more connections."""
        self._timer.stop()
        self._timer.close()
        self._waiting.clear()


class _Stepwise:
    """A socket from which at most one record is read at a time.

    Reading then ends after the last record of a request, and not somewhere in the next one.

    Args:
        connection: the connection, whose socket it replaces.
    """

    def __init__(self, connection: Connection[Any]) -> None:
        self._sock = connection.sock
        self._protocol = connection.protocol

    def recv(self, size: int, flags: int) -> bytes:
        data: bytes = self._sock.recv(min(size, self._protocol.missing), flags)
        return data

    def recv_into(self, buffer: memoryview, size: int, flags: int) -> int:
        size = min(size or len(buffer), self._protocol.missing)
        received: int = self._sock.recv_into(buffer, size, flags)
        return received

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def restore(protocol: Any, state: State) -> None:
    """Bring a new protocol to the state of the connection in the process that handed it over.

    Raises:
        RemoteProtocolError: the web server has violated the protocol.
    """
    protocol.asked_values = state["asked_values"]
    protocol.multiplexes = state["multiplexes"]
    # The start of a record, so there are no events.
    protocol.receive_data(base64.b64decode(state["unparsed"]))
