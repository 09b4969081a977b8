"""The event loop of gevent: its methods that this package uses, with their types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import gevent

READ: Final = 1
WRITE: Final = 2
"""The events of an io watcher, with libev's numbers."""


class Watcher(Protocol):
    """Calls back when an event happens, until it is stopped or closed."""

    def start(self, callback: Callable[[], object]) -> None:
        """Start watching. The loop calls ``callback`` in its thread."""

    def stop(self) -> None:
        """Stop watching."""

    def close(self) -> None:
        """Free the watcher."""


class TimerWatcher(Watcher, Protocol):
    """Calls back after some time, and again after each repeat interval.

    A timer of libev that is started a second time with `start` calls back at once.
    """

    def again(self, callback: Callable[[], object], *, update: bool | None = None) -> None:
        """Start or restart the timer with its whole repeat interval.

        Args:
            callback: the function to call.
            update: count from the current time and not from the begin of the loop's round.
        """


class AsyncWatcher(Watcher, Protocol):
    """Calls back when another thread calls `send`."""

    def send(self) -> None:
        """Wake the loop. Any thread may call this method, and only this one."""


class Loop(Protocol):
    """An event loop.

    Its method ``now`` is not here, because libev's time follows the clock of the machine when this
    is set. Timeouts use `time.monotonic`; timers of the loop count on the same clock.
    """

    def io(self, fd: int, events: int) -> Watcher:
        """Return a watcher of a descriptor, for `READ` or `WRITE`."""

    def timer(self, after: float, repeat: float = 0.0, ref: bool = True) -> TimerWatcher:
        """Return a timer.

        Args:
            after: seconds until the first call.
            repeat: seconds between two calls.
            ref: whether the timer keeps the program alive.
        """

    def async_(self) -> AsyncWatcher:
        """Return a watcher with which other threads wake the loop."""

    def run_callback(self, callback: Callable[..., object], *args: Any) -> object:
        """Call a function at the end of the loop's current round."""

    def reinit(self) -> None:
        """Make the loop usable in a child process."""

    def destroy(self) -> object:
        """Free the loop and its descriptors."""


def get_loop() -> Loop:
    """Return the loop of this thread."""
    # A cast, because gevent's type stubs lack a timer's `again`.
    return cast(Loop, gevent.get_hub().loop)
