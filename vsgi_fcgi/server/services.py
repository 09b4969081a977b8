"""What the modules of a running server share: plain objects of the layers below."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, final

from vsgi_fcgi.log.log import Log
from vsgi_fcgi.server.config import Config
from vsgi_fcgi.server.file_io import FileIO
from vsgi_fcgi.server.mailbox import GreenletLatch, Latch, Mailbox, ThreadLatch
from vsgi_fcgi.status.counting import BUCKETS, CLASSES, SHIFT
from vsgi_fcgi.transport.loop import Loop
from vsgi_fcgi.transport.quota import Quota
from vsgi_fcgi.transport.thread_affinity import worker_only

if TYPE_CHECKING:
    from vsgi_fcgi.push.held import HeldRequests

T = TypeVar("T")


@final
class Counts:
    """What the status counts. Only the main context changes it; any thread may read it.

    Attributes:
        events: the numbers of events, by name.
        responses: the numbers of requests that ran, for each of `CLASSES`.
        queue_wait: how many requests waited for a worker, for each bucket of a histogram.
        queue_wait_total: the sum of these times in nanoseconds.
        run_time: how many requests ran, for each bucket of a histogram.
        run_time_total: the sum of these times in nanoseconds.
        sent_bytes: the bytes of their responses.
    """

    __slots__ = (
        "events",
        "queue_wait",
        "queue_wait_total",
        "responses",
        "run_time",
        "run_time_total",
        "sent_bytes",
    )

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.responses: list[int] = [0] * len(CLASSES)
        self.queue_wait: list[int] = [0] * BUCKETS
        self.queue_wait_total = 0
        self.run_time: list[int] = [0] * BUCKETS
        self.run_time_total = 0
        self.sent_bytes = 0

    def add(self, status_class: int, waited: int, ran: int, sent: int) -> None:
        """Count a request that has run.

        Args:
            status_class: the first digit of the status; 0 if there is no response.
            waited: how long it waited for a worker, in nanoseconds.
            ran: how long it ran, in nanoseconds.
            sent: the bytes of its response.
        """
        self.responses[status_class] += 1
        self.queue_wait[_bucket_of(waited)] += 1
        self.queue_wait_total += waited
        self.run_time[_bucket_of(ran)] += 1
        self.run_time_total += ran
        self.sent_bytes += sent


def _bucket_of(nanoseconds: int) -> int:
    # The compiler calls `int.bit_length` slowly, and most times are short.
    bucket = 0
    rest = nanoseconds >> SHIFT
    while rest > 0 and bucket < BUCKETS - 1:
        rest >>= 1
        bucket += 1
    return bucket


@dataclass(slots=True, eq=False)
class Services:
    """Everything that a module of the server may use without knowing who else uses it.

    The main context makes it. Nothing in it refers to connections, requests or workers.

    Attributes:
        config: the settings.
        log: the log.
        loop: the event loop.
        mailbox: the way from native threads into the main context.
        file_io: the thread that works on temporary files.
        memory: quota of bytes of request bodies and unsent responses in memory.
        spool: quota of bytes in temporary files.
        workers_in_loop: workers are greenlets of the main context, and not native threads.
        counts: what the status counts; None if there is none.
        held: the held requests; None if the app cannot hold any.
        in_child: this process was forked by the app, and has no main context.
    """

    config: Config
    log: Log
    loop: Loop
    mailbox: Mailbox
    file_io: FileIO
    memory: Quota
    spool: Quota
    workers_in_loop: bool = False
    counts: Counts | None = None
    held: HeldRequests | None = None
    in_child: bool = False

    def count(self, name: str) -> None:
        """Count an event for the status, if there is one. For the main context."""
        if self.counts is not None:
            self.counts.events[name] += 1

    def make_latch(self) -> Latch:
        """Return a closed latch at which a worker can wait."""
        return GreenletLatch() if self.workers_in_loop else ThreadLatch()

    @worker_only
    def run_blocking(self, task: Callable[[], T]) -> T:
        """Work on a file for a worker, without blocking the loop.

        A native thread does it itself. For a greenlet of the main context the thread of `FileIO`
        does it.

        Raises:
            OSError: the task raised it.
        """
        if not self.workers_in_loop:
            return task()
        latch = GreenletLatch()
        results: list[Any] = []

        def done(result: Any) -> None:
            results.append(result)
            latch.open()

        self.file_io.submit(task, done)
        latch.wait(None)
        if isinstance(results[0], OSError):
            raise results[0]
        result: T = results[0]
        return result
