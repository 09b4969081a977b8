"""The one who sends on a connection to an application server: fair to its requests."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from vsgi_fcgi.loop import WRITE, Watcher
from vsgi_fcgi.protocol.events import Buffer

if TYPE_CHECKING:
    from vsgi_fcgi.client.connection import Connection
    from vsgi_fcgi.client.exchange import Exchange

_BATCH_SIZE: Final = 65536
"""Bytes that are lined up at a time; what comes later waits behind no more than this."""
_MOST_BUFFERS: Final = 64
_TURN_SIZE: Final = 262144
"""Bytes that are sent before the rest of the program has its turn."""


class Sender:
    """Sends what a connection's protocol has to say, and the bodies of its requests in turns.

    Args:
        connection: what it belongs to.
        sock: its socket.
    """

    def __init__(self, connection: Connection, sock: Any) -> None:
        self._connection = connection
        self._sock = sock
        self._loop = connection.loop
        self._turns: deque[Exchange] = deque()
        self._unsent: deque[Buffer] = deque()
        self._flushing = False
        self._blocked = False
        self._blocked_since = 0.0
        self._watcher: Watcher = self._loop.io(sock.fileno(), WRITE)

    def add(self, exchange: Exchange) -> None:
        """Take note of a request that has something of its body to send."""
        self._turns.append(exchange)
        self.send_soon()

    def send_soon(self) -> None:
        """Send at the end of the loop's round: what many have to say goes out in one call."""
        if not self._flushing and not self._blocked:
            self._flushing = True
            self._loop.run_callback(self._flush)

    def blocked_for(self, now: float) -> float:
        """For how many seconds nothing could be sent of what there is.

        Args:
            now: the loop's time, in seconds.
        """
        return now - self._blocked_since if self._blocked else 0.0

    def _on_writable(self) -> None:
        self._watcher.stop()
        self._blocked = False
        self._flush()

    def _flush(self) -> None:
        self._flushing = False
        left = _TURN_SIZE
        connection = self._connection
        try:
            while not connection.closed:
                if not self._unsent and not self._line_up():
                    return
                left -= self._send_once()
                if self._blocked:
                    return
                if left <= 0:
                    self._block()
        except OSError:
            self._blocked = True
            self._blocked_since = self._loop.now()
            self._unsent.clear()
            connection.cannot_send()
        except Exception as error:
            connection.owner.log.warning(
                "%s: %r in the client; it is closed", connection.peer, error
            )
            connection.lose(f"{error!r} in the client")

    def _line_up(self) -> bool:
        """Take what is to be sent next: whole small records first, then bodies in turns."""
        unsent, protocol, turns = self._unsent, self._connection.protocol, self._turns
        size = 0
        while True:
            out = protocol.data_to_send()
            unsent.extend(out)
            size += sum(map(len, out))
            if not turns or size >= _BATCH_SIZE:
                return bool(unsent)
            exchange = turns.popleft()
            if exchange.send_some():
                turns.append(exchange)

    def _send_once(self) -> int:
        unsent = self._unsent
        buffers = [unsent[n] for n in range(min(len(unsent), _MOST_BUFFERS))]
        try:
            sent = self._sock.sendmsg(buffers) if len(buffers) > 1 else self._sock.send(buffers[0])
        except BlockingIOError:
            self._block()
            return 0
        total = int(sent)
        while unsent and sent >= len(unsent[0]):
            sent -= len(unsent.popleft())
        if sent:
            unsent[0] = memoryview(unsent[0])[sent:]
            self._block()
        return total

    def _block(self) -> None:
        self._blocked = True
        self._blocked_since = self._loop.now()
        self._watcher.start(self._on_writable)

    def close(self) -> None:
        """Drop what is unsent, and watch no longer."""
        self._watcher.stop()
        self._watcher.close()
        self._unsent.clear()
        self._turns.clear()
