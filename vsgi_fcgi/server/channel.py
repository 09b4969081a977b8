"""One accepted connection: its socket, its protocol, its single writer."""

from __future__ import annotations

import socket
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from vsgi_fcgi.exceptions import RemoteProtocolError
from vsgi_fcgi.protocol import Inbound, Outbound, Request, ServerConnection
from vsgi_fcgi.protocol.events import Buffer
from vsgi_fcgi.server.contract import main_only
from vsgi_fcgi.server.loop import Watcher
from vsgi_fcgi.server.output import Piece
from vsgi_fcgi.server.output_file import Extent
from vsgi_fcgi.server.reply import Reply

if TYPE_CHECKING:
    from vsgi_fcgi.server.context import MainContext

READ, WRITE = 1, 2

_RECEIVE_SIZE = 65536
_SLICE = 65528
"""Bytes that one request may send before it is the next one's turn."""
_BATCH = 131072
"""Bytes that are handed to the kernel at a time."""
_TURNS = 8
"""Batches that one connection may send before others are looked at."""
_JOIN_SIZE = 65536
"""Up to this many bytes the buffers of a batch are joined; more are sent where they lie."""
_MAX_BUFFERS = 1000
"""Less than IOV_MAX, which is 1024 on Linux."""
_MAX_UNSENT = 1048576
"""Unsent bytes (of answers to management records: all else is paced) past which nothing more is
read from a web server that does not read."""
_SMALL = 8192
"""Up to this size of a whole answer its STDERR goes ahead of its STDOUT."""

_ENDED = Outbound.ENDED


