"""SIGTERM, SIGINT and SIGUSR1: the first stops gracefully, a second one later on at once."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from gevent import monkey

from vsgi_fcgi.loop import READ, Loop, Watcher
from vsgi_fcgi.native import start_thread

_STOPPING = (signal.SIGTERM, signal.SIGINT)

_IF_FREE = signal.SIGUSR1
"""Stops too, unless the app wants it: multiwatch sends it, and programs with libfcgi know it."""

_ONE_STOP = {signal.SIGINT: 0.5, signal.SIGTERM: 1.5, signal.SIGUSR1: 1.5}
"""Seconds after the first signal in which this one is the same stop once more.

A Ctrl-C goes to every process in the foreground, and a web server that it ends sends us SIGTERM
on top of it: lighttpd looks once a second whether it is to end. That is nobody's wish to lose
what runs. Who presses Ctrl-C again is to be heard sooner.
"""

# Of the C module: a thread of ours waits for it, and an app may patch the other one.
_socketpair: Any = monkey.get_original("_socket", "socketpair")

_Note = tuple[int, float]
"""A signal, and when it was noticed on the monotonic clock, in seconds."""


class Signals:
    """Handles signals for as long as the server runs.

    Python's own handlers, and not the loop's watchers, which a busy app was seen to delay by
    more than a second. The deadline is kept by a thread of its own for the same reason: it holds
    even if the app never gives the loop its turn.

    That thread hears of a signal before the handler does, which runs between two instructions of
    the main context: one that comes while an app is about to wait in the kernel, or that another
    thread gets, may be handled only when the app is back. A handler must take no lock.

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
        self._first: _Note | None = None
        self._begun = False
        self._before: list[tuple[signal.Signals, Any]] = []

    def install(self) -> None:
        """Take the signals over. In the process's main thread."""
        self._async = self._loop.async_()
        self._async.start(self._stop)
        # What Python writes here, it writes at once, whichever thread a signal is delivered to. The
        # handler comes later: an app that waits in the kernel may keep it from running.
        self._receiving, self._sending = _socketpair()
        self._sending.setblocking(False)
        self._wakeup = self._sending.fileno()
        self._wakeup_before = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        for number in (*_STOPPING, _IF_FREE) if _is_free(_IF_FREE) else _STOPPING:
            self._before.append((number, signal.signal(number, self._handle)))
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self._watcher: Watcher | None = None
        try:
            start_thread(self._keep_deadline, "vsgi-fcgi-deadline")
        except RuntimeError:
            # This host allows no more threads: the loop has to keep the time.
            self._receiving.setblocking(False)
            self._deadline_timer = self._loop.timer(self._grace)
            self._watcher = self._loop.io(self._receiving.fileno(), READ)
            self._watcher.start(self._on_byte)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        note = number, time.monotonic()
        if self._first is None:
            self._first = note
        elif self._watcher is not None and _is_another(note, self._first):
            self._on_deadline(_second(number))
        found = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        if found != self._wakeup:
            # An app has taken it for itself (asyncio does), and got the byte.
            signal.set_wakeup_fd(found)
            with contextlib.suppress(BlockingIOError):
                self._sending.send(bytes((number,)))
        self._async.send()

    def _on_byte(self) -> None:
        try:
            self._receiving.recv(4096)
        except OSError:
            return

    def _stop(self) -> None:
        if self._first is not None and self._before and not self._begun:
            self._begun = True
            name = signal.Signals(self._first[0]).name
            if self._watcher is not None:
                self._deadline_timer.start(lambda: self._on_deadline(self._too_late()))
            self._on_stop(name)

    def _keep_deadline(self) -> None:
        """Hear of signals, have the loop run their handler, and end the process in time."""
        try:
            self._wait_for_end()
        finally:
            self._receiving.close()

    def _wait_for_end(self) -> None:
        first: _Note | None = None
        while True:
            if first is not None:
                left = first[1] + self._grace - time.monotonic()
                if left <= 0:
                    self._on_deadline(self._too_late())
                    return
                self._receiving.settimeout(left)
            try:
                numbers = self._receiving.recv(64)
            except TimeoutError:
                continue
            if not numbers:
                return
            if self._before:
                # So that the main context runs the handler, if it is not busy.
                self._async.send()
            for number in numbers:
                note = number, time.monotonic()
                if not self._is_ours(number):
                    continue
                if first is None:
                    first = note
                elif _is_another(note, first):
                    self._on_deadline(_second(number))
                    return

    def _is_ours(self, number: int) -> bool:
        """Whether a signal stops; the app may handle `_IF_FREE` as late as in a request."""
        if number == _IF_FREE:
            return signal.getsignal(number) == self._handle
        return number in _STOPPING

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
        for number, handler in self._before:
            signal.signal(number, self._handle_late if process_ends else handler)
        self._before.clear()
        signal.set_wakeup_fd(self._wakeup_before)
        # Its end is what the thread waits for.
        self._sending.close()
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._receiving.close()
        self._async.stop()
        self._async.close()


def _is_free(number: signal.Signals) -> bool:
    """Whether a signal would just end the process.

    Python does not know of handlers in C, as faulthandler has them; the kernel does.
    """
    if signal.getsignal(number) is not signal.SIG_DFL:
        return False
    try:
        with open("/proc/self/status", "rb") as file:
            caught = re.search(rb"^SigCgt:\s*([0-9a-f]+)$", file.read(), re.MULTILINE)
    except OSError:
        return False
    return caught is not None and not int(caught[1], 16) >> (number - 1) & 1


def _is_another(note: _Note, first: _Note) -> bool:
    """Whether a signal asks for more than the first one did."""
    return note[1] - first[1] >= _ONE_STOP[signal.Signals(note[0])]


def _second(number: int) -> str:
    return f"a second signal came ({signal.Signals(number).name})"
