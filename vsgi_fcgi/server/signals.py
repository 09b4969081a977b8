"""SIGTERM and SIGINT: the first stops gracefully, the second at once."""

from __future__ import annotations

import signal
from _queue import Empty
from collections.abc import Callable
from types import FrameType
from typing import Any

from gevent import monkey

from vsgi_fcgi.server.loop import READ, Loop
from vsgi_fcgi.server.native import SimpleQueue, start_thread

_STOPPING = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Handles signals for as long as the server runs.

    Python's own handlers, and not the loop's watchers, which a busy app was seen to delay by
    more than a second. The deadline is kept by a thread of its own for the same reason: it holds
    even if the app never gives the loop its turn.

    A handler runs between any two instructions of the main context, so it must take no lock; it
    only puts a note into a queue that is made for that, and wakes the loop.

    Args:
        loop: the main context's loop.
        grace: seconds between the first signal and ``on_deadline``.
        on_stop: called in the main context after the first signal, with the signal's name.
        on_deadline: called in a native thread when the grace is over or a second signal came,
            with a sentence that says which; it is to end the process.
    """

    def __init__(
        self,
        loop: Loop,
        grace: float,
        on_stop: Callable[[str], object],
        on_deadline: Callable[[str], object],
    ) -> None:
        self._loop = loop
        self._grace = grace
        self._on_stop = on_stop
        self._on_deadline = on_deadline
        self._notes: SimpleQueue[int | None] = SimpleQueue()
        self._first: int | None = None
        self._before: list[tuple[signal.Signals, Any]] = []

    def install(self) -> None:
        """Take the signals over. In the process's main thread."""
        self._async = self._loop.async_()
        self._async.start(self._stop)
        # Whichever thread a signal is delivered to, the byte that Python writes here makes the
        # loop's thread run Python code, and with it the handler.
        pair = monkey.get_original("socket", "socketpair")
        self._receiving, self._sending = pair()
        for end in (self._receiving, self._sending):
            end.setblocking(False)
        self._watcher = self._loop.io(self._receiving.fileno(), READ)
        self._watcher.start(self._on_byte)
        self._wakeup_before = signal.set_wakeup_fd(
            self._sending.fileno(), warn_on_full_buffer=False
        )
        for number in _STOPPING:
            self._before.append((number, signal.signal(number, self._handle)))
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        try:
            start_thread(self._keep_deadline, "vsgi-fcgi-deadline")
        except RuntimeError:
            # This host allows no more threads: the loop has to keep the time.
            self._deadline_timer = self._loop.timer(self._grace)
            self._without_thread = True
        else:
            self._without_thread = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._first is None:
            self._first = number
        elif self._without_thread:
            self._on_deadline(_second(number))
        self._notes.put(number)
        self._async.send()

    def _on_byte(self) -> None:
        try:
            self._receiving.recv(4096)
        except OSError:
            return

    def _stop(self) -> None:
        if self._first is not None and self._before:
            name = signal.Signals(self._first).name
            if self._without_thread:
                self._deadline_timer.start(lambda: self._on_deadline(self._too_late()))
            self._on_stop(name)

    def _keep_deadline(self) -> None:
        if self._notes.get() is None:
            return
        try:
            number = self._notes.get(timeout=self._grace)
        except Empty:
            self._on_deadline(self._too_late())
            return
        if number is not None:
            self._on_deadline(_second(number))

    def _too_late(self) -> str:
        return f"the graceful timeout of {self._grace:g} seconds is over"

    def restore(self) -> None:
        """Give the signals back: the server has stopped, and there is no deadline any more."""
        self._notes.put(None)
        if self._first is None:
            self._notes.put(None)
        for number, handler in self._before:
            signal.signal(number, handler)
        self._before.clear()
        signal.set_wakeup_fd(self._wakeup_before)
        for watcher in (self._async, self._watcher):
            watcher.stop()
            watcher.close()
        self._receiving.close()
        self._sending.close()


def _second(number: int) -> str:
    return f"a second signal came ({signal.Signals(number).name})"
