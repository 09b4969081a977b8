"""Signals that come before the server runs. They stop the process, and its files are removed."""

from __future__ import annotations

import _socket  # never monkey-patched; the app is imported while this waits
import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

from vsgi_fcgi.children import give_up_in_children, silence
from vsgi_fcgi.native_threads import get_ident, start_new_thread

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)

IF_FREE: Final = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""Signals that are also handled, unless the app handles them or nohup ignores SIGHUP.

SIGHUP comes from a terminal that is closed. SIGUSR1 reopens the log files. multiwatch uses it to
stop its children. SIGUSR2 writes recordings. Before the server runs, there are none.
"""

_ONE_STOP = {signal.SIGINT: 0.5, signal.SIGTERM: 1.5, signal.SIGUSR1: 1.5, signal.SIGHUP: 1.5}
"""Seconds after the first signal for which another signal belongs to the same stop.

A Ctrl-C goes to every process in the foreground. A web server that it ends sends SIGTERM to this
process too. lighttpd does that up to a second later. Such a signal must not cut off running
requests. A second Ctrl-C takes effect sooner.
"""

_REPEAT_AFTER: Final = 0.2
"""Seconds after which a signal is sent to the main thread again, if its handler has not run.

A signal may come just before the main thread enters a system call, or in another thread. Then
nothing interrupts the call, and the handler would run when it returns: perhaps never.
"""

Note = tuple[int, float]
"""A signal, and when it was noticed on the monotonic clock, in seconds."""

Handler = Callable[[int, FrameType | None], object]


class Stopped(KeyboardInterrupt):
    """Ends the import of the app when a signal comes.

    A KeyboardInterrupt, because code that catches Exception or SystemExit lets it pass.

    Attributes:
        number: the signal.
        status: the exit status for it: 130 for Ctrl-C, as a shell has it, else 0. To systemd a
            status of 143 would be a failure, after which ``Restart=on-failure`` starts again.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.status = 130 if number == signal.SIGINT else 0


