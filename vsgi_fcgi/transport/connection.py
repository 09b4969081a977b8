"""One accepted connection of a web server: its socket, its protocol and its one writer.

The loop calls `Connection.on_readable` whenever data has arrived. It reads once, lets the protocol
make events of the data, and passes these to `handle` of the subclass. Everything that is sent goes
through the `Writer`. A request with output is queued there, and `touch` is called; the end of the
round calls `flush`, once per connection, which takes a slice from each request that waits and
passes them to the kernel in one call. If the kernel takes only a part, a watcher continues when
there is room.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import Any, Final, Generic, Protocol, TypeVar

from vsgi_fcgi.exceptions import RemoteProtocolError
from vsgi_fcgi.protocol import Event, Inbound, Request, ServerProtocol
from vsgi_fcgi.protocol.constants import Buffer
from vsgi_fcgi.protocol.records import drop_sent, keep_rest
from vsgi_fcgi.recording import BLOCKED, INPUT_ENDED, UNBLOCKED
from vsgi_fcgi.transport.closing import ClosableConnection, Outcome, Peer
from vsgi_fcgi.transport.connections import Connections
from vsgi_fcgi.transport.loop import READ, WRITE, Watcher
from vsgi_fcgi.transport.recording import Recording
from vsgi_fcgi.transport.thread_affinity import main_only

_BATCH: Final = 262144
"""Bytes that are passed to the kernel at a time: a little more than a UNIX socket takes."""
BATCH_IF_FULL: Final = 16384
"""The same when the quota of memory is used up: most of it goes into the kernel's buffer."""
_TURNS: Final = 4
"""Batches that one connection may send before the other connections get their turn."""
_JOIN_SIZE: Final = 65536
"""Up to this many bytes the buffers of a batch are joined; larger batches are not copied."""
_DONT_WAIT: Final = socket.MSG_DONTWAIT
"""The kernel does not know that the socket must not block; see `Acceptor`."""
_MAX_BUFFERS: Final = 1000
"""Less than IOV_MAX, which is 1024 on Linux."""
_MAX_UNSENT: Final = 1048576
"""Maximum number of bytes of early responses and of answers to management records that wait while
a connection is blocked. A connection with more is closed: its web server sends and does not
read."""
_MAX_UNSENT_IF_FULL: Final = 16384
"""The same when the quota of unfinished requests is used up."""


class Item(Protocol):
    """A request with something to send."""

    queued: bool
    """Whether it is in the writer's queue; the writer's."""


T = TypeVar("T", bound=Item)


