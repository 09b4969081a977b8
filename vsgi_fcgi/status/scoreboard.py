"""A scoreboard in shared memory: what each process does, for all processes to read.

Each process has a block, and is the only one that writes it, without locks. A number at its
beginning is odd while it is written. A reader copies the block, and copies it again if this number
was odd or has changed. So a process whose threads are all stuck, or that has died, can be read
like any other.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from vsgi_fcgi.descriptors import open_memory

STATES: Final = ("unused", "starting", "serving", "stopping", "ended", "past")
UNUSED, STARTING, SERVING, STOPPING, ENDED, PAST = range(len(STATES))
"""The last one is the block of the supervisor, with the figures of processes that have ended."""

BUCKETS: Final = 22
"""Number of buckets of a histogram of durations. Each one is twice as wide as the one before."""

SHIFT: Final = 16
"""The first bucket ends at 2 to the power of this, in nanoseconds."""

CLASSES: Final = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")
"""Classes of the status of a response. The first one is for requests without a response."""

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
)
"""What a process counts since its start."""

GAUGES: Final = (
    "threads",
    "busy",
    "queued",
    "connections",
    "idle_connections",
    "multiplexed_connections",
    "resident_bytes",
    "buffered_bytes",
    "file_bytes",
)
"""Numbers of the present moment."""

EVENTS: Final = ("worker_deaths", "reloads")
"""What the supervisor counts."""

PERIODS: Final = 90
PERIOD: Final = 10
"""Number of periods in the history, and seconds of each: the last 15 minutes."""

MAX_REQUESTS: Final = 128
"""Largest number of running requests that a process shows."""

_READS: Final = 200
_PAUSE: Final = 0.0005
"""Number of tries to read a block that is written at the same time, and seconds between them."""

_MAX_STACK: Final = 2048
"""Maximum bytes of the stack of a request."""

_HEADER: Final = struct.Struct(f"<8sII{len(EVENTS)}q")
_MAGIC: Final = b"vsgistat"
_SEQUENCE: Final = struct.Struct("<q")
_PROCESS: Final = struct.Struct(f"<iiddd{len(COUNTERS)}q{len(GAUGES)}q{BUCKETS}qd{BUCKETS}qdi")
_PERIOD: Final = struct.Struct(f"<qiiii{BUCKETS}i")
_REQUEST: Final = struct.Struct(f"<qqqi16s256s64s{_MAX_STACK}s")

_PERIODS_AT: Final = _SEQUENCE.size + _PROCESS.size
_REQUESTS_AT: Final = _PERIODS_AT + PERIODS * _PERIOD.size
"""Where the periods and the requests begin in a block."""


def bucket_of(nanoseconds: int) -> int:
    """Return the number of the bucket of a duration."""
    return min((nanoseconds >> SHIFT).bit_length(), BUCKETS - 1)


def bucket_ends() -> list[float]:
    """Return the ends of the buckets in seconds. The last bucket has no end."""
    return [(1 << (SHIFT + number)) / 1e9 for number in range(BUCKETS - 1)]


@dataclass
class Histogram:
    """Durations, counted in buckets.

    Attributes:
        counts: the number of durations in each bucket.
        total: the sum of all durations, in seconds.
    """

    counts: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    total: float = 0.0

    def add(self, other: Histogram) -> None:
        """Add the durations of another histogram."""
        self.counts = [mine + more for mine, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def quantile(self, share: float) -> float | None:
        """Return a duration in seconds that this share of all durations does not exceed.

        It is interpolated within its bucket. None if there are no durations.
        """
        return quantile(self.counts, share)


def quantile(counts: Sequence[int], share: float) -> float | None:
    """Return a quantile of a histogram in seconds; None if it is empty."""
    rank = share * sum(counts)
    if not rank:
        return None
    ends = [0.0, *bucket_ends(), bucket_ends()[-1] * 2]
    for number, count in enumerate(counts):
        if count and rank <= count:
            return ends[number] + (ends[number + 1] - ends[number]) * rank / count
        rank -= count
    return ends[-1]


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

    def add(self, other: Process) -> None:
        """Add what another process has counted."""
        self.counters = [a + b for a, b in zip(self.counters, other.counters, strict=True)]
        self.queue_wait.add(other.queue_wait)
        self.run_time.add(other.run_time)
        self.periods = merge([*self.periods, *other.periods])


def merge(periods: Iterable[Period]) -> list[Period]:
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


def _block_size(requests: int) -> int:
    return _REQUESTS_AT + requests * _REQUEST.size


def _size(processes: int, requests: int) -> int:
    return _HEADER.size + processes * _block_size(requests)


def _new_header(processes: int, requests: int) -> bytes:
    return _HEADER.pack(_MAGIC, processes, requests, *([0] * len(EVENTS)))


class Scoreboard:
    """Shared memory with a block for each process.

    Args:
        fd: a descriptor of `create`, or None for memory of this process alone.
        processes: number of blocks; ignored if there is a descriptor. Block 0 of several is the
            supervisor's.
        requests: running requests that each process can show; likewise.

    Attributes:
        fd: the descriptor, which must stay open because it holds the lock of `claim`.
    """

    def __init__(self, fd: int | None = None, processes: int = 1, requests: int = 32) -> None:
        if fd is not None:
            with mmap.mmap(fd, _HEADER.size) as head:
                magic, processes, requests, *_ = _HEADER.unpack_from(head)
            if magic != _MAGIC:
                raise ValueError("this is not a scoreboard")
        self.processes = processes
        self._requests = requests
        self.fd = fd
        self._block_size = _block_size(requests)
        self._memory = mmap.mmap(-1 if fd is None else fd, _size(processes, requests))
        if fd is None:
            self._memory[: _HEADER.size] = _new_header(processes, requests)

    @staticmethod
    def create(processes: int, requests: int) -> int:
        """Create a scoreboard for several processes, and return its descriptor."""
        requests = min(requests, MAX_REQUESTS)
        fd = open_memory("vsgi-fcgi-status", _size(processes, requests))
        os.pwrite(fd, _new_header(processes, requests), 0)
        return fd

    def close(self) -> None:
        """Release the memory."""
        self._memory.close()

    # The supervisor.

    def count(self, event: str) -> None:
        """Count one of `EVENTS`. Only the supervisor does this."""
        values = list(_HEADER.unpack_from(self._memory))
        values[3 + EVENTS.index(event)] += 1
        _HEADER.pack_into(self._memory, 0, *values)

    @property
    def events(self) -> dict[str, int]:
        """What the supervisor has counted."""
        return dict(zip(EVENTS, _HEADER.unpack_from(self._memory)[3:], strict=True))

    def take_over(self, pid: int) -> None:
        """Add the figures of a process that has ended to block 0, which the supervisor owns."""
        for index, process in self.read():
            if index and process.pid == pid:
                past = self._read(0)
                past.state, past.pid = PAST, os.getpid()
                past.add(process)
                self.write(0, past)
                self.write(index, Process())

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
            return index
        return None

    def write(self, index: int, process: Process) -> None:
        """Write the block of this process."""
        memory, at = self._memory, self._offset(index)
        (sequence,) = _SEQUENCE.unpack_from(memory, at)
        sequence |= 1  # it is odd already if the process died while it was written
        _SEQUENCE.pack_into(memory, at, sequence)
        requests = process.requests[: self._requests]
        place = at + _SEQUENCE.size
        _PROCESS.pack_into(
            memory,
            place,
            process.pid,
            process.state,
            process.started,
            process.updated,
            process.cpu,
            *process.counters,
            *process.gauges,
            *process.queue_wait.counts,
            process.queue_wait.total,
            *process.run_time.counts,
            process.run_time.total,
            len(requests),
        )
        place = at + _PERIODS_AT
        for period in process.periods[-PERIODS:]:
            numbers = (period.requests, period.errors, period.busy, period.queued)
            _PERIOD.pack_into(memory, place, period.begin, *numbers, *period.run)
            place += _PERIOD.size
        if len(process.periods) < PERIODS:
            _PERIOD.pack_into(memory, place, 0, *([0] * (4 + BUCKETS)))
        place = at + _REQUESTS_AT
        for request in requests:
            _REQUEST.pack_into(
                memory,
                place,
                request.thread,
                request.began,
                request.queued,
                request.marks,
                *(
                    _cut(text, size)
                    for text, size in (
                        (request.method, 16),
                        (request.target, 256),
                        (request.client, 64),
                        (request.stack, _MAX_STACK),
                    )
                ),
            )
            place += _REQUEST.size
        _SEQUENCE.pack_into(memory, at, sequence + 1)

    # All readers.

    def read(self) -> list[tuple[int, Process]]:
        """Return the processes, with the numbers of their blocks."""
        return [
            (index, process)
            for index in range(self.processes)
            if (process := self._read(index)).state != UNUSED
        ]

    def _read(self, index: int) -> Process:
        at = self._offset(index)
        block = b""
        for _ in range(_READS):
            block = self._memory[at : at + self._block_size]
            (sequence,) = _SEQUENCE.unpack_from(block)
            if not sequence & 1 and _SEQUENCE.unpack_from(self._memory, at)[0] == sequence:
                break
            time.sleep(_PAUSE)
        # Also the block of a process that died while it wrote: most of it is right.
        return _unpack(block)

    def _offset(self, index: int) -> int:
        return _HEADER.size + index * self._block_size


def _unpack(block: bytes) -> Process:
    values: Iterator[object] = iter(_PROCESS.unpack_from(block, _SEQUENCE.size))

    def take(count: int) -> list[int]:
        return [next(values) for _ in range(count)]  # type: ignore[misc]

    def take_float() -> float:
        return next(values)  # type: ignore[return-value]

    pid, state = take(2)
    process = Process(pid, state, take_float(), take_float(), take_float())
    process.counters = take(len(COUNTERS))
    process.gauges = take(len(GAUGES))
    process.queue_wait = Histogram(take(BUCKETS), take_float())
    process.run_time = Histogram(take(BUCKETS), take_float())
    (count,) = take(1)
    for number in range(PERIODS):
        begin, requests, errors, busy, queued, *run = _PERIOD.unpack_from(
            block, _PERIODS_AT + number * _PERIOD.size
        )
        if not begin:
            break
        process.periods.append(Period(begin, requests, errors, busy, queued, run))
    for number in range(count):
        thread, began, waited, marks, *texts = _REQUEST.unpack_from(
            block, _REQUESTS_AT + number * _REQUEST.size
        )
        method, target, client, stack = (
            text.rstrip(b"\0").decode("utf-8", "replace") for text in texts
        )
        process.requests.append(
            Running(thread, began, waited, marks, method, target, client, stack)
        )
    return process


def _cut(text: str, size: int) -> bytes:
    data = text.encode("utf-8", "replace")
    if len(data) <= size:
        return data
    # The end of a stack says where the thread is; the beginning of an address says what it is.
    return data[-size:] if size == _MAX_STACK else data[: size - 3] + b"..."
