"""What sends on one connection of a web server to the relay: fair to its requests, and bounded."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from vsgi_fcgi.client.relayed import Relayed
from vsgi_fcgi.loop import WRITE, Watcher
from vsgi_fcgi.protocol import NOT_AUTHORIZED, Role
from vsgi_fcgi.protocol.events import Buffer
from vsgi_fcgi.protocol.records import rest_of

if TYPE_CHECKING:
    from vsgi_fcgi.client.exchange import Exchange
    from vsgi_fcgi.client.relay_channel import RelayChannel

_SLICE: Final = 65536
"""Bytes that one request may send before it is the next one's turn."""
_BATCH: Final = 131072
"""Bytes that are handed to the kernel at a time."""
_TURNS: Final = 8
"""Batches that one connection may send before others are looked at."""
_JOIN_SIZE: Final = 65536
"""Up to this many bytes the buffers of a batch are joined; more are sent where they lie."""
_MAX_BUFFERS: Final = 1000
"""Less than IOV_MAX, which is 1024 on Linux."""
_MAX_UNSENT: Final = 1048576
"""Unsent bytes (of early answers and of answers to management records: all else is paced) past
which a web server that does not read is heard no longer."""
_SMALL: Final = 8192
"""Up to this size of a whole answer its STDERR goes ahead of its STDOUT."""


