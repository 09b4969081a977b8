"""The unsent part of a response: in memory, then in a temporary file, then the app waits."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from vsgi_fcgi.children import silence
from vsgi_fcgi.exceptions import ClientDisconnected
from vsgi_fcgi.protocol.constants import Buffer
from vsgi_fcgi.server.mailbox import Latch
from vsgi_fcgi.server.services import Services
from vsgi_fcgi.transport.quota import SMALL_PIECE, append_piece
from vsgi_fcgi.transport.spool_file import Extent, RingFile
from vsgi_fcgi.transport.thread_affinity import main_only, worker_only
from vsgi_fcgi.transport.unpatched import allocate_lock

_STEP = 65536
"""Bytes that are buffered at a time if a piece does not fit as a whole."""

_COST = 1024
"""Bytes that are charged for the objects of a response that waits, and again for those of its
file."""

Piece = Buffer | Extent


class Producer(Protocol):
    """The exchange whose response is buffered, as the buffer sees it."""

    @property
    def cancelled(self) -> bool:
        """Whether the response is not wanted any more."""

    def post_pieces(self) -> bool:
        """Have the main context take the posted pieces; return False if it has ended."""


class ResponseBuffer:
    """Buffers a response that is not sent in one piece.

    The worker counts the bytes that it wrote, and the main context the bytes that it sent. Each of
    them changes only its own counters, so that the usual case needs no lock. The difference of the
    two is the credit that the worker has used.

    The worker posts pieces in a deque, and one call in the mailbox tells the main context of all
    pieces that it has not taken yet. Small pieces are joined while they wait for the main context,
    and again in its queue. Otherwise an app that yields two bytes at a time would need a hundred
    times the memory that is counted.

    Args:
        services: the services of the server.
        producer: the exchange.

    Attributes:
        pieces: the queue of unsent pieces, in order; the main context's.
        loading: an extent is being read from the file; the main context's.
    """

    __slots__ = (
        "_announced",
        "_cost",
        "_file",
        "_file_sent",
        "_file_written",
        "_latch",
        "_limit",
        "_lock",
        "_low",
        "_memory",
        "_patient",
        "_posted",
        "_producer",
        "_sent",
        "_services",
        "_tail",
        "_written",
        "loading",
        "pieces",
    )

    def __init__(self, services: Services, producer: Producer) -> None:
        self._services = services
        self._producer = producer
        self.pieces: deque[Piece] = deque()
        self.loading = False
        self._memory = services.memory
        self._limit = services.config.output_memory_bytes
        self._low = self._limit // 2
        # The worker appends a piece, and then announces it if no announcement is on its way.
        self._posted: deque[Piece] = deque()
        self._announced = False
        self._written = 0
        self._sent = 0
        self._file: RingFile | None = None
        self._file_written = 0
        self._file_sent = 0
        self._patient = True
        self._lock = allocate_lock()
        self._latch: Latch | None = None
        # The last posted piece, as long as the worker may add to it.
        self._tail: bytearray | Extent | None = None
        self._cost = _COST
        self._memory.charge(_COST)

    @property
    def sent(self) -> int:
        """The number of bytes sent so far; the main context's."""
        # `loaded` subtracts the bytes from the file, which `credit` counts again.
        return self._sent + self._file_sent

    @property
    def written(self) -> int:
        """The number of bytes that the app has written; the worker's."""
        return self._written

    # The worker.

    @worker_only
    def write(self, data: bytes) -> None:
        """Take a piece; wait if there is no room for it.

        Raises:
            ClientDisconnected: the web server has given the request up.
        """
        size = len(data)
        if self._fits(size):
            self._post(data, size)
            return
        view = memoryview(data)
        step = min(_STEP, self._limit)
        for at in range(0, size, step):
            part: Buffer = view[at : at + step]
            # Copied, because a view would keep the whole piece alive, which is not counted.
            self._write_step(bytes(part) if size > 2 * step else part)

    def _fits(self, size: int) -> bool:
        """Whether ``size`` more bytes fit into memory, by the limits of this request and of all."""
        memory = self._memory
        return self._written - self._sent + size <= self._limit and memory.used < memory.limit

    def _all_sent(self) -> bool:
        """Whether everything was sent, so that no further credit will come."""
        return self._written == self._sent and self._file_written == self._file_sent

    def _post(self, piece: Piece, size: int) -> None:
        if isinstance(piece, Extent):
            self._file_written += size
        else:
            self._written += size
            # Charged here and not in `take`: the worker may write many pieces before that runs.
            self._memory.charge(size)
        if size >= SMALL_PIECE and not isinstance(piece, Extent):
            self._tail = None
        else:
            with self._lock:
                tail = self._tail
                if isinstance(piece, Extent):
                    if isinstance(tail, Extent):
                        # They are adjacent in the file, and become one extent.
                        tail.size += size
                        return
                    self._tail = piece
                else:
                    if isinstance(tail, bytearray):
                        tail += piece
                        return
                    self._tail = piece = bytearray(piece)
        self._posted.append(piece)
        if not self._announced:
            self._announced = True
            if not self._producer.post_pieces():
                self.drop()

    def _write_step(self, part: Buffer) -> None:
        size = len(part)
        while not self._fits(size):
            # Waiting for a moment is cheaper than the disk if the reader is only slower than the
            # app. If that did not help, the next wait comes after the reader has caught up.
            if self._patient and not self._all_sent():
                self._patient = self._wait(size, self._services.config.output_wait)
                continue
            extent = self._write_to_file(part)
            if extent is not None:
                self._post(extent, size)
                return
            if self._all_sent():
                # Other requests use up the quotas. One piece at a time keeps this one going.
                break
            self._wait(size, None)
        if self._all_sent():
            self._patient = True
        self._post(part, size)

    def _write_to_file(self, part: Buffer) -> Extent | None:
        """Write to the file; return None if it has no room or the disk is full."""
        config = self._services.config
        if self._file_written - self._file_sent + len(part) > config.output_spool_bytes:
            return None
        try:
            if self._file is None:
                self._file = self._services.run_blocking(self._make_file)
                self._services.memory.charge(_COST)
            file = self._file
            return self._services.run_blocking(lambda: file.write(part))
        except OSError as error:
            self._services.log.warning("cannot write output to a temporary file: %s", error)
            return None

    def _make_file(self) -> RingFile:
        config = self._services.config
        return RingFile(config.output_spool_bytes, self._services.spool, config.spool_dir)

    def _wait(self, size: int, timeout: float | None) -> bool:
        """Wait for credit.

        Returns:
            Whether there may be credit now.

        Raises:
            ClientDisconnected: the request was given up.
        """
        latch = self._services.make_latch()
        with self._lock:
            self._latch = latch
        # Checked again now that the main context can see the latch: it may have sent something
        # just before.
        ready = self._fits(size) or self._all_sent() or self._producer.cancelled
        opened = ready or latch.wait(timeout)
        with self._lock:
            self._latch = None
        if self._producer.cancelled:
            raise ClientDisconnected("the web server gave the request up")
        return opened

    # The main context.

    @main_only
    def take(self) -> None:
        """Queue all posted pieces, whose memory is already charged."""
        # Before the pieces are taken: the worker announces a piece that comes too late for this.
        self._announced = False
        posted, pieces = self._posted, self.pieces
        while posted:
            piece = posted.popleft()
            self._claim(piece)
            if not isinstance(piece, Extent):
                append_piece(pieces, piece)
            elif pieces and isinstance(last := pieces[-1], Extent):
                last.size += piece.size
            else:
                pieces.append(piece)

    def _claim(self, piece: Piece) -> None:
        """Stop the worker from adding to a piece."""
        if piece is self._tail:
            with self._lock:
                self._tail = None

    @main_only
    def hold(self, data: bytes) -> None:
        """Queue the last piece, after which the worker writes nothing."""
        self.pieces.append(data)
        self._written += len(data)
        self._services.memory.charge(len(data))

    def forked(self) -> None:
        """Make the file useless in a child process."""
        if self._file is not None:
            silence(self._file.fileno())

    def drop(self) -> None:
        """Release the posted pieces, which will not be sent. Callable by their owner."""
        self._announced = False
        while self._posted:
            piece = self._posted.popleft()
            self._claim(piece)
            if not isinstance(piece, Extent):
                self._memory.release(len(piece))

    @main_only
    def credit(self, size: int) -> None:
        """Take note that ``size`` bytes from memory were passed to the protocol."""
        self._sent += size
        self._memory.release(size)
        # A worker is woken once, when half of its limit is free again, and not for each piece.
        if self._latch is not None and self._written - self._sent <= self._low:
            self._open_latch()

    @main_only
    def next_extent(self, extent: Extent) -> Extent:
        """Return the part of an extent to read next, and put the rest back into the queue."""
        if extent.size <= _STEP:
            return extent
        assert self._file is not None
        self.pieces.appendleft(
            Extent((extent.offset + _STEP) % self._file.size, extent.size - _STEP)
        )
        return Extent(extent.offset, _STEP)

    def load(self, extent: Extent) -> bytes:
        """Read an extent. In the thread of `FileIO`."""
        assert self._file is not None
        return self._file.read(extent)

    @main_only
    def loaded(self, size: int, data: bytes) -> None:
        """Put data that was read from the file at the head of the queue."""
        self._file_sent += size
        # From now on it is charged as memory: it is written and not sent, like a worker's piece.
        self._sent -= size
        self.pieces.appendleft(data)
        self._services.memory.charge(size)
        if self._latch is not None:
            self._open_latch()

    @main_only
    def cancel(self) -> None:
        """Drop all queued pieces, and wake the worker if it waits."""
        held = sum(len(piece) for piece in self.pieces if not isinstance(piece, Extent))
        self.pieces.clear()
        self._services.memory.release(held)
        # Here too, because an app of `--worker main` that waits may never end after a stop.
        self._give_cost()
        if self._latch is not None:
            self._open_latch()

    def close(self) -> None:
        """Close the file, after the worker is done and while nothing is loading."""
        self.drop()
        self._give_cost()
        if self._file is not None:
            self._services.memory.release(_COST)
            self._services.file_io.submit(self._file.close)
            self._file = None

    def _give_cost(self) -> None:
        cost, self._cost = self._cost, 0
        self._services.memory.release(cost)

    def _open_latch(self) -> None:
        with self._lock:
            latch, self._latch = self._latch, None
        if latch is not None:
            latch.open()
