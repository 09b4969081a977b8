"""Signals: the first SIGTERM, SIGINT or SIGHUP stops gracefully, a second one immediately.

SIGUSR1 opens the log files again. SIGUSR2 writes recordings.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from gevent import monkey

from vsgi_fcgi.children import silence
from vsgi_fcgi.server.early_signals import (
    IF_FREE,
    STOPPING,
    EarlySignals,
    Note,
    is_another,
    is_free,
    stops,
    under_multiwatch,
)
from vsgi_fcgi.transport.loop import READ, Loop, Watcher
from vsgi_fcgi.transport.unpatched import start_thread

# From the C module: a native thread waits for it, and an app may patch the module `socket`.
_socketpair: Any = monkey.get_original("_socket", "socketpair")

_FORGET = b"\0"
"""Tells the thread that keeps the deadline to forget a signal; no signal has this number."""


class Signals:
    """Handles signals while the server runs.

    It uses Python's signal handlers and not watchers of the loop, because a busy app delayed those
    by more than a second. For the same reason a separate thread keeps the deadline: it works even
    if the app never lets the loop run.

    This thread learns of a signal before the handler runs. The handler runs between two
    instructions of the main context. If an app waits in the kernel, that may be much later. A
    handler must take no lock.

    Args:
        loop: the loop of the main context.
        grace: seconds between the first signal and ``on_deadline``.
        on_stop: called in the main context after the first signal, with the signal's name.
        on_deadline: called in a native thread when the time is over, or when a second signal came
            that does not belong to the same stop. Its argument is the reason. It must end the
            process.
        on_reopen: called in the main context after SIGUSR1, unless multiwatch has started this
            process. It opens the log files again.
        on_record: called in the main context after SIGUSR2.
    """

    def __init__(
        self,
        loop: Loop,
        grace: float,
        on_stop: Callable[[str], object],
        on_deadline: Callable[[str], object],
        on_reopen: Callable[[], object],
        on_record: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._grace = grace
        self._on_stop = on_stop
        self._on_deadline = on_deadline
        self._on_reopen = on_reopen
        self._usr1_stops = under_multiwatch()
        self._on_record = on_record
        self._reopening = False
        self._recording = False
        self._early: EarlySignals | None = None
        self._first: Note | None = None
        self._begun = False
        self._before: list[tuple[signal.Signals, Any]] = []
        self._installed = False
        self._watcher: Watcher | None = None
        self._wakeup_before: int | None = None
        self._async = loop.async_()
        # Python writes to this socket immediately, in whichever thread a signal is delivered. The
        # handler runs later, because an app that waits in the kernel delays it.
        self._receiving, self._sending = _socketpair()
        self._sending.setblocking(False)
        self._wakeup = self._sending.fileno()

    def install(self) -> None:
        """Install the handlers, in the main thread of the process.

        A signal may raise an exception before they are installed. Call `restore` then, too.
        """
        self._async.start(self._take)
        self._installed = True
        came: list[int] = []
        early = self._early = EarlySignals.installed()
        if early is not None:
            came = early.hand_over(self._handle)
        self._wakeup_before = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        for number in (*STOPPING, *IF_FREE):
            if early is not None and early.handles(number):
                continue
            if number in STOPPING or is_free(number):
                self._before.append((number, signal.signal(number, self._handle)))
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        try:
            start_thread(self._keep_deadline, "vsgi-fcgi-deadline")
        except RuntimeError:
            # This host allows no more threads, so the loop keeps the deadline.
            self._receiving.setblocking(False)
            self._deadline_timer = self._loop.timer(self._grace)
            self._watcher = self._loop.io(self._receiving.fileno(), READ)
            self._watcher.start(self._on_byte)
        for early_one in came:
            self._handle(early_one, None)
            # Python has not written to the socket for this signal.
            self._sending.send(bytes((early_one,)))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        note = number, time.monotonic()
        if number == signal.SIGUSR2:
            self._recording = True
        elif not self._stops(number):
            self._reopening = True
        elif self._first is None:
            self._first = note
        elif self._watcher is not None and is_another(note, self._first):
            self._on_deadline(_second(number))
        found = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        if found != self._wakeup:
            # An app has installed its own descriptor (asyncio does), which got the byte.
            signal.set_wakeup_fd(found)
            with contextlib.suppress(BlockingIOError):
                self._sending.send(bytes((number,)))
        self._async.send()

    def _on_byte(self) -> None:
        try:
            self._receiving.recv(4096)
        except OSError:
            return

    def _take(self) -> None:
        if self._reopening:
            self._reopening = False
            self._on_reopen()
        if self._recording:
            self._recording = False
            self._on_record()
        if self._first is not None and self._installed and not self._begun:
            self._begun = True
            name = signal.Signals(self._first[0]).name
            if self._watcher is not None:
                self._deadline_timer.start(lambda: self._on_deadline(self._too_late()))
            self._on_stop(name)

    def _keep_deadline(self) -> None:
        """Wait for signals, make the loop run their handlers, and keep the deadline."""
        try:
            self._wait_for_end()
        finally:
            self._receiving.close()

    def _wait_for_end(self) -> None:
        first: Note | None = None
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
            if self._installed:
                # This makes the main context run the handler, if it is not busy.
                self._async.send()
            for number in numbers:
                note = number, time.monotonic()
                if number == _FORGET[0]:
                    first = None
                    self._receiving.settimeout(None)
                if not self._is_ours(number):
                    continue
                if first is None:
                    first = note
                elif is_another(note, first):
                    self._on_deadline(_second(number))
                    return

    def _is_ours(self, number: int) -> bool:
        """Return whether a signal stops the server. An app may handle `IF_FREE` at any time."""
        if not self._stops(number):
            return False
        if number in IF_FREE:
            return signal.getsignal(number) == self._handle or (
                self._early is not None and self._early.handles(number)
            )
        return number in STOPPING

    def _stops(self, number: int) -> bool:
        return stops(number, self._usr1_stops)

    def forget(self) -> None:
        """Forget the signal and its deadline, because another process will replace this one."""
        self._first = None
        self._begun = False
        if self._watcher is not None:
            self._deadline_timer.stop()
        else:
            with contextlib.suppress(BlockingIOError):
                self._sending.send(_FORGET)

    def left(self) -> float:
        """Return the seconds that are left of the graceful timeout; 0 if no signal came."""
        if self._first is None:
            return 0.0
        return self._first[1] + self._grace - time.monotonic()

    def _too_late(self) -> str:
        return f"the graceful timeout of {self._grace:g} seconds is over"

    def _handle_late(self, number: int, frame: FrameType | None) -> None:
        if not self._stops(number):
            return
        if self._first is None or is_another((number, time.monotonic()), self._first):
            os._exit(1)

    def forked(self, *, stop: bool) -> None:
        """Restore the handlers in a child, which shares the socket with the parent's thread.

        Args:
            stop: whether the loop may continue in this process.
        """
        if stop and self._watcher is not None:
            self._watcher.stop()
        signal.set_wakeup_fd(-1)
        for number, handler in self._before:
            signal.signal(number, handler)
        self._installed = False
        silence(self._sending.fileno())
        silence(self._receiving.fileno())

    def restore(self, process_ends: bool) -> None:
        """Restore the handlers after the server has stopped. The deadline does not apply any more.

        Args:
            process_ends: the process only has to end. Another signal of the same stop, as in
                `_ONE_STOP`, may still come. It must not kill the process before files are written
                and removed.
        """
        if self._early is not None:
            self._early.hand_over(self._handle_late if process_ends else None)
        for number, handler in self._before:
            signal.signal(number, self._handle_late if process_ends else handler)
        self._installed = False
        if self._wakeup_before is not None:
            signal.set_wakeup_fd(self._wakeup_before)
        # The thread waits for this end.
        self._sending.close()
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._receiving.close()
        self._async.stop()
        self._async.close()


def _second(number: int) -> str:
    return f"a second signal came ({signal.Signals(number).name})"
