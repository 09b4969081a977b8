"""What the modules of a running server share: plain objects of the layers below."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from vsgi_fcgi.log.log import Log
from vsgi_fcgi.server.config import Config
from vsgi_fcgi.server.file_io import FileIO
from vsgi_fcgi.server.mailbox import GreenletLatch, Latch, Mailbox, ThreadLatch
from vsgi_fcgi.transport.loop import Loop
from vsgi_fcgi.transport.quota import Quota
from vsgi_fcgi.transport.thread_affinity import worker_only

T = TypeVar("T")


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
        counts: what the scoreboard counts, by name; None if there is none.
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
    counts: Counter[str] | None = None
    in_child: bool = False

    def count(self, name: str) -> None:
        """Count an event for the scoreboard, if there is one. For the main context."""
        if self.counts is not None:
            self.counts[name] += 1

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
