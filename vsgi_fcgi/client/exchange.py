"""One request in flight: what is put in, and what is taken out of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from vsgi_fcgi.exceptions import UpstreamBroken, UpstreamError
from vsgi_fcgi.protocol import ProtocolStatus, Role
from vsgi_fcgi.protocol.client_request import ClientRequest
from vsgi_fcgi.protocol.events import Buffer
from vsgi_fcgi.protocol.state import Answering, Sending
from vsgi_fcgi.ring_file import Extent, RingFile

if TYPE_CHECKING:
    from vsgi_fcgi.client.connection import Connection

_RECORD = 16384
"""Bytes of a body that are sent before others on the connection have their turn."""

_READ = 65536
"""Bytes that are read from a temporary file at a time."""


class _AnswerFile(RingFile):
    """Gives its bytes back even if whoever asked has forgotten the answer."""

    def __del__(self) -> None:
        self.close()


class Exchange:
    """A request and its answer, for the thread whose loop drives the connection.

    Args:
        connection: what it is on.
        request: its handle there.
        on_change: called when an answer that was empty has more, when there is room in a body
            that was full, and when the answer has ended; never again once it was given up.

    Attributes:
        ended: nothing more comes; what has come may still be taken.
        failure: why the answer is not whole; None while it is.
        app_status: the exit status that a CGI program would have had.
        protocol_status: how the protocol ended it (section 5.5); None until then.
        answered: something of STDOUT has come.
        active_at: the loop's time when something last came or was sent, in seconds.
        taken_at: the loop's time when something was last taken, in seconds.
        held: bytes of the answer that wait in memory.
        filed: bytes of the answer that wait in a temporary file.
    """

    __slots__ = (
        "_file",
        "_input",
        "_pieces",
        "_stderr",
        "_stderr_size",
        "active_at",
        "answered",
        "app_status",
        "connection",
        "ended",
        "failure",
        "filed",
        "held",
        "input_size",
        "on_change",
        "protocol_status",
        "request",
        "taken_at",
        "told",
    )

    def __init__(
        self, connection: Connection, request: ClientRequest, on_change: Callable[[], object]
    ) -> None:
        self.connection = connection
        self.request = request
        self.on_change = on_change
        self.ended = False
        self.failure: UpstreamError | None = None
        self.app_status = 0
        self.protocol_status: int | None = None
        self.answered = False
        self.active_at = self.taken_at = connection.loop.now()
        self.held = 0
        self.filed = 0
        self.input_size = 0
        self.told = False
        self._pieces: deque[Buffer | Extent] = deque()
        self._input: deque[Buffer | None] = deque()
        self._file: RingFile | None = None
        self._stderr: list[bytes] = []
        self._stderr_size = 0

    # The body.

    @property
    def has_room(self) -> bool:
        """Whether more of the body may be put in; once it has ended, it goes nowhere."""
        return self.ended or self.input_size < self.connection.config.input_memory_bytes

    def put(self, data: Buffer) -> None:
        """Put a piece of the body in: of STDIN, or of DATA once that has ended.

        Args:
            data: it is not copied, and must not change.
        """
        if self.ended or not data:
            return
        if not self._input:
            self.connection.wants_to_send(self)
        self._input.append(data)
        self.input_size += len(data)

    def end_input(self) -> None:
        """End STDIN; called again for a filter, end DATA."""
        if self.ended:
            return
        if not self._input:
            self.connection.wants_to_send(self)
        self._input.append(None)

    def send_some(self) -> bool:
        """Send one record of the body. For the connection.

        Returns:
            Whether there is more.
        """
        if not self._input:
            return False
        protocol, request = self.connection.protocol, self.request
        piece = self._input.popleft()
        in_stdin = request.sending is Sending.STDIN
        self.active_at = self.connection.loop.now()
        if piece is None:
            (protocol.end_stdin if in_stdin else protocol.end_data)(request)
        else:
            if len(piece) > _RECORD:
                view = memoryview(piece)
                self._input.appendleft(view[_RECORD:])
                piece = view[:_RECORD]
            (protocol.send_stdin if in_stdin else protocol.send_data)(request, piece)
            limit = self.connection.config.input_memory_bytes
            was_full = self.input_size >= limit
            self.input_size -= len(piece)
            if was_full and self.input_size < limit:
                self.connection.tell(self)
        return bool(self._input)

    # The answer.

    def take(self) -> Buffer | None:
        """Take the next piece of STDOUT.

        Returns:
            A piece, or None if there is none now; then, and only then, `on_change` is called
            when there is.

        Raises:
            OSError: the temporary file cannot be read.
        """
        if not self._pieces:
            if self.ended:
                self.on_change = _nothing
                self._drop()
            return None
        self.taken_at = self.connection.loop.now()
        piece = self._pieces[0]
        if isinstance(piece, Extent):
            return self._take_from_file(piece)
        self._pieces.popleft()
        self.held -= len(piece)
        if self.connection.paused:
            self.connection.may_resume(self)
        return piece

    def _take_from_file(self, extent: Extent) -> Buffer:
        assert self._file is not None
        size = min(extent.size, _READ)
        data = self._file.read(Extent(extent.offset, size))
        extent.size -= size
        extent.offset = (extent.offset + size) % self._file.size
        if not extent.size:
            self._pieces.popleft()
        self.filed -= size
        if self.connection.paused:
            self.connection.may_resume(self)
        return data

    @property
    def has_more(self) -> bool:
        """Whether `take` would return a piece."""
        return bool(self._pieces)

    def take_stderr(self) -> bytes:
        """Take what has come of STDERR; more than the limit was dropped."""
        data = b"".join(self._stderr)
        self._stderr.clear()
        return data

    def abort(self) -> None:
        """Give the request up: the application is told, and what still comes is dropped."""
        self.on_change = _nothing
        if not self.ended:
            self._drop()
            self.ended = True
            self.connection.abort(self)

    # For the connection.

    def feed(self, data: Buffer) -> bool:
        """Take in a piece of STDOUT.

        Returns:
            Whether it can be kept; else the request is to be given up.
        """
        self.answered = True
        self.active_at = self.connection.loop.now()
        if not self._pieces:
            self.taken_at = self.active_at
        size = len(data)
        config = self.connection.config
        if self.held + size > config.response_memory_bytes and not self.connection.may_pause:
            return self._feed_file(data)
        if self.filed:
            return self._feed_file(data)
        self._pieces.append(data)
        self.held += size
        return True

    def _feed_file(self, data: Buffer) -> bool:
        config = self.connection.config
        if self.filed + len(data) > config.response_spool_bytes:
            return False
        if self._file is None:
            self._file = _AnswerFile(config.response_spool_bytes, self.connection.spool, None)
        extent = self._file.write(data)
        if extent is None:
            return False
        self.filed += extent.size
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, Extent):
            last.size += extent.size
        else:
            self._pieces.append(extent)
        return True

    def feed_stderr(self, data: Buffer) -> None:
        """Take in a piece of STDERR."""
        self.active_at = self.connection.loop.now()
        room = self.connection.config.max_upstream_stderr_bytes - self._stderr_size
        if room > 0:
            kept = bytes(data[:room])
            self._stderr.append(kept)
            self._stderr_size += len(kept)

    def finish(self, app_status: int, protocol_status: int) -> None:
        """Take in END_REQUEST."""
        if not self.ended:
            self.app_status, self.protocol_status = app_status, protocol_status
            self.ended = True
            self._drop_input()

    def fail(self, failure: UpstreamError) -> None:
        """Take in that no more of the answer comes."""
        if not self.ended:
            failure.begun = self.answered
            self.failure = failure
            self.ended = True
            self._drop_input()

    @property
    def waiting(self) -> int:
        """Bytes of the answer that nobody has read yet."""
        return self.held + self.filed

    @property
    def is_over_memory(self) -> bool:
        """Whether more of the answer waits to be read than memory may hold."""
        return bool(self.filed) or self.held >= self.connection.config.response_memory_bytes

    @property
    def is_sent(self) -> bool:
        """Whether the whole request is on its way."""
        return self.request.sending is Sending.ENDED

    def close(self) -> None:
        """Free what it holds; whoever has asked needs nothing more of it."""
        self.abort()
        self._drop()
        if self.request.answering is Answering.ENDED:
            # The request refers to this, and this to the request: parted, both go without the
            # garbage collector.
            self.request.context = None

    def _drop_input(self) -> None:
        self._input.clear()
        self.input_size = 0

    def _drop(self) -> None:
        self._drop_input()
        self._pieces.clear()
        self.held = self.filed = 0
        if self._file is not None:
            self._file.close()
            self._file = None


def _nothing() -> None:
    """Whoever has given a request up wants to know nothing more of it."""


def failure_of(exchange: Exchange) -> UpstreamError | None:
    """Why an answer that has ended is not whole; None if it is."""
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
