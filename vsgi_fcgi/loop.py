"""What the server uses of gevent's event loop, typed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

READ: Final = 1
WRITE: Final = 2
"""What an io watcher watches for, in libev's numbers."""


class Watcher(Protocol):
    """A watcher calls back when something happens; `stop` and `close` end that."""

    def start(self, callback: Callable[[], object]) -> None:
        """Watch, and call ``callback`` in the loop's thread."""

    def stop(self) -> None:
        """Watch no longer."""

    def close(self) -> None:
        """Free what it takes."""


class TimerWatcher(Watcher, Protocol):
    """Calls back after some time, and again each time that its repeat interval has passed.

    Started a second time with `start`, libev's timers have no time left and call back at once.
    """

    def again(self, callback: Callable[[], object], *, update: bool | None = None) -> None:
        """Start, or start over, with the whole repeat interval.

        Args:
            callback: what is called.
            update: count from the present time, and not from the loop's `now`.
        """


class AsyncWatcher(Watcher, Protocol):
    """Calls back when another thread says so."""

    def send(self) -> None:
        """Wake the loop; the one method that any thread may call."""


class Loop(Protocol):
    """An event loop."""

    def io(self, fd: int, events: int) -> Watcher:
        """Watch a descriptor, for `READ` or for `WRITE`."""

    def timer(self, after: float, repeat: float = 0.0) -> TimerWatcher:
        """Watch the clock: seconds until the first call, seconds between the further ones."""

    def async_(self) -> AsyncWatcher:
        """Be woken by other threads."""

    def run_callback(self, callback: Callable[..., object], *args: Any) -> object:
        """Call back at the end of the loop's current round."""

    def now(self) -> float:
        """The time at which the current round began, in seconds."""
