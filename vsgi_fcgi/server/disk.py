"""Work on temporary files, done by one native thread so that it cannot stall the main context.

The hub's own thread pool would do, but it makes an async watcher for each task; here the mailbox
brings the results, as it brings everything else. One thread: its files share one disk anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vsgi_fcgi.native import SimpleQueue, allocate_lock, start_thread
from vsgi_fcgi.server.mailbox import Mailbox

Task = Callable[[], Any]
Done = Callable[[Any], object]


class Disk:
    """Runs tasks in order, in another thread, and has their results called in.

    It needs no bound of its own: each request has at most one task on its way, and one that
    closes its file.

    Args:
        mailbox: brings the results to the main context.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._queue: SimpleQueue[tuple[Task, Done | None] | None] = SimpleQueue()
        self._ended = allocate_lock()
        self._started = False
        self._possible = True

    def submit(self, task: Task, done: Done | None = None) -> None:
        """Run ``task()``, then ``done(result)`` in the main context.

        Args:
            task: the work; what it raises becomes the result, as an OSError.
            done: takes the result, or nobody does.
        """
        if not self._started and self._possible:
            try:
                start_thread(self._work, "vsgi-fcgi-disk")
                self._started = True
            except RuntimeError:
                # No more threads on this host: a stalled main context beats a failed upload.
                self._possible = False
        if self._started:
            self._queue.put((task, done))
        else:
            self._run(task, done)

    def _work(self) -> None:
        while True:
            item = self._queue.get()
            if item is None:
                self._ended.release()
                return
            self._run(*item)

    def _run(self, task: Task, done: Done | None) -> None:
        try:
            result = task()
        except OSError as error:
            result = error
        except Exception as error:
            # Whatever it was (no memory, say): who waits for the task must hear of it, and the
            # next one must be done.
            result = OSError(f"{type(error).__name__}: {error}")
        if done is not None:
            self._mailbox.post(done, result)

    def stop(self, timeout: float) -> None:
        """Have all tasks done, and end the thread.

        Further tasks are done at once, by whoever submits them.

        Args:
            timeout: seconds to wait for it at the most.
        """
        self._possible = False
        if self._started:
            self._started = False
            self._ended.acquire()
            self._queue.put(None)
            self._ended.acquire(True, timeout)
