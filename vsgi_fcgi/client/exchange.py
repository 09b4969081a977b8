"""One request in flight: its body goes in, and its response comes out.

The body waits in a queue until the connection sends it. The response waits in memory, or in a
temporary file if it is large, until the caller takes it. The caller learns through `on_change`
that it can continue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from vsgi_fcgi.client.config import ClientConfig
from vsgi_fcgi.exceptions import UpstreamBroken, UpstreamError
from vsgi_fcgi.protocol import ProtocolStatus, Role
from vsgi_fcgi.protocol.client import ClientProtocol
from vsgi_fcgi.protocol.constants import Buffer
from vsgi_fcgi.protocol.events import ClientRequest
from vsgi_fcgi.protocol.records import view_rest
from vsgi_fcgi.protocol.state import Receiving, Sending
from vsgi_fcgi.transport.quota import Quota, append_piece
from vsgi_fcgi.transport.spool_file import Extent, RingFile

_RECORD = 16384
"""Maximum bytes of a body that are sent before the next request on the connection."""

_READ = 65536
"""Maximum bytes that are read from a temporary file at a time."""
_READ_IF_FULL = 16384
"""The same, if the memory quota over all connections is used up."""


class Carrier(Protocol):
    """The connection that carries a request, as its exchange uses it."""

    peer: str
    config: ClientConfig
    memory: Quota
    spool: Quota
    protocol: ClientProtocol
    paused: bool
    retired: bool

    @property
    def owner(self) -> object:
        """The object that has opened the connection."""

    @property
    def may_pause(self) -> bool:
        """Whether reading can stop without delaying another request."""

    @property
    def is_short_of_memory(self) -> bool:
        """Whether responses must go to temporary files, or wait in the socket."""

    def queue_input(self, exchange: Exchange) -> None:
        """Queue a request that has a piece of its body to send."""

    def notify(self, exchange: Exchange) -> None:
        """Schedule one call of `on_change`."""

    def may_resume(self, exchange: Exchange) -> None:
        """Resume reading if the slow reader has made room."""

    def abort(self, exchange: Exchange) -> None:
        """Abort a request."""


class _ResponseFile(RingFile):
    """A file that returns its bytes to the quota even if the caller drops the response."""

    def __del__(self) -> None:
        self.close()


class Exchange:
    """A request and its response, for the thread whose loop drives the connection.

    Args:
        connection: the connection of the request.
        request: the protocol's handle of the request.
        on_change: called after `take` returned None and a piece has arrived, after `has_room` was
            False and the body has room, and when the response has ended. It is not called after
            `abort`.

    Attributes:
        ended: whether the response has ended; received pieces can still be taken.
        failure: why the response is incomplete, or None.
        app_status: the exit status that a CGI program would have had.
        protocol_status: the status of END_REQUEST (section 5.5); None before it.
        answered: whether a piece of STDOUT has arrived.
        active_at: the monotonic time in seconds when data was last received or sent.
        taken_at: the monotonic time in seconds when a piece was last taken.
        held: unread bytes of the response in memory.
        spooled: unread bytes of the response in a temporary file.
        input_size: unsent bytes of the body.
        notified: whether a call of `on_change` is scheduled.
    """

    __slots__ = (
        "_file",
        "_input",
        "_pieces",
        "_stderr",
        "_stderr_size",
        "_waits_for_room",
        "active_at",
        "answered",
        "app_status",
        "connection",
        "ended",
        "failure",
        "held",
        "input_size",
        "notified",
        "on_change",
        "protocol_status",
        "request",
        "spooled",
        "taken_at",
    )

    def __init__(
        self, connection: Carrier, request: ClientRequest, on_change: Callable[[], object]
    ) -> None:
        self.connection = connection
        self.request = request
        self.on_change = on_change
        self.ended = False
        self.failure: UpstreamError | None = None
        self.app_status = 0
        self.protocol_status: int | None = None
        self.answered = False
        self.active_at = self.taken_at = monotonic()
        self.held = 0
        self.spooled = 0
        self.input_size = 0
        self.notified = False
        self._pieces: deque[Buffer | Extent] = deque()
        self._input: deque[Buffer | None] = deque()
        self._file: RingFile | None = None
        self._stderr = bytearray()
        self._stderr_size = 0
        self._waits_for_room = False

    # The body.

    @property
    def has_room(self) -> bool:
        """Whether `put` may be called; if not, `on_change` is called when it may.

        There is always room after the response has ended, because the body is dropped. There is
        also room if the body has no unsent bytes, whatever the memory quota says, so that every
        request makes progress.
        """
        size, connection = self.input_size, self.connection
        memory = connection.memory
        room = (
            self.ended
            or not size
            or (size < connection.config.input_memory_bytes and memory.used < memory.limit)
        )
        self._waits_for_room = not room
        return room

    def put(self, data: Buffer) -> None:
        """Queue a piece of the body: of STDIN, or after its end, of DATA.

        Args:
            data: the piece. It must not change, because a large piece is not copied.
        """
        if self.ended or not data:
            return
        if not self._input:
            self.connection.queue_input(self)
        append_piece(self._input, data)
        self.input_size += len(data)
        # Only the loop's thread uses this quota, so no lock is needed.
        self.connection.memory.used += len(data)

    def end_input(self) -> None:
        """End STDIN; for a filter, the second call ends DATA."""
        if self.ended:
            return
        if not self._input:
            self.connection.queue_input(self)
        self._input.append(None)

    def send_some(self) -> bool:
        """Send one record of the body; the connection calls this.

        Returns:
            Whether more of the body is queued.
        """
        if not self._input:
            return False
        protocol, request = self.connection.protocol, self.request
        piece = self._input.popleft()
        in_stdin = request.sending is Sending.STDIN
        self.active_at = monotonic()
        if piece is None:
            (protocol.end_stdin if in_stdin else protocol.end_data)(request)
        else:
            if len(piece) > _RECORD:
                self._input.appendleft(view_rest(piece, _RECORD))
                piece = memoryview(piece)[:_RECORD]
            (protocol.send_stdin if in_stdin else protocol.send_data)(request, piece)
            self.input_size -= len(piece)
            self.connection.memory.used -= len(piece)
            if self._waits_for_room and self.has_room:
                self.connection.notify(self)
        return bool(self._input)

    # The response.

    def take(self) -> Buffer | None:
        """Return the next piece of STDOUT.

        Returns:
            A piece, or None if none has arrived. Only in that case is `on_change` called when the
            next piece arrives.

        Raises:
            OSError: the temporary file cannot be read.
        """
        if not self._pieces:
            if self.ended:
                self.on_change = _nothing
                self._drop()
            return None
        self.taken_at = monotonic()
        piece = self._pieces[0]
        if isinstance(piece, Extent):
            return self._take_from_file(piece)
        self._pieces.popleft()
        self.held -= len(piece)
        self.connection.memory.used -= len(piece)
        if self.connection.paused:
            self.connection.may_resume(self)
        return piece

    def _take_from_file(self, extent: Extent) -> Buffer:
        assert self._file is not None
        memory = self.connection.memory
        size = min(extent.size, _READ if memory.used < memory.limit else _READ_IF_FULL)
        data = self._file.read(Extent(extent.offset, size))
        extent.size -= size
        extent.offset = (extent.offset + size) % self._file.size
        if not extent.size:
            self._pieces.popleft()
        self.spooled -= size
        if self.connection.paused:
            self.connection.may_resume(self)
        return data

    @property
    def has_more(self) -> bool:
        """Whether `take` would return a piece."""
        return bool(self._pieces)

    def take_stderr(self) -> bytes:
        """Return the STDERR received since the last call; bytes over the limit were dropped."""
        data = bytes(self._stderr)
        self._stderr.clear()
        return data

    def abort(self) -> None:
        """Abort the request unless it has ended, and drop its response."""
        self.on_change = _nothing
        if not self.ended:
            self._drop()
            self.ended = True
            self.connection.abort(self)

    # For the connection.

    def feed(self, data: Buffer) -> bool:
        """Store a piece of STDOUT.

        Returns:
            Whether there was room for it; if not, the caller must abort the request.
        """
        self.answered = True
        self.active_at = monotonic()
        if not self._pieces:
            self.taken_at = self.active_at
        size = len(data)
        connection = self.connection
        if (
            self.held + size > connection.config.response_memory_bytes
            or connection.is_short_of_memory
        ) and not connection.may_pause:
            return self._feed_spool(data)
        if self.spooled:
            return self._feed_spool(data)
        append_piece(self._pieces, data)
        self.held += size
        connection.memory.used += size
        return True

    def _feed_spool(self, data: Buffer) -> bool:
        config = self.connection.config
        if self.spooled + len(data) > config.response_spool_bytes:
            return False
        if self._file is None:
            self._file = _ResponseFile(config.response_spool_bytes, self.connection.spool, None)
        extent = self._file.write(data)
        if extent is None:
            return False
        self.spooled += extent.size
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, Extent):
            last.size += extent.size
        else:
            self._pieces.append(extent)
        return True

    def feed_stderr(self, data: Buffer) -> None:
        """Store a piece of STDERR, up to the limit."""
        self.active_at = monotonic()
        room = self.connection.config.max_upstream_stderr_bytes - self._stderr_size
        if room > 0:
            kept = data[:room]
            self._stderr += kept
            self._stderr_size += len(kept)

    def finish(self, app_status: int, protocol_status: int) -> None:
        """Process END_REQUEST."""
        if not self.ended:
            self.app_status, self.protocol_status = app_status, protocol_status
            self.ended = True
            self._drop_input()

    def fail(self, failure: UpstreamError) -> None:
        """End the response with an error."""
        if not self.ended:
            failure.begun = self.answered
            self.failure = failure
            self.ended = True
            self._drop_input()

    @property
    def waiting(self) -> int:
        """The unread bytes of the response."""
        return self.held + self.spooled

    @property
    def is_over_memory(self) -> bool:
        """Whether the unread part of the response has reached its memory limit."""
        return bool(self.spooled) or self.held >= self.connection.config.response_memory_bytes

    @property
    def is_sent(self) -> bool:
        """Whether the whole request was sent."""
        return self.request.sending is Sending.ENDED

    def close(self) -> None:
        """Abort the request unless it has ended, and free all memory and files."""
        self.abort()
        self._drop()
        if self.request.receiving is Receiving.ENDED:
            # Break the reference cycle, so that both objects are freed without the garbage
            # collector.
            self.request.owner = None

    def _drop_input(self) -> None:
        self._input.clear()
        self.connection.memory.used -= self.input_size
        self.input_size = 0

    def _drop(self) -> None:
        self._drop_input()
        self._pieces.clear()
        self.connection.memory.used -= self.held
        self.held = self.spooled = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def __del__(self) -> None:
        # The caller may drop a response without reading or closing it.
        size = self.held + self.input_size
        if size:
            self.connection.memory.release(size)


def exchange_of(request: ClientRequest) -> Exchange:
    """Return the exchange of a request that has not ended."""
    exchange = request.owner
    assert isinstance(exchange, Exchange)
    return exchange


def _nothing() -> None:
    """Do nothing: the `on_change` of an aborted request."""


def failure_of(exchange: Exchange) -> UpstreamError | None:
    """Return why a response that has ended is incomplete, or None if it is complete."""
    if exchange.failure is not None:
        return exchange.failure
    status, peer = exchange.protocol_status, exchange.connection.peer
    if status == ProtocolStatus.UNKNOWN_ROLE:
        return UpstreamBroken(
            f"{peer} does not serve the role {exchange.request.role} (UNKNOWN_ROLE)"
        )
    if status != ProtocolStatus.REQUEST_COMPLETE:
        name = _STATUSES.get(status or 0, f"protocol status {status}")
        return UpstreamBroken(f"{peer} ended the request with {name}", begun=exchange.answered)
    if exchange.app_status and exchange.request.role != Role.AUTHORIZER:
        return UpstreamBroken(
            f"{peer} ended the request with application status {exchange.app_status}",
            begun=exchange.answered,
        )
    return None


_STATUSES = {int(status): status.name for status in ProtocolStatus}
