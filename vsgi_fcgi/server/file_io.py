"""Work on temporary files in one native thread, so that it cannot block the main context.

The hub's own thread pool would do, but it makes an async watcher for each task; here the mailbox
brings the results, as it brings everything else. One thread: its files share one disk anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vsgi_fcgi.server.mailbox import Mailbox
from vsgi_fcgi.transport.unpatched import SimpleQueue, allocate_lock, start_thread

Task = Callable[[], Any]
Done = Callable[[Any], object]


class FileIO:
    """Runs tasks in order in another thread, and returns their results through the mailbox.

    Its queue needs no limit: each request has at most one task in it, and one that closes its
    file.

    Args:
        mailbox: the way of the results to the main context.
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
            task: the work. If it raises an exception, an OSError becomes its result.
            done: takes the result; None to ignore it.
        """
        if not self._started and self._possible:
            try:
                start_thread(self._work, "vsgi-fcgi-disk")
                self._started = True
            except RuntimeError:
                # This host allows no more threads. A blocked main context is better than a failed
                # upload.
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
            # For example, no memory. The caller must get a result, and the next task must run.
            result = OSError(f"{type(error).__name__}: {error}")
        if done is not None:
            self._mailbox.post(done, result)

    def stop(self, timeout: float) -> None:
        """Wait for all tasks, and end the thread.

        Further tasks run in the thread that submits them.

        Args:
            timeout: maximum number of seconds to wait.
        """
        self._possible = False
        if self._started:
            self._started = False
            self._ended.acquire()
            self._queue.put(None)
            self._ended.acquire(True, timeout)