class Writer(Generic[T]):
    """Sends the responses of one connection, a slice of each in turn.

    A subclass provides the slices, in `take_slice`. Everything in it belongs to the main context.

    Args:
        connection: the connection.
        connections: all connections.

    Attributes:
        blocked: the kernel takes no more for now, or other connections have their turn.
        late: bytes of responses that came while it was blocked; they are counted as params.
        sent: bytes sent so far.
        waiting: items that wait for something else than their turn; a subclass puts them there.
        dirty: `flush` will be called at the end of the round.
    """

    __slots__ = (
        "_connection",
        "_connections",
        "_holds_input",
        "_memory",
        "_protocol",
        "_ready",
        "_unsent",
        "_unsent_size",
        "_watcher",
        "blocked",
        "dirty",
        "late",
        "sent",
        "waiting",
    )

    def __init__(self, connection: ClosableConnection, connections: Connections[Any]) -> None:
        self._connection = connection
        self._connections = connections
        self._protocol = connection.protocol
        self._memory = connections.memory
        self.blocked = False
        self.dirty = False
        self.late = 0
        self.sent = 0
        # None until it is needed: most connections never need the deque.
        self._ready: deque[T] | None = None
        self.waiting: deque[T] | None = None
        self._holds_input = False
        self._unsent: list[Buffer] = []
        self._unsent_size = 0
        self._watcher: Watcher | None = None

    # Queueing.

    def take_slice(self, item: T) -> int:
        """Give the protocol the next slice of a request, and queue the request if it has more.

        Returns:
            The number of bytes taken.
        """
        raise NotImplementedError

    def start_waiting(self) -> bool:
        """Continue with one of the items in ``waiting``, if that is possible now.

        Returns:
            Whether one was taken out of ``waiting``.
        """
        raise NotImplementedError

    def queue(self, item: T, *, first: bool = False) -> None:
        """Queue a request that has something to send, and send soon.

        Args:
            item: the request.
            first: give it the next turn.
        """
        self.line_up(item, first=first)
        self.touch()

    def line_up(self, item: T, *, first: bool = False) -> None:
        """Queue a request while its connection is being flushed; else as `queue`."""
        item.queued = True
        if self._ready is None:
            self._ready = deque()
        if first:
            self._ready.appendleft(item)
        else:
            self._ready.append(item)

    def touch(self) -> None:
        """Have `flush` called at the end of the round."""
        if not self.dirty and not self._connection.closed:
            self.dirty = True
            connections = self._connections
            connections.dirty.append(self)
            if not connections.round_due:
                connections.request_round()

    @main_only
    def hold_input(self) -> None:
        """Stop reading requests until the web server reads its responses.

        Each response that waits takes memory, even if its content is in a file.
        """
        if not self._holds_input:
            self._holds_input = True
            self._connection.pause()

    # Sending.

    @main_only
    def flush(self) -> None:
        """Send all output, as far as the kernel takes it."""
        self.dirty = False
        connection, protocol = self._connection, self._protocol
        if connection.closed:
            return
        if self.blocked:
            # Responses in the queue wait in their own limited buffers; all other output waits here.
            if protocol.outgoing:
                self._hold_late()
            return
        if self.late:
            self.late = 0
            connection.count_params()
        turns = 0
        while True:
            if self._ready:
                self._fill(self._ready)
            if protocol.outgoing and not self._send(protocol.data_to_send()):
                return
            if not self._ready and not (self.waiting and self.start_waiting()):
                break
            turns += 1
            if turns == _TURNS:
                # The writer continues in the loop's next round.
                self._block()
                return
        if protocol.closing:
            if not protocol.requests:
                connection.close()
        elif self._connections.wants_idle and not protocol.requests:
            self._connections.became_idle(connection)

    def _hold_late(self) -> None:
        """Keep output that cannot be sent yet; close the connection if it is too much."""
        late = self.late = self._protocol.join_unsent()
        connection = self._connection
        connection.count_params()
        params = self._connections.params
        if late > _MAX_UNSENT or (params.used > params.limit and late > _MAX_UNSENT_IF_FULL):
            self._connections.log.warning(
                "%s: the web server sends requests and does not read the responses;"
                " the connection is closed",
                connection.peer,
            )
            connection.lose(Outcome.BROKEN)

    def _fill(self, ready: deque[T]) -> None:
        """Give each queued request a slice, in turn, until a batch is full."""
        memory = self._memory
        batch = _BATCH if memory.used < memory.limit else BATCH_IF_FULL
        size = 0
        while ready and size < batch:
            item = ready.popleft()
            item.queued = False
            size += self.take_slice(item)

    def _send(self, buffers: list[Buffer]) -> bool:
        """Pass a batch to the kernel. What it does not take is kept.

        Returns:
            Whether the kernel took all of it.
        """
        sock = self._connection.sock
        recording = self._connection.recording
        if recording is not None:
            recording.sent(buffers)
        try:
            if len(buffers) == 1:
                size = len(buffers[0])
                sent = sock.send(buffers[0], _DONT_WAIT)
            else:
                size = sum(map(len, buffers))
                if size <= _JOIN_SIZE:
                    sent = sock.send(b"".join(buffers), _DONT_WAIT)
                else:
                    sent = sock.sendmsg(buffers[:_MAX_BUFFERS], (), _DONT_WAIT)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            if recording is not None:
                recording.note(f"sending failed: {error.strerror}")
            self._connection.lose()
            return False
        self.sent += sent
        if sent == size:
            return True
        self._unsent = keep_rest(buffers, sent)
        self._unsent_size = size - sent
        self._memory.charge(self._unsent_size)
        if recording is not None:
            recording.note(f"{BLOCKED}: {self._unsent_size} bytes wait to be sent")
        self._block()
        return False

    def _block(self) -> None:
        self.blocked = True
        if self._watcher is None:
            self._watcher = self._connections.loop.io(self._connection.sock.fileno(), WRITE)
        self._watcher.start(self.on_writable)

    @main_only
    def on_writable(self) -> None:
        """Continue to send. The callback of a watcher: no exception may leave it."""
        try:
            self._unblock()
        except Exception as error:
            self._connection.fail(error)

    def _unblock(self) -> None:
        if self._unsent:
            try:
                sent = self._connection.sock.sendmsg(self._unsent[:_MAX_BUFFERS], (), _DONT_WAIT)
            except BlockingIOError:
                return
            except OSError as error:
                recording = self._connection.recording
                if recording is not None:
                    recording.note(f"sending failed: {error.strerror}")
                self._connection.lose()
                return
            self.sent += sent
            self._unsent_size -= sent
            self._memory.release(sent)
            self._unsent = drop_sent(self._unsent, sent)
            if self._unsent:
                return
            recording = self._connection.recording
            if recording is not None:
                recording.note(UNBLOCKED)
        self.blocked = False
        assert self._watcher is not None
        self._watcher.stop()
        self.flush()
        if self._holds_input and not self.blocked:
            self._holds_input = False
            self._connection.resume()

    def stop(self) -> None:
        """Stop watching the socket."""
        if self._watcher is not None:
            self._watcher.stop()

    def fail(self, error: Exception) -> None:
        """Close the connection after an error in this package."""
        self._connection.fail(error)

    def close(self) -> None:
        """Drop unsent output, and stop watching the socket."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
        if self._unsent_size:
            self._memory.release(self._unsent_size)
            self._unsent = []
            self._unsent_size = 0
        self._ready = self.waiting = None


_RECEIVE_SIZE: Final = 65536
"""Bytes that are read at a time."""

W = TypeVar("W", bound=Writer[Any])


class Connection(ClosableConnection, Generic[W]):
    """Drives one connection by watchers. Everything in it belongs to the main context.

    A subclass does the work: it makes the writer, takes events in `handle`, and answers and aborts
    requests.

    Args:
        connections: all connections.
        protocol: the protocol.
        sock: the accepted socket, non-blocking.
        peer: the peer.

    Attributes:
        connections: all connections.
        writer: the only object that sends on the socket.
    """

    __slots__ = ("_reader", "connections", "writer")

    writer: W

    def __init__(
        self,
        connections: Connections[Any],
        protocol: ServerProtocol,
        sock: socket.SocketType,
        peer: Peer,
    ) -> None:
        super().__init__(connections.loop, protocol, sock, peer)
        self.connections = connections
        recorder = connections.recorder
        if recorder is not None:
            self.recording = Recording(recorder, protocol, self.peer)
        # None until it is needed: a connection may be closed in the round that accepted it.
        self._reader: Watcher | None = None

    # A subclass implements these.

    def handle(self, events: Iterable[Event]) -> None:
        """Handle events of the protocol."""
        raise NotImplementedError

    @main_only
    def refuse(self, request: Request, status: int, reason: str) -> None:
        """Answer a request with an error, and discard the rest of its input.

        Args:
            request: the request, of which no response was sent.
            status: the HTTP status.
            reason: the reason, for the log.
        """
        raise NotImplementedError

    @main_only
    def abort(self, request: Request, outcome: Outcome) -> None:
        """Release everything that a request holds, after the web server has given it up."""
        raise NotImplementedError

    def has_begun_to_answer(self, request: Request) -> bool:
        """Whether a part of the response was sent before the request was complete."""
        return False

    def progress_of(self, request: Request) -> int:
        """Return a number that changes as long as an incomplete request makes progress."""
        return request.received

    def time_out(self, request: Request, reason: str) -> None:
        """End an incomplete request that makes no progress."""
        self.refuse(request, 408, reason)

    # Reading.

    @main_only
    def watch(self) -> None:
        """Start to read whenever something arrives."""
        if not self.paused and not self.closed and not self.input_over:
            if self._reader is None:
                self._reader = self.connections.loop.io(self.sock.fileno(), READ)
            handover = self.connections.handover
            if handover is None:
                self._reader.start(self.on_readable)
            else:
                handover.watch(self, self._reader)

    def stop_reading(self) -> None:
        """Stop to read until `watch` is called. An app's child process calls it as well."""
        if self._reader is not None:
            self._reader.stop()

    @main_only
    def on_readable(self) -> None:
        """Read once. The callback of a watcher: no exception may leave it, or it would stop."""
        try:
            connections, writer, protocol = self.connections, self.writer, self.protocol
            scratch = connections.scratch
            if writer.blocked and connections.memory.is_exceeded:
                writer.hold_input()
                return
            try:
                if protocol.left and scratch is not None:
                    # A body arrives, and its owner copies it to its place.
                    data: bytes | memoryview = scratch[
                        : self.sock.recv_into(scratch, 0, _DONT_WAIT)
                    ]
                else:
                    data = self.sock.recv(_RECEIVE_SIZE, _DONT_WAIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            recording = self.recording
            if not data:
                if recording is not None and protocol.requests:
                    recording.note(INPUT_ENDED)
                self._input_ended()
                return
            if recording is not None:
                recording.received(data)
            if self._ending and self.is_lingering:
                self._receive_late(data)
                return
            self.last_active = monotonic()
            self.silent = False
            events: list[Event] = []
            try:
                protocol.receive_data(data, events)
            except RemoteProtocolError as error:
                # The events before the error count: an abort releases a worker and memory.
                self.handle(events)
                connections.log.warning("%s: %s; the connection is closed", self.peer, error)
                self.ended_badly(f"protocol error: {error}")
                self.lose(Outcome.BROKEN)
                return
            if events:
                self.handle(events)
            if protocol.params_held != self.counted:
                self.count_params()
                if connections.params.used > connections.params.limit:
                    self._refuse_params()
            # `closing`: the discarded rest of a request may have ended just now.
            if (protocol.outgoing or protocol.closing) and not self.closed:
                writer.touch()
            if connections.stopping and not self.closed:
                self._note_input()
        except Exception as error:
            self.fail(error)

    @main_only
    def pause(self) -> None:
        """Stop reading until `resume` is called; may be nested."""
        self.paused += 1
        if not self.closed:
            self.stop_reading()

    @main_only
    def resume(self) -> None:
        """Read again, unless there is another reason not to."""
        self.paused -= 1
        self.watch()

    def read_on(self) -> None:
        """Read as far as the handover to another process allows."""
        self.stop_reading()
        self.watch()

    # Requests.

    @main_only
    def answer(self, request: Request, response: bytes) -> None:
        """Send a complete response, and discard the rest of the request's input."""
        if request.inbound < Inbound.ENDED:
            self.protocol.discard(request)
        self.protocol.respond(request, response)
        self.count_params()
        self.writer.touch()

    def count_params(self) -> None:
        """Charge unfinished requests to the quota, which limits them over all connections."""
        held = 0 if self.closed else self.protocol.params_held + self.writer.late
        self.connections.params.charge(held - self.counted)
        self.counted = held

    def _refuse_params(self) -> None:
        params = self.connections.params
        reason = f"the limit of {params.limit} bytes of params of unfinished requests is reached"
        # The latest first: the others may have sent most of their body.
        for request in reversed(list(self.protocol.requests.values())):
            if params.used <= params.limit:
                break
            if (
                request.inbound < Inbound.ENDED
                and not request.outbound
                and not self.has_begun_to_answer(request)
            ):
                self.refuse(request, 503, reason)
        self.protocol.shrink()

    # Closing.

    @main_only
    def is_idle(self) -> bool:
        """Whether no request has begun, and nothing waits to be sent."""
        writer = self.writer
        return not self.protocol.requests and not writer.blocked and not writer.dirty

    def refuse_rest(self) -> None:
        """Stop watching the input, refuse incomplete requests, and send these answers."""
        self.stop_reading()
        for event in self.protocol.refuse_incomplete():
            self.abort(event.request, Outcome.STOPPED)
        self.count_params()
        if self.protocol.outgoing or self.protocol.closing:
            self.writer.touch()
            self.connections.flush_dirty()

    @main_only
    def lose(self, outcome: Outcome = Outcome.CANCELLED) -> None:
        """Abort all requests and close the connection.

        Args:
            outcome: the reason, for the access log.
        """
        if not self.closed:
            events = self.protocol.receive_eof()
            for event in events:
                self.abort(event.request, outcome)
            if events:
                self.ended_badly(f"the connection ended before its requests: {len(events)}")
            self.close()

    @main_only
    def close(self) -> None:
        """Close the socket and forget the connection, on which no request is active."""
        if self.closed:
            return
        self.closed = True
        if self._reader is not None:
            self._reader.stop()
            self._reader.close()
            self._reader = None
        self.writer.close()
        if self._linger is not None:
            self._stop_lingering()
        if self.counted:
            self.count_params()
        if self.recording is not None:
            self.recording.close()
        self.sock.close()
        self.connections.forget(self)

    def fail(self, error: Exception) -> None:
        """Close the connection after an error in this package."""
        self.connections.report_bug(error, f"{self.peer} is closed")
        self.ended_badly(f"a bug in the server: {type(error).__name__}")
        self.lose(Outcome.BROKEN)
