"""A scoreboard in shared memory: what each process does, for all processes to read.

Each process has a block, and is the only one that writes it, without locks. A block is a number and
two halves. The number says which half is valid. A process writes the other half as JSON, and then
the number. A reader copies a half, and copies again if the number has changed meanwhile. So a
process whose threads are all stuck, or that has died at any moment, can be read like any other.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from vsgi_fcgi.descriptors import open_memory
from vsgi_fcgi.status.counting import BUCKETS, CLASSES

STATES: Final = ("unused", "starting", "serving", "stopping", "ended", "past")
UNUSED, STARTING, SERVING, STOPPING, ENDED, PAST = range(len(STATES))
"""The last one is the block of the supervisor, with the figures of processes that have ended."""

REFUSED: Final = (400, 408, 413, 431, 500, 503)
"""The statuses with which the server refuses requests that reach a limit or are invalid."""

COUNTERS: Final = (
    *(f"responses_{name}" for name in CLASSES),
    *(f"refused_{status}" for status in REFUSED),
    "received_bytes",
    "sent_bytes",
    "aborted",
    "slow",
    "request_timeouts",
    "queue_timeouts",
    "stuck_threads",
    "worker_deaths",
    "reloads",
)
"""What a process counts since its start. The last two are counted by the supervisor."""

GAUGES: Final = (
    "threads",
    "busy",
    "queued",
    "held",
    "connections",
    "idle_connections",
    "multiplexed_connections",
    "resident_bytes",
    "buffered_bytes",
    "file_bytes",
)
"""Numbers of the present moment."""

PERIODS: Final = 90
PERIOD: Final = 10
"""Number of periods in the history, and seconds of each: the last 15 minutes."""

MAX_REQUESTS: Final = 128
"""Largest number of running requests that a process shows."""

_READS: Final = 200
"""Number of tries to read a block that is written at the same time."""

_MAX_STACK: Final = 2048
"""Maximum bytes of the stack of a request."""

_HEADER: Final = struct.Struct("<8sII")
_MAGIC: Final = b"vsgistat"
_NUMBER: Final = struct.Struct("<q")
"""The number of a block, and the length of the JSON in a half."""

_HALF: Final = 48 * 1024
_REQUEST: Final = 3 * 1024
"""Size of a half of a block without requests, and the room for each request."""


@dataclass
class Histogram:
    """Durations, counted in buckets.

    Attributes:
        counts: the number of durations in each bucket.
        total: the sum of the durations, in seconds.
    """

    counts: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    total: float = 0.0

    def add(self, other: Histogram) -> None:
        """Add the durations of another histogram."""
        self.counts = [mine + more for mine, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


@dataclass
class Period:
    """What happened in 10 seconds.

    Attributes:
        begin: seconds since 1970, divided by `PERIOD`.
        requests: requests that ended.
        errors: those with a status of 5xx.
        busy: the largest number of busy threads that was seen.
        queued: the largest number of queued requests that was seen.
        run: the number of run times in each bucket.
    """

    begin: int = 0
    requests: int = 0
    errors: int = 0
    busy: int = 0
    queued: int = 0
    run: list[int] = field(default_factory=lambda: [0] * BUCKETS)


@dataclass
class Running:
    """A running request. Times are in nanoseconds on the clock of `time.monotonic_ns`.

    Attributes:
        thread: the ident of its thread.
        began: the time at which a thread took it.
        queued: how long it had waited for that.
        marks: the sum of `SLOW` and `STUCK`.
        stack: where its thread was, if it runs for long; else empty.
    """

    thread: int
    began: int
    queued: int
    marks: int
    method: str
    target: str
    client: str
    stack: str = ""


SLOW: Final = 1
STUCK: Final = 2


@dataclass
class Process:
    """What a process does.

    Attributes:
        started: when the server started, in seconds since 1970.
        updated: the last update, in seconds on the clock of `time.monotonic`.
        cpu: seconds of CPU time.
        queue_wait: how long requests waited for a worker.
        run_time: how long the app ran.
    """

    pid: int = 0
    state: int = UNUSED
    started: float = 0.0
    updated: float = 0.0
    cpu: float = 0.0
    counters: list[int] = field(default_factory=lambda: [0] * len(COUNTERS))
    gauges: list[int] = field(default_factory=lambda: [0] * len(GAUGES))
    queue_wait: Histogram = field(default_factory=Histogram)
    run_time: Histogram = field(default_factory=Histogram)
    periods: list[Period] = field(default_factory=list)
    requests: list[Running] = field(default_factory=list)


def total(processes: Sequence[Process]) -> Process:
    """Return the sum of what processes have counted."""
    found = Process()
    for each in processes:
        found.counters = [a + b for a, b in zip(found.counters, each.counters, strict=True)]
        found.queue_wait.add(each.queue_wait)
        found.run_time.add(each.run_time)
    found.periods = _merge(period for each in processes for period in each.periods)
    return found


def _merge(periods: Iterable[Period]) -> list[Period]:
    """Return one period for each time, in their order."""
    merged: dict[int, Period] = {}
    for period in periods:
        into = merged.setdefault(period.begin, Period(period.begin))
        into.requests += period.requests
        into.errors += period.errors
        into.busy += period.busy
        into.queued += period.queued
        into.run = [mine + more for mine, more in zip(into.run, period.run, strict=True)]
    return [merged[begin] for begin in sorted(merged)][-PERIODS:]


def _half_size(requests: int) -> int:
    return _HALF + requests * _REQUEST


def _block_size(requests: int) -> int:
    return _NUMBER.size + 2 * _half_size(requests)


class Scoreboard:
    """Shared memory with a block for each process. Block 0 of several is the supervisor's.

    Args:
        fd: a descriptor of `create`, or None for a block of this process alone. Such memory has no
            descriptor, because a map keeps its descriptor open for as long as it exists itself.
        requests: running requests that such a block can show.

    Attributes:
        fd: the descriptor, which must stay open because it holds the lock of `claim`.
    """

    def __init__(self, fd: int | None, requests: int = MAX_REQUESTS) -> None:
        self.fd = fd
        if fd is None:
            requests = min(requests, MAX_REQUESTS)
            self._memory = mmap.mmap(-1, _HEADER.size + _block_size(requests))
            _HEADER.pack_into(self._memory, 0, _MAGIC, 1, requests)
        else:
            self._memory = mmap.mmap(fd, 0)
        magic, self.processes, self._requests = _HEADER.unpack_from(self._memory)
        if magic != _MAGIC:
            raise ValueError("this is not a scoreboard")
        self._block_size = _block_size(self._requests)

    @staticmethod
    def create(processes: int, requests: int) -> int:
        """Create a scoreboard, and return its descriptor.

        Args:
            processes: number of blocks.
            requests: running requests that each process can show.
        """
        requests = min(requests, MAX_REQUESTS)
        fd = open_memory("vsgi-fcgi-status", _HEADER.size + processes * _block_size(requests))
        os.pwrite(fd, _HEADER.pack(_MAGIC, processes, requests), 0)
        return fd

    @classmethod
    def join(cls, fd: int | None, requests: int) -> tuple[Scoreboard, int]:
        """Return a scoreboard, and the number of this process's block in it.

        Args:
            fd: the scoreboard of a supervisor. If it is None or has no free block, the process gets
                one of its own.
            requests: running requests that such a scoreboard can show.
        """
        if fd is not None:
            board = cls(fd)
            index = board.claim()
            if index is not None:
                return board, index
        return cls(None, requests), 0

    # The supervisor.

    def count(self, event: str) -> None:
        """Count something that concerns the supervisor."""
        counted = Process()
        counted.counters[COUNTERS.index(event)] = 1
        self._add(counted)

    def take_over(self, pid: int) -> None:
        """Add the figures of a process that has ended to block 0, which the supervisor owns."""
        for index, process in self.read():
            if index and process.pid == pid:
                self._add(process)
                self.write(index, Process())

    def _add(self, process: Process) -> None:
        past = total([self._read(0), process])
        past.state, past.pid = PAST, os.getpid()
        self.write(0, past)

    # A process.

    def claim(self) -> int | None:
        """Reserve a block for this process until it ends.

        Returns:
            Its number; None if there is no free block.
        """
        assert self.fd is not None
        for index in range(1, self.processes):
            try:
                # The kernel releases the lock when the process ends, however it ends.
                fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, index)
            except OSError:
                continue
            if self._read(index).state == UNUSED:
                return index
            # The supervisor has not yet added the figures of this ended process to its own.
            fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, index)
        return None

    def write(self, index: int, process: Process) -> None:
        """Write the block of this process."""
        requests = process.requests[: self._requests]
        data = _encode(process, requests)
        while len(data) > _half_size(self._requests) - _NUMBER.size:
            # Characters that JSON escapes take more room.
            data = _encode(process, requests := requests[:-1])
        (number,) = _NUMBER.unpack_from(self._memory, self._offset(index))
        at = self._half_at(index, number + 1)
        self._memory[at + _NUMBER.size : at + _NUMBER.size + len(data)] = data
        _NUMBER.pack_into(self._memory, at, len(data))
        _NUMBER.pack_into(self._memory, self._offset(index), number + 1)

    # All readers.

    def read(self) -> list[tuple[int, Process]]:
        """Return the processes, with the numbers of their blocks."""
        return [
            (index, process)
            for index in range(self.processes)
            if (process := self._read(index)).state != UNUSED
        ]

    def _read(self, index: int) -> Process:
        for _ in range(_READS):
            (number,) = _NUMBER.unpack_from(self._memory, self._offset(index))
            at = self._half_at(index, number)
            (size,) = _NUMBER.unpack_from(self._memory, at)
            data = self._memory[at + _NUMBER.size : at + _NUMBER.size + size]
            if _NUMBER.unpack_from(self._memory, self._offset(index))[0] == number:
                return _decode(data) if number else Process()
        raise TimeoutError(f"block {index} changes all the time")

    def _offset(self, index: int) -> int:
        return _HEADER.size + index * self._block_size

    def _half_at(self, index: int, number: int) -> int:
        return self._offset(index) + _NUMBER.size + number % 2 * _half_size(self._requests)


def _encode(process: Process, requests: Sequence[Running]) -> bytes:
    fields = {**vars(process), "requests": [_shortened(request) for request in requests]}
    text = json.dumps(fields, default=vars, ensure_ascii=False, separators=(",", ":"))
    return text.encode()


def _decode(data: bytes) -> Process:
    fields: dict[str, Any] = json.loads(data)
    for name in ("queue_wait", "run_time"):
        fields[name] = Histogram(**fields[name])
    fields["periods"] = [Period(**period) for period in fields["periods"]]
    fields["requests"] = [Running(**request) for request in fields["requests"]]
    return Process(**fields)


def _shortened(request: Running) -> Running:
    return replace(
        request,
        method=_cut(request.method, 16),
        target=_cut(request.target, 256),
        client=_cut(request.client, 64),
        stack=_cut(request.stack, _MAX_STACK),
    )


def _cut(text: str, size: int) -> str:
    """Return a text of at most this many bytes in UTF-8, without lone surrogates."""
    data = text.encode("utf-8", "replace")
    if len(data) > size:
        # The end of a stack says where the thread is; the beginning of an address says what it is.
        data = data[-size:] if size == _MAX_STACK else data[: size - 3] + b"..."
    return data.decode("utf-8", "replace")
