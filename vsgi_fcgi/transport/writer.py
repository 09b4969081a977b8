"""The one writer of a connection: fair to its requests, and limited in what it holds."""

from __future__ import annotations

import socket
from collections import deque
from typing import Any, Final, Generic, Protocol, TypeVar

from vsgi_fcgi.protocol.constants import Buffer
from vsgi_fcgi.protocol.records import drop_sent, keep_rest
from vsgi_fcgi.transport.closing import ClosableConnection, Outcome
from vsgi_fcgi.transport.connections import Connections
from vsgi_fcgi.transport.loop import WRITE, Watcher
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
        except OSError:
            self._connection.lose()
            return False
        self.sent += sent
        if sent == size:
            return True
        self._unsent = keep_rest(buffers, sent)
        self._unsent_size = size - sent
        self._memory.charge(self._unsent_size)
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
            except OSError:
                self._connection.lose()
                return
            self.sent += sent
            self._unsent_size -= sent
            self._memory.release(sent)
            self._unsent = drop_sent(self._unsent, sent)
            if self._unsent:
                return
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