class EarlySignals:
    """Handles signals from before the sockets are opened until the server does.

    The first signal that stops raises `Stopped` in the main thread. A thread ends the process if
    that does not help in time: the import may be waiting in C code, which runs no handler.

    The server does not install handlers again for the signals that are handled here: it has them
    passed on. Code in C such as ``faulthandler.register`` replaces a handler without Python's
    knowledge, and so it keeps what it has taken.

    Args:
        grace: seconds from the first signal until the process is ended.

    Attributes:
        at_exit: functions that remove files before the process is ended.
    """

    def __init__(self, grace: float) -> None:
        self.at_exit: list[Callable[[], object]] = []
        self._grace = grace
        self._first: Note | None = None
        self._came: list[int] = []
        self._target: Handler | None = None
        self._before: dict[int, Any] = {}
        self._usr1_stops = under_multiwatch()
        self._sending: _socket.socket | None = None
        self._holding = False

    @staticmethod
    def installed() -> EarlySignals | None:
        """Return the object that handles signals now, if there is one."""
        for number in (*STOPPING, *IF_FREE):
            owner = getattr(signal.getsignal(number), "__self__", None)
            if isinstance(owner, EarlySignals):
                return owner
        return None

    def install(self) -> None:
        """Install the handlers in the main thread. In other threads, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._main = get_ident()
        self._sending, receiving = _socket.socketpair()
        self._sending.setblocking(False)
        for number in (*STOPPING, *filter(is_free, IF_FREE)):
            self._before[number] = signal.signal(number, self._handle)
        self._wakeup = self._sending.fileno()
        self._wakeup_before = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        self._receiving = receiving.fileno()
        give_up_in_children(self)
        # Not by `threading`: an app cannot monkey-patch it any more after it has started a thread.
        # On a host that allows no more threads, there is no deadline.
        with contextlib.suppress(RuntimeError):
            start_new_thread(self._keep_deadline, (receiving,))

    def handles(self, number: int) -> bool:
        """Return whether Python calls this object for a signal."""
        return signal.getsignal(number) == self._handle

    def hand_over(self, target: Handler | None) -> list[int]:
        """Pass signals on from now on.

        Args:
            target: the function that handles them; None to handle them here again.

        Returns:
            The signals that have come already. One that stops is among them if the app has
            caught what was raised for it.
        """
        self._target = target
        self._end_thread()
        came, self._came = self._came, []
        return came

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Raise `Stopped` only after a block: otherwise a file that it has just made would stay."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._first is not None:
            raise Stopped(self._first[0])

    def close(self) -> None:
        """Restore the handlers, unless a signal came and the process is about to end."""
        self._end_thread()
        if self._first is None and self._target is None:
            for number, handler in self._before.items():
                if self.handles(number):
                    signal.signal(number, handler)

    def forked(self) -> None:
        """Restore the handlers in a child process of the app."""
        self._target = self._in_child
        for number in STOPPING:
            if self.handles(number):
                signal.signal(number, self._before[number])
        if self._sending is not None:
            signal.set_wakeup_fd(-1)
            silence(self._wakeup)
            silence(self._receiving)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._target is not None:
            self._target(number, frame)
            return
        if not stops(number, self._usr1_stops):
            if number == signal.SIGUSR1 and number not in self._came:
                self._came.append(number)
            return
        note = number, time.monotonic()
        if self._first is None:
            self._first = note
            self._came.append(number)
            if not self._holding:
                raise Stopped(number)
            return
        if is_another(note, self._first):
            self._leave()

    def _in_child(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, self._before[number])
        os.kill(os.getpid(), number)

    def _keep_deadline(self, receiving: _socket.socket) -> None:
        """End the process if it has not ended some time after the first signal."""
        first: Note | None = None
        repeated = False
        while True:
            if first is not None:
                left = first[1] + self._grace - time.monotonic()
                if left <= 0:
                    break
                receiving.settimeout(left if repeated else min(left, _REPEAT_AFTER))
            try:
                numbers = receiving.recv(64)
            except TimeoutError:
                # Once: a signal that comes much later would end the process at once.
                if first is not None and not repeated:
                    repeated = True
                    if self._first is None and self._stops(first[0]):
                        signal.pthread_kill(self._main, first[0])
                continue
            if not numbers:
                receiving.close()
                return
            notes = [(number, time.monotonic()) for number in numbers if self._stops(number)]
            if first is None and notes:
                first = notes[0]
            if first is not None and any(is_another(note, first) for note in notes):
                break
        self._leave()

    def _stops(self, number: int) -> bool:
        return stops(number, self._usr1_stops) and number in self._before and self.handles(number)

    def _leave(self) -> None:
        try:
            for clean_up in self.at_exit:
                clean_up()
        finally:
            os._exit(1)

    def _end_thread(self) -> None:
        sending, self._sending = self._sending, None
        if sending is not None:
            found = signal.set_wakeup_fd(self._wakeup_before)
            if found != self._wakeup:
                # The app's, such as that of an event loop which runs in this thread.
                signal.set_wakeup_fd(found)
            # The thread waits for this end.
            sending.close()


def is_free(number: signal.Signals) -> bool:
    """Return whether a signal would just end the process.

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


def stops(number: int, usr1_stops: bool) -> bool:
    """Return whether a signal that is handled stops the process.

    Args:
        number: the signal.
        usr1_stops: whether SIGUSR1 does; see `under_multiwatch`.
    """
    return number != signal.SIGUSR2 and (number != signal.SIGUSR1 or usr1_stops)


def is_another(note: Note, first: Note) -> bool:
    """Return whether a signal asks for more than the first one did."""
    return note[1] - first[1] >= _ONE_STOP[signal.Signals(note[0])]


def under_multiwatch() -> bool:
    """Return whether multiwatch has started this process.

    Versions 1.0.0 and 1.0.1 send SIGUSR1 to stop their children, whichever signal they got.
    """
    try:
        with open(f"/proc/{os.getppid()}/comm", "rb") as file:
            return file.read() == b"multiwatch\n"
    except OSError:
        return False
