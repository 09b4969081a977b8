"""The one writer of a connection: fair to its requests, and bounded."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from vsgi_fcgi.loop import WRITE, Watcher
from vsgi_fcgi.protocol import NOT_AUTHORIZED, Outbound, Role
from vsgi_fcgi.protocol.events import Buffer
from vsgi_fcgi.protocol.records import rest_of
from vsgi_fcgi.ring_file import Extent
from vsgi_fcgi.server.contract import main_only
from vsgi_fcgi.server.endings import Ending
from vsgi_fcgi.server.output import Piece
from vsgi_fcgi.server.reply import Reply

if TYPE_CHECKING:
    from vsgi_fcgi.server.channel import Channel

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


class Writer:
    """Sends what the requests of one connection have to send, a slice of each in turn.

    Everything in it belongs to the main context.

    Args:
        channel: the connection.

    Attributes:
        blocked: the kernel takes no more for now, or it is the turn of other connections.
        sent: bytes sent so far.
        dirty: `flush` will be called when the current batch of work is done.
    """

    __slots__ = (
        "_channel",
        "_connection",
        "_context",
        "_ready",
        "_unsent",
        "_unsent_size",
        "_watcher",
        "blocked",
        "dirty",
        "sent",
    )

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._context = channel.context
        self._connection = channel.connection
        self.blocked = False
        self.dirty = False
        self.sent = 0
        # None until there is one: most connections never need the deque.
        self._ready: deque[Reply] | None = None
        self._unsent: list[Buffer] = []
        self._unsent_size = 0
        self._watcher: Watcher | None = None

    # What is to be sent.

    @main_only
    def put(self, item: tuple[Reply, Piece]) -> None:
        """Queue a piece of a reply."""
        reply, piece = item
        assert reply.output is not None
        if reply.cancelled or reply.request.outbound is _ENDED:
            reply.output.drop(piece)
            return
        reply.output.put(piece)
        # While an earlier part is being read from the file, nothing may overtake it.
        if not reply.queued and not reply.output.loading:
            self._queue(reply)

    @main_only
    def finish(self, reply: Reply) -> None:
        """End a reply that its worker has done with."""
        reply.finished = True
        if reply.body is not None:
            reply.body.release(self._context.disk)
            reply.body = None
        output = reply.output
        if reply.cancelled or reply.request.outbound is _ENDED:
            if output is not None and not output.loading:
                output.close()
        elif output is None and not self._ready and not self.blocked:
            self._complete(reply)
            self.touch()
        elif not reply.queued and not (output is not None and output.loading):
            reply.hold()
            self._queue(reply)

    def _queue(self, reply: Reply) -> None:
        """Give a reply a turn, soon."""
        self._line_up(reply)
        self.touch()

    def _line_up(self, reply: Reply) -> None:
        reply.queued = True
        if self._ready is None:
            self._ready = deque()
        self._ready.append(reply)

    def touch(self) -> None:
        """Have `flush` called when the current batch of work is done."""
        if not self.dirty and not self._channel.closed:
            self.dirty = True
            self._context.dirty.append(self)

    # Sending.

    @main_only
    def flush(self) -> None:
        """Send what there is, as far as the kernel takes it. Nothing escapes."""
        try:
            self._flush()
        except Exception as error:
            self._channel.fail(error)

    def _flush(self) -> None:
        self.dirty = False
        if self._channel.closed or self.blocked:
            # Only what came since: answers that wait behind a slow reader are bounded elsewhere.
            if self._connection.unsent_size > _MAX_UNSENT:
                self._lose_flooder()
            return
        connection = self._connection
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
                self._channel.close()
        elif self._context.wants_idle and not connection.requests:
            self._context.became_idle(self._channel)

    def _lose_flooder(self) -> None:
        self._context.log.warning(
            "%s: it asks and does not read; the connection is closed", self._channel.peer
        )
        self._channel.lose(Ending.BROKEN)

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
                self._connection.send_stdout(reply.request, piece)
                reply.begun = True
                size += len(piece)
                output.credit(len(piece))
            if pieces:
                self._line_up(reply)
                return size
        if reply.finished:
            self._complete(reply)
        return size + len(reply.final)

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
        connection, request = self._connection, reply.request
        log = self._context.access_log
        if log is not None:
            log.completed(reply)
            if not log.due:
                log.make_lines_soon()
        if reply.output is not None:
            reply.output.close()
        # The reply refers to the request: parted, both go without the garbage collector.
        request.context = None
        if reply.broken:
            if len(connection.requests) == 1:
                # Only the end of the connection tells the web server that the answer is broken.
                connection.break_off(request)
                return
            if not reply.begun and request.role == Role.AUTHORIZER:
                reply.final = NOT_AUTHORIZED
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
        self._context.disk.submit(
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
            self._context.log.error("cannot read output from a temporary file: %s", result)
            self._channel.lose(Ending.BROKEN)
        else:
            output.loaded(size, result)
            self._queue(reply)

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
        self._unsent_size = size - sent
        self._context.memory.force(self._unsent_size)
        self._block()
        return False

    def _block(self) -> None:
        self.blocked = True
        if self._watcher is None:
            self._watcher = self._context.loop.io(self._channel.sock.fileno(), WRITE)
        self._watcher.start(self.on_writable)

    @main_only
    def on_writable(self) -> None:
        """Go on sending. The callback of a watcher: nothing may escape."""
        try:
            self._unblock()
        except Exception as error:
            self._channel.fail(error)

    def _unblock(self) -> None:
        if self._unsent:
            try:
                sent = self._channel.sock.sendmsg(self._unsent[:_MAX_BUFFERS])
            except BlockingIOError:
                return
            except OSError:
                self._channel.lose()
                return
            self.sent += sent
            self._unsent_size -= sent
            self._context.memory.give(sent)
            self._unsent = rest_of(self._unsent, sent)
            if self._unsent:
                return
        self.blocked = False
        assert self._watcher is not None
        self._watcher.stop()
        self._flush()

    def close(self) -> None:
        """Drop what is unsent, and watch no longer."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
        self._context.memory.give(self._unsent_size)
        self._unsent = []
        self._unsent_size = 0
        self._ready = None