class RelayWriter:
    """Sends what the requests of one connection have to send, a slice of each in turn.

    Args:
        channel: the connection.

    Attributes:
        blocked: the kernel takes no more for now, or it is the turn of other connections.
        sent: bytes sent so far.
        dirty: `flush` will be called when what happens now is over.
    """

    __slots__ = (
        "_channel",
        "_connection",
        "_ready",
        "_unsent",
        "_watcher",
        "blocked",
        "dirty",
        "sent",
    )

    def __init__(self, channel: RelayChannel) -> None:
        self._channel = channel
        self._connection = channel.connection
        self.blocked = False
        self.dirty = False
        self.sent = 0
        # None until there is one: most connections never need the deque.
        self._ready: deque[Relayed] | None = None
        self._unsent: list[Buffer] = []
        self._watcher: Watcher | None = None

    # What is to be sent.

    def line_up(self, relayed: Relayed) -> None:
        """Take note of a request that has something to send."""
        relayed.queued = True
        if self._ready is None:
            self._ready = deque()
        self._ready.append(relayed)
        self.touch()

    def touch(self) -> None:
        """Have `flush` called, once, when what happens now is over."""
        if not self.dirty and not self._channel.closed:
            self.dirty = True
            self._channel.relay.flush_soon(self)

    def flush(self) -> None:
        """Send what there is, as far as the kernel takes it. Nothing escapes."""
        try:
            self._flush()
        except Exception as error:
            self._channel.fail(error)

    def _flush(self) -> None:
        self.dirty = False
        connection = self._connection
        if self._channel.closed:
            return
        if self.blocked:
            # Only what came since: answers that wait behind a slow reader wait in their exchange.
            if connection.unsent_size > _MAX_UNSENT:
                self._channel.relay.log.warning(
                    "%s: it asks and does not read; the connection is closed", self._channel.peer
                )
                self._channel.lose()
            return
        turns = 0
        while True:
            ready = self._ready
            if ready:
                self._fill(ready)
            if connection.outgoing and not self._send(connection.data_to_send()):
                return
            if not ready:
                break
            turns += 1
            if turns == _TURNS:
                # Others first; it is this one's turn again in the loop's next round.
                self._block()
                return
        if not connection.requests:
            if connection.closing:
                self._channel.close()
            elif not self._channel.idle:
                self._channel.relay.became_idle(self._channel)

    def _fill(self, ready: deque[Relayed]) -> None:
        """Give each request with something to send a slice, in turn, until a batch is full."""
        size = 0
        while ready and size < _BATCH:
            relayed = ready.popleft()
            relayed.queued = False
            exchange = relayed.exchange
            if exchange is None:
                continue
            try:
                size += self._take_slice(relayed, exchange)
            except OSError as error:
                # Of the temporary file that the answer waits in.
                self._channel.give_up(relayed, 502, f"the answer cannot be read: {error}")

    def _take_slice(self, relayed: Relayed, exchange: Exchange) -> int:
        if exchange.ended and not relayed.begun:
            failure = relayed.failure()
            if failure is not None:
                if not relayed.try_again(failure):
                    relayed.fail(failure)
                return 0
            if exchange.held <= _SMALL and not exchange.filed:
                return self._answer_whole(relayed, exchange)
        connection, request = self._connection, relayed.request
        size = 0
        while size < _SLICE and (piece := exchange.take()) is not None:
            if not relayed.begun:
                relayed.begun = True
                if self._channel.relay.config.fail_on_app_status:
                    relayed.first = piece
            size += len(piece)
            connection.send_stdout(request, piece)
        relayed.sent += size
        if exchange.has_more:
            self.line_up(relayed)
        elif exchange.ended:
            self._end(relayed, exchange)
        return size

    def _answer_whole(self, relayed: Relayed, exchange: Exchange) -> int:
        """Send a small answer that is all there: STDERR can go first."""
        connection, request = self._connection, relayed.request
        pieces = []
        while (piece := exchange.take()) is not None:
            pieces.append(piece)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if not data and request.role == Role.AUTHORIZER:
            data = NOT_AUTHORIZED
        if exchange.app_status:
            relayed.first, relayed.sent = data, len(data)
            failure = relayed.cut_short(exchange.app_status)
            if failure is not None:
                relayed.fail(failure)
                return 0
        stderr = relayed.take_stderr(exchange)
        status, protocol_status = exchange.app_status, exchange.protocol_status
        relayed.close()
        if not stderr and not protocol_status:
            connection.respond(request, data, status)
            return len(data)
        if len(stderr) + len(data) <= _SMALL:
            if stderr:
                connection.send_stderr(request, stderr)
            connection.send_stdout(request, data)
        else:
            connection.send_stdout(request, data)
            connection.send_stderr(request, stderr)
        connection.end_request(request, status, protocol_status or 0)
        return len(stderr) + len(data)

    def _end(self, relayed: Relayed, exchange: Exchange) -> None:
        """End a request of which all of STDOUT was sent, in one write with its STDERR."""
        failure = relayed.failure()
        if failure is None and exchange.app_status:
            failure = relayed.cut_short(exchange.app_status)
        if failure is not None:
            self._channel.break_off(relayed, str(failure))
            return
        connection, request = self._connection, relayed.request
        stderr = relayed.take_stderr(exchange)
        status, protocol_status = exchange.app_status, exchange.protocol_status
        relayed.close()
        if stderr:
            connection.send_stderr(request, stderr)
        connection.end_request(request, status, protocol_status or 0)

    # Sending.

    def _send(self, buffers: list[Buffer]) -> bool:
        """Hand a batch to the kernel; what it does not take is kept, and the rest must wait."""
        size = sum(map(len, buffers))
        try:
            if size <= _JOIN_SIZE:
                if len(buffers) > 1:
                    buffers = [b"".join(buffers)]
                sent = self._channel.sock.send(buffers[0])
            else:
                sent = self._channel.sock.sendmsg(buffers[:_MAX_BUFFERS])
        except BlockingIOError:
            sent = 0
        except OSError:
            self._channel.lose()
            return False
        self.sent += sent
        if sent == size:
            return True
        self._unsent = rest_of(buffers, sent)
        self._block()
        return False

    def _block(self) -> None:
        self.blocked = True
        if self._watcher is None:
            self._watcher = self._channel.relay.loop.io(self._channel.sock.fileno(), WRITE)
        self._watcher.start(self._on_writable)

    def _on_writable(self) -> None:
        """Go on sending. The callback of a watcher: nothing may escape."""
        try:
            if self._unsent:
                try:
                    sent = self._channel.sock.sendmsg(self._unsent[:_MAX_BUFFERS])
                except BlockingIOError:
                    return
                except OSError:
                    self._channel.lose()
                    return
                self.sent += sent
                self._unsent = rest_of(self._unsent, sent)
                if self._unsent:
                    return
            self.blocked = False
            assert self._watcher is not None
            self._watcher.stop()
            self._flush()
        except Exception as error:
            self._channel.fail(error)

    def close(self) -> None:
        """Drop what is unsent, and watch no longer."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
        self._ready = None
        self._unsent = []
