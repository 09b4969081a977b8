"""The one way up: from workers and other native threads into the main context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vsgi_fcgi.native import allocate_lock

Item = tuple[Callable[[Any], object], Any]


class Mailbox:
    """A queue of calls that the main context is to make.

    What `post` accepted is either called, in order, or handed back by `close`: never lost. That
    is why posting, waking and closing share one lock: a wake-up sent after the close of its
    watcher would be lost without a sound.

    It needs no bound of its own: a worker posts output only within its credit, and each other
    user has at most one call on its way.

    Args:
        wake: makes the main context call `drain` soon; called with the lock held, by any
            thread, and only when no wake-up is on its way.
        on_error: told of an exception that a call raised; the other calls go on.
    """

    __slots__ = ("_closed", "_items", "_lock", "_on_error", "_signalled", "_wake")

    def __init__(
        self, wake: Callable[[], object], on_error: Callable[[BaseException], object]
    ) -> None:
        self._lock = allocate_lock()
        self._wake = wake
        self._on_error = on_error
        self._items: list[Item] = []
        self._signalled = False
        self._closed = False

    def post(self, function: Callable[[Any], object], argument: Any) -> bool:
        """Have ``function(argument)`` called in the main context. From any thread.

        Returns:
            False if the mailbox is closed; the call will not be made.
        """
        with self._lock:
            if self._closed:
                return False
            self._items.append((function, argument))
            if not self._signalled:
                self._signalled = True
                self._wake()
            return True

    def post_quietly(self, function: Callable[[Any], object], argument: Any) -> bool:
        """Like `post`, but leave it to the caller to `ring` when it has nothing more to say."""
        with self._lock:
            if not self._closed:
                self._items.append((function, argument))
            return not self._closed

    def ring(self) -> None:
        """Wake the main context for what was posted quietly. From any thread."""
        with self._lock:
            if self._items and not self._signalled and not self._closed:
                self._signalled = True
                self._wake()

    def drain(self) -> None:
        """Make all calls that were posted so far. In the main context."""
        with self._lock:
            items = self._items
            self._items = []
            self._signalled = False
        for function, argument in items:
            try:
                function(argument)
            except BaseException as error:
                self._on_error(error)

    def close(self) -> list[Item]:
        """Accept nothing more.

        Returns:
            The calls that were accepted and not made.
        """
        with self._lock:
            self._closed = True
            items = self._items
            self._items = []
            return items
