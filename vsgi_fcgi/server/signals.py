"""SIGTERM and SIGINT: the first stops gracefully, a second one later on at once."""

from __future__ import annotations

import os
import signal
import time
from _queue import Empty
from collections.abc import Callable
from types import FrameType
from typing import Any

from gevent import monkey

from vsgi_fcgi.loop import READ, Loop
from vsgi_fcgi.native import SimpleQueue, start_thread

_STOPPING = (signal.SIGTERM, signal.SIGINT)

_ONE_STOP = {signal.SIGINT: 0.5, signal.SIGTERM: 1.5}
"""Seconds after the first signal in which this one is the same stop once more.

A Ctrl-C goes to every process in the foreground, and a web server that it ends sends us SIGTERM
on top of it: lighttpd looks once a second whether it is to end. That is nobody's wish to lose
what runs. Who presses Ctrl-C again is to be heard sooner.
"""

_Note = tuple[int, float]
"""A signal, and when it was handled on the monotonic clock, in seconds."""


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
        on_deadline: called in a native thread when the grace is over or a second signal came
            that is not the first once more, with a sentence that says which; it is to end the
            process.
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
        self._notes: SimpleQueue[_Note | None] = SimpleQueue()
        self._first: _Note | None = None
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
        note = number, time.monotonic()
        if self._first is None:
            self._first = note
        elif self._without_thread and _is_another(note, self._first):
            self._on_deadline(_second(number))
        self._notes.put(note)
        self._async.send()

    def _on_byte(self) -> None:
        try:
            self._receiving.recv(4096)
        except OSError:
            return

    def _stop(self) -> None:
        if self._first is not None and self._before:
            name = signal.Signals(self._first[0]).name
            if self._without_thread:
                self._deadline_timer.start(lambda: self._on_deadline(self._too_late()))
            self._on_stop(name)

    def _keep_deadline(self) -> None:
        first = self._notes.get()
        if first is None:
            return
        deadline = first[1] + self._grace
        while True:
            try:
                note = self._notes.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                self._on_deadline(self._too_late())
                return
            if note is None:
                return
            if _is_another(note, first):
                self._on_deadline(_second(note[0]))
                return

    def _too_late(self) -> str:
        return f"the graceful timeout of {self._grace:g} seconds is over"

    def _handle_late(self, number: int, frame: FrameType | None) -> None:
        if self._first is None or _is_another((number, time.monotonic()), self._first):
            os._exit(1)

    def restore(self, process_ends: bool) -> None:
        """Give the signals back: the server has stopped, and there is no deadline any more.

        Args:
            process_ends: the process has nothing to do any more but to end. The same stop once
                more, as `_ONE_STOP` has it, may come as late as now; it must not kill the
                process ahead of what is still to be written and removed.
        """
        self._notes.put(None)
        if self._first is None:
            self._notes.put(None)
        for number, handler in self._before:
            signal.signal(number, self._handle_late if process_ends else handler)
        self._before.clear()
        signal.set_wakeup_fd(self._wakeup_before)
        for watcher in (self._async, self._watcher):
            watcher.stop()
            watcher.close()
        self._receiving.close()
        self._sending.close()


def _is_another(note: _Note, first: _Note) -> bool:
    """Whether a signal asks for more than the first one did."""
    return note[1] - first[1] >= _ONE_STOP[signal.Signals(note[0])]


def _second(number: int) -> str:
    return f"a second signal came ({signal.Signals(number).name})"