class Channel:
    """Drives one connection by watchers; everything in it belongs to the main context.

    Args:
        context: the main context.
        sock: the accepted socket, non-blocking.
        peer: who is on the other side, for log lines.

    Attributes:
        connection: the protocol.
        last_active: the loop's time when something was last received, in seconds.
        blocked: the kernel takes no more for now.
        sent: bytes sent so far.
        paused: how many reasons there are not to read.
        closed: it is over.
    """

    __slots__ = (
        "_dirty",
        "_fd",
        "_ready",
        "_unsent",
        "_unsent_size",
        "_writer",
        "blocked",
        "closed",
        "connection",
        "context",
        "last_active",
        "paused",
        "peer",
        "reader",
        "sent",
        "sock",
    )

    def __init__(self, context: MainContext, sock: socket.SocketType, peer: str) -> None:
        self.context = context
        self.sock = sock
        self.peer = peer
        self.connection = ServerConnection(context.limits, context.values)
        self.last_active = 0.0
        self.blocked = False
        self.sent = 0
        self.paused = 0
        self.closed = False
        self._dirty = False
        self._ready: deque[Reply] | None = None
        self._unsent: list[Buffer] = []
        self._unsent_size = 0
        self._fd = sock.fileno()
        self._writer: Watcher | None = None
        self.reader = context.loop.io(self._fd, READ)

    def start(self) -> None:
        """Begin to read. What the web server sent with its connect is taken at once."""
        self.on_readable()
        if not self.closed and not self.paused:
            self.reader.start(self.on_readable)

    # Reading.

    @main_only
    def on_readable(self) -> None:
        """Read once. The callback of a watcher: nothing may escape, or the watcher is deaf."""
        try:
            self._receive()
        except Exception as error:
            self._failed(error)

    def _receive(self) -> None:
        try:
            data = self.sock.recv(_RECEIVE_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.lose()
            return
        context = self.context
        self.last_active = context.loop.now()
        connection = self.connection
        try:
            events = connection.receive_data(data)
        except RemoteProtocolError as error:
            context.log.warning("%s: %s; the connection is closed", self.peer, error)
            self.lose()
            return
        if events:
            context.assembler.handle(self, events)
        # `closing`: the discarded rest of a request may have come to its end just now.
        if (connection.outgoing or connection.closing) and not self._dirty and not self.closed:
            self.flush()

    @main_only
    def pause(self) -> None:
        """Stop reading until `resume`; may be nested."""
        self.paused += 1
        if not self.closed:
            self.reader.stop()

    @main_only
    def resume(self) -> None:
        """Read again, if there is no other reason not to."""
        self.paused -= 1
        if not self.paused and not self.closed:
            self.reader.start(self.on_readable)

    # Answers.

    @main_only
    def answer(self, request: Request, response: bytes) -> None:
        """Answer a request without an app; what still comes of it is discarded."""
        if request.inbound < Inbound.ENDED:
            self.connection.discard(request)
        self.connection.send_stdout(request, response)
        self.connection.end_request(request)
        self.touch()

    @main_only
    def put(self, item: tuple[Reply, Piece]) -> None:
        """Queue a piece of a reply."""
        reply, piece = item
        if reply.cancelled or reply.request.outbound is _ENDED:
            return
        assert reply.output is not None
        reply.output.put(piece)
        if not reply.queued:
            self._queue(reply)

    @main_only
    def finish(self, reply: Reply) -> None:
        """End a reply that its worker has done with."""
        reply.finished = True
        if reply.body is not None:
            reply.body.release(self.context.disk)
            reply.body = None
        output = reply.output
        if reply.cancelled or reply.request.outbound is _ENDED:
            if output is not None and not output.loading:
                output.close()
        elif output is None and not self._ready and not self.blocked:
            self._complete(reply)
            self.touch()
        elif not reply.queued and not (output is not None and output.loading):
            self._queue(reply)

    @main_only
    def abort(self, request: Request) -> None:
        """Give a request up, whatever has become of it."""
        self.context.assembler.abort(self, request)

    def _queue(self, reply: Reply) -> None:
        reply.queued = True
        if self._ready is None:
            self._ready = deque()
        self._ready.append(reply)
        self.touch()

    def touch(self) -> None:
        """Have `flush` called when the current batch of work is done."""
        if not self._dirty and not self.closed:
            self._dirty = True
            self.context.dirty.append(self)

    # Writing.

    @main_only
    def flush(self) -> None:
        """Send what there is, as far as the kernel takes it."""
        self._dirty = False
        if self.closed or self.blocked:
            if self._unsent_size + self.connection.unsent_size > _MAX_UNSENT:
                self._lose_flooder()
            return
        connection = self.connection
        turns = 0
        while True:
            if self._ready:
                self._fill(self._ready)
            if connection.outgoing and not self._send(connection.data_to_send()):
                return
            if not self._ready:
                break
            turns += 1
            if turns == _TURNS:
                # Others first; the writer comes back in the loop's next round.
                self._block()
                return
        if connection.closing:
            if not connection.requests:
                self.close()
        elif self.context.stopping and not connection.requests:
            # Not at once: the web server may have sent the next request by now.
            self.context.loop.run_callback(self.last_read)

    def _lose_flooder(self) -> None:
        self.context.log.warning(
            "%s: it asks and does not read; the connection is closed", self.peer
        )
        self.lose()

    def _fill(self, ready: deque[Reply]) -> None:
        """Give each request with something to send a slice, in turn, until a batch is full."""
        size = 0
        while ready and size < _BATCH:
            reply = ready.popleft()
            reply.queued = False
            if reply.cancelled or reply.request.outbound is _ENDED:
                continue
            size += self._take_slice(reply)

    def _take_slice(self, reply: Reply) -> int:
        output = reply.output
        size = 0
        if output is not None:
            pieces = output.pieces
            if reply.finished and not reply.begun and not reply.broken:
                self._shorten(reply)
            while pieces and size < _SLICE:
                piece = pieces.popleft()
                if isinstance(piece, Extent):
                    self._load(reply, piece)
                    return size
                room = _SLICE - size
                if len(piece) > room:
                    view = memoryview(piece)
                    pieces.appendleft(view[room:])
                    piece = view[:room]
                self.connection.send_stdout(reply.request, piece)
                reply.begun = True
                size += len(piece)
                output.credit(len(piece))
            if pieces:
                self._queue_again(reply)
                return size
        if reply.finished:
            self._complete(reply)
        return size + len(reply.final)

    def _queue_again(self, reply: Reply) -> None:
        assert self._ready is not None
        reply.queued = True
        self._ready.append(reply)

    def _shorten(self, reply: Reply) -> None:
        """Make one piece of a small answer that is all there, so that STDERR can go first."""
        output = reply.output
        assert output is not None
        pieces = [piece for piece in output.pieces if not isinstance(piece, Extent)]
        size = sum(map(len, pieces))
        if len(pieces) == len(output.pieces) and size + len(reply.final) <= _SMALL:
            output.pieces.clear()
            reply.final = b"".join(pieces) + reply.final
            output.credit(size)

    def _complete(self, reply: Reply) -> None:
        """Send the last piece, STDERR and END_REQUEST, in one write."""
        connection, request = self.connection, reply.request
        if reply.output is not None:
            reply.output.close()
        if reply.broken and len(connection.requests) == 1:
            # Only the end of the connection tells the web server that the answer is broken.
            request.context = None
            connection.break_off(request)
            return
        # The reply refers to the request: parted, both go without the garbage collector.
        request.context = None
        if not reply.has_stderr:
            connection.respond(request, reply.final, reply.app_status)
            return
        stderr = reply.stderr()
        if not reply.begun and len(stderr) + len(reply.final) <= _SMALL:
            connection.send_stderr(request, stderr)
            connection.send_stdout(request, reply.final)
        else:
            connection.send_stdout(request, reply.final)
            connection.send_stderr(request, stderr)
        connection.end_request(request, reply.app_status)

    def _load(self, reply: Reply, extent: Extent) -> None:
        """Have a part of a reply read from its file; the reply has no turn until then."""
        output = reply.output
        assert output is not None
        output.loading = True
        self.context.disk.submit(
            partial(output.load, extent), partial(self._loaded, reply, extent.size)
        )

    def _loaded(self, reply: Reply, size: int, result: bytes | OSError) -> None:
        output = reply.output
        assert output is not None
        output.loading = False
        if reply.cancelled or reply.request.outbound is _ENDED:
            if reply.finished:
                output.close()
        elif isinstance(result, OSError):
            self.context.log.error("cannot read output from a temporary file: %s", result)
            self.lose()
        else:
            output.loaded(size, result)
            self._queue(reply)

    def _send(self, buffers: list[Buffer]) -> bool:
        """Hand a batch to the kernel; what it does not take is kept, and the rest must wait."""
        size = sum(map(len, buffers))
        try:
            if size <= _JOIN_SIZE:
                data = b"".join(buffers)
                sent = self.sock.send(data)
                if sent == size:
                    self.sent += sent
                    return True
                buffers = [memoryview(data)[sent:]]
            else:
                sent = self.sock.sendmsg(buffers[:_MAX_BUFFERS])
                if sent == size:
                    self.sent += sent
                    return True
                buffers = _rest(buffers, sent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.lose()
            return False
        self.sent += sent
        self._unsent = buffers
        self._unsent_size = size - sent
        self.context.memory.force(self._unsent_size)
        self._block()
        return False

    def _block(self) -> None:
        self.blocked = True
        if self._writer is None:
            self._writer = self.context.loop.io(self._fd, WRITE)
        self._writer.start(self.on_writable)

    @main_only
    def on_writable(self) -> None:
        """Go on sending. The callback of a watcher: nothing may escape."""
        try:
            self._unblock()
        except Exception as error:
            self._failed(error)

    def _unblock(self) -> None:
        if self._unsent:
            try:
                sent = self.sock.sendmsg(self._unsent[:_MAX_BUFFERS])
            except BlockingIOError:
                return
            except OSError:
                self.lose()
                return
            self.sent += sent
            self._unsent_size -= sent
            self.context.memory.give(sent)
            self._unsent = _rest(self._unsent, sent)
            if self._unsent:
                return
        self.blocked = False
        assert self._writer is not None
        self._writer.stop()
        self.flush()

    # The end.

    @main_only
    def is_idle(self) -> bool:
        """Whether nothing has begun on it, and nothing waits to be sent."""
        return not self.connection.requests and not self.blocked and not self._dirty

    @main_only
    def last_read(self) -> None:
        """Take what can be read when the server stops, and close if nothing came of it."""
        if not self.closed and not self.paused:
            self.on_readable()
        if not self.closed and self.is_idle():
            self.close()

    @main_only
    def lose(self) -> None:
        """The web server is gone, or is not to be listened to: give up all its requests."""
        if not self.closed:
            for event in self.connection.receive_eof():
                self.abort(event.request)
            self.close()

    @main_only
    def close(self) -> None:
        """Close the socket and forget the connection, on which nothing is active."""
        if self.closed:
            return
        self.closed = True
        self.reader.stop()
        self.reader.close()
        if self._writer is not None:
            self._writer.stop()
            self._writer.close()
        self.context.memory.give(self._unsent_size)
        self._unsent = []
        self._unsent_size = 0
        self._ready = None
        self.sock.close()
        self.context.forget(self)

    def _failed(self, error: Exception) -> None:
        self.context.log.error("a bug in the server; %s is closed", self.peer, error=error)
        self.lose()


def _rest(buffers: list[Buffer], sent: int) -> list[Buffer]:
    """What is left of buffers of which ``sent`` bytes have gone."""
    for index, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *buffers[index + 1 :]]
        sent -= len(buffer)
    return []
