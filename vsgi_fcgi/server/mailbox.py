"""The queue of calls from native threads to the main context, and latches for waiting.

Everything that a worker wants from the main context is a call in this queue: take these pieces of a
response, the request has ended, run this function of the app. The main context makes all calls that
wait in one go, once per round of the loop or when it is woken. A worker wakes it at most once for
any number of calls, because waking costs a system call and perhaps a thread switch. A worker that
knows that it will soon post more does so without waking (`Mailbox.post_quietly`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gevent import get_hub
from greenlet import getcurrent, greenlet

from vsgi_fcgi.transport.loop import Watcher
from vsgi_fcgi.transport.unpatched import allocate_lock

Item = tuple[Callable[[Any], object], Any]


class Mailbox:
    """A queue of calls for the main context.

    A call that `post` accepts is either made, in order, or returned by `close`. It is never lost.
    Therefore posting, waking and closing share one lock: a wake-up after its watcher was closed
    would be lost without an error.

    The queue needs no limit of its own. A worker posts output only within its credit, and every
    other user has at most one call in it.

    Args:
        wake: makes the main context call `drain` soon. Any thread calls it, with the lock held,
            and only if no other wake-up is pending.
        on_error: called with an exception that a call raised; the other calls are made.

    Attributes:
        due: `ring` will be called within a millisecond. It becomes False before that call.
    """

    __slots__ = ("_closed", "_items", "_lock", "_on_error", "_signalled", "_wake", "due")

    def __init__(
        self, wake: Callable[[], object], on_error: Callable[[BaseException], object]
    ) -> None:
        self._lock = allocate_lock()
        self._wake = wake
        self._on_error = on_error
        self._items: list[Item] = []
        self._signalled = False
        self._closed = False
        self.due = False

    def post(self, function: Callable[[Any], object], argument: Any) -> bool:
        """Queue ``function(argument)`` for the main context. Callable from any thread.

        Returns:
            False if the mailbox is closed and the call will not be made.
        """
        with self._lock:
            if self._closed:
                return False
            self._items.append((function, argument))
            if not self._signalled:
                self._signal()
            return True

    def post_soon(self, function: Callable[[Any], object], argument: Any) -> None:
        """Queue a call like `post`, but without a wake-up if `ring` is `due`."""
        with self._lock:
            if not self._closed:
                self._items.append((function, argument))
                if not self._signalled and not self.due:
                    self._signal()

    def post_quietly(self, function: Callable[[Any], object], argument: Any) -> bool:
        """Queue a call like `post`, but without a wake-up. The caller must call `ring` later."""
        with self._lock:
            if not self._closed:
                self._items.append((function, argument))
            return not self._closed

    def ring(self) -> None:
        """Wake the main context for calls that were posted quietly. Callable from any thread."""
        with self._lock:
            if self._items and not self._signalled and not self._closed:
                self._signal()

    def _signal(self) -> None:
        try:
            self._signalled = True
            self._wake()
        except BaseException:
            # An asynchronous exception in a worker's thread. If this stayed True, the main context
            # would never be woken again.
            self._signalled = False
            raise

    def drain(self) -> None:
        """Make all calls that were posted so far, in the main context."""
        with self._lock:
            items = self._items
            self._items = []
            self._signalled = False
        for function, argument in items:
            try:
                function(argument)
            except BaseException as error:
                self._on_error(error)

    def forked(self) -> None:
        """Close the mailbox in a child process. In the parent, another thread may hold the lock."""
        self._lock = allocate_lock()
        self._closed = True
        self._items = []

    def close(self) -> list[Item]:
        """Close the mailbox.

        Returns:
            The accepted calls that were not made.
        """
        with self._lock:
            self._closed = True
            items = self._items
            self._items = []
            return items


# Latches: a worker waits until the main context opens one.


class Latch(Protocol):
    """Blocks a worker until the main context opens it, once."""

    def wait(self, timeout: float | None) -> bool:
        """Wait for at most ``timeout`` seconds; return whether the latch is open."""

    def open(self) -> None:
        """Wake the worker."""


class ThreadLatch:
    """A latch for a native thread."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def wait(self, timeout: float | None) -> bool:
        """Block the thread."""
        return self._lock.acquire(True, -1 if timeout is None else timeout)

    def open(self) -> None:
        """Wake the thread."""
        self._lock.release()


class GreenletLatch:
    """A latch for a greenlet of the main context.

    An app that streams waits for every 256 KiB. `gevent.event.Event` would make a `gevent.Timeout`
    for each wait, with ten further calls.
    """

    __slots__ = ("_greenlet", "_open")

    def __init__(self) -> None:
        self._open = False
        self._greenlet: greenlet | None = None

    def wait(self, timeout: float | None) -> bool:
        """Let the hub run meanwhile."""
        if self._open:
            return True
        hub = get_hub()
        timer: Watcher | None = None
        self._greenlet = getcurrent()
        try:
            if timeout is not None:
                timer = hub.loop.timer(timeout)
                timer.start(self._resume)
            # It returns when `_resume` was called.
            hub.switch()
        finally:
            self._greenlet = None
            if timer is not None:
                timer.stop()
                timer.close()
        return self._open

    def open(self) -> None:
        """Make the hub switch back to the greenlet."""
        if not self._open:
            self._open = True
            if self._greenlet is not None:
                get_hub().loop.run_callback(self._resume)

    def _resume(self) -> None:
        if self._greenlet is not None:
            self._greenlet.switch()
