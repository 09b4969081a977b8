"""The unsent output of one request: in memory, then in a file, then the app waits."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from vsgi_fcgi.exceptions import ClientDisconnected
from vsgi_fcgi.native import allocate_lock
from vsgi_fcgi.protocol.events import Buffer
from vsgi_fcgi.ring_file import Extent, RingFile
from vsgi_fcgi.server.contract import main_only, worker_only
from vsgi_fcgi.server.gates import Gate

if TYPE_CHECKING:
    from vsgi_fcgi.server.reply import Reply

_STEP = 65536
"""Bytes that are accounted for at a time when a piece does not fit at once."""

_SMALL = 1024
"""Bytes of a piece from which on it is kept as it came."""

Piece = Buffer | Extent


class Output:
    """Made when a response does not leave in one piece.

    The worker counts what it wrote, the main context what it sent; each writes its own counters
    alone, so the common case needs no lock. The credit that is left is their difference.

    Args:
        reply: whose output it is.

    Attributes:
        pieces: what is to be sent, in order; the main context's.
        loading: an extent is being read; the main context's.
    """

    __slots__ = (
        "_context",
        "_file",
        "_file_sent",
        "_file_written",
        "_gate",
        "_lock",
        "_low",
        "_patient",
        "_reply",
        "_sent",
        "_written",
        "loading",
        "pieces",
    )

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._context = reply.channel.context
        self.pieces: deque[Piece] = deque()
        self.loading = False
        self._low = self._context.config.output_memory_bytes // 2
        self._written = 0
        self._sent = 0
        self._file: RingFile | None = None
        self._file_written = 0
        self._file_sent = 0
        self._patient = True
        self._lock = allocate_lock()
        self._gate: Gate | None = None

    @property
    def sent(self) -> int:
        """Bytes that were sent so far; the main context's."""
        # What was read from the file was taken off `_sent` when it came to be counted there.
        return self._sent + self._file_sent

    # The worker's half.

    @worker_only
    def write(self, data: bytes) -> None:
        """Take a piece; wait if nothing can hold it.

        Raises:
            ClientDisconnected: the request was given up.
        """
        size = len(data)
        limit = self._context.config.output_memory_bytes
        if self._fits(size):
            self._post(data, size)
            return
        view = memoryview(data)
        step = min(_STEP, limit)
        for at in range(0, size, step):
            part: Buffer = view[at : at + step]
            # A view keeps the whole of what the app yielded alive: no bound for what is larger
            # than all that may wait.
            self._write_step(bytes(part) if size > limit else part)

    def _fits(self, size: int) -> bool:
        """Whether memory takes ``size`` more bytes: this request's share, and that of all."""
        memory = self._context.memory
        unsent = self._written - self._sent
        return unsent + size <= self._context.config.output_memory_bytes and (
            memory.used < memory.limit
        )

    def _all_sent(self) -> bool:
        """Whether nothing waits, so that no credit would ever come."""
        return self._written == self._sent and self._file_written == self._file_sent

    def _post(self, piece: Piece, size: int) -> None:
        if isinstance(piece, Extent):
            self._file_written += size
        else:
            self._written += size
            # Counted here and not where it is queued: many may be written before that.
            self._context.memory.force(size)
        reply = self._reply
        if not self._context.mailbox.post(reply.channel.writer.put, (reply, piece)):
            self.drop(piece)

    def _write_step(self, part: Buffer) -> None:
        size = len(part)
        while not self._fits(size):
            # A reader that is merely slower than the app gets a moment, which is cheaper than
            # the disk. One that has stopped does not get another before it has caught up.
            if self._patient and not self._all_sent():
                self._patient = self._wait(size, self._context.config.output_wait)
                continue
            extent = self._write_to_file(part)
            if extent is not None:
                self._post(extent, size)
                return
            if self._all_sent():
                # Others hold all memory and all files: one piece at a time, and none stands still.
                break
            self._wait(size, None)
        if self._all_sent():
            self._patient = True
        self._post(part, size)

    def _write_to_file(self, part: Buffer) -> Extent | None:
        """Write to the file, unless there is no room in it or no disk to be had."""
        config = self._context.config
        if self._file_written - self._file_sent + len(part) > config.output_spool_bytes:
            return None
        try:
            if self._file is None:
                self._file = self._context.blocking(self._make_file)
            file = self._file
            return self._context.blocking(lambda: file.write(part))
        except OSError as error:
            self._context.log.warning("cannot write output to a temporary file: %s", error)
            return None

    def _make_file(self) -> RingFile:
        config = self._context.config
        return RingFile(config.output_spool_bytes, self._context.spool, config.spool_dir)

    def _wait(self, size: int, timeout: float | None) -> bool:
        """Wait for credit.

        Returns:
            Whether there may be some.

        Raises:
            ClientDisconnected: the request was given up.
        """
        gate = self._context.make_gate()
        with self._lock:
            self._gate = gate
        # Looked at again after the gate can be seen: what was sent in between opened no gate.
        opened = self._fits(size) or self._all_sent() or self._reply.cancelled or gate.wait(timeout)
        with self._lock:
            self._gate = None
        if self._reply.cancelled:
            raise ClientDisconnected("the web server gave the request up")
        return opened

    # The main context's half.

    @main_only
    def put(self, piece: Piece) -> None:
        """Queue a piece, which counts as memory already."""
        pieces = self.pieces
        if isinstance(piece, Extent) or len(piece) >= _SMALL or not pieces:
            pieces.append(piece)
        elif type(pieces[-1]) is bytearray:
            pieces[-1] += piece
        else:
            # Small pieces are gathered: each would take more memory than it counts for.
            pieces.append(bytearray(piece))

    @main_only
    def hold(self, data: bytes) -> None:
        """Queue the last piece of a reply whose worker has finished."""
        self.pieces.append(data)
        self._context.memory.force(len(data))

    def drop(self, piece: Piece) -> None:
        """Forget a piece that nobody will send. By whoever has it."""
        if not isinstance(piece, Extent):
            self._context.memory.give(len(piece))

    @main_only
    def credit(self, size: int) -> None:
        """Say that ``size`` bytes from memory are on their way to the web server."""
        self._sent += size
        self._context.memory.give(size)
        # A worker is woken once for half of what it may have waiting, and not for each piece.
        if self._gate is not None and self._written - self._sent <= self._low:
            self._open_gate()

    def load(self, extent: Extent) -> bytes:
        """Read an extent (run by the disk's thread)."""
        assert self._file is not None
        return self._file.read(extent)

    @main_only
    def loaded(self, size: int, data: bytes) -> None:
        """Put what was read from the file at the head of the queue."""
        self._file_sent += size
        # It counts as memory from here on, written and not sent, without the worker's doing.
        self._sent -= size
        self.pieces.appendleft(data)
        self._context.memory.force(size)
        if self._gate is not None:
            self._open_gate()

    @main_only
    def cancel(self) -> None:
        """Drop what is queued, and let a waiting worker go."""
        held = sum(len(piece) for piece in self.pieces if not isinstance(piece, Extent))
        self.pieces.clear()
        self._context.memory.give(held)
        if self._gate is not None:
            self._open_gate()

    def close(self) -> None:
        """Close the file. Only when the worker has finished and nothing is loading."""
        if self._file is not None:
            self._context.disk.submit(self._file.close)
            self._file = None

    def _open_gate(self) -> None:
        with self._lock:
            gate, self._gate = self._gate, None
        if gate is not None:
            gate.open()
