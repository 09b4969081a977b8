"""How a worker waits until the main context lets it go on."""

from __future__ import annotations

from typing import Protocol

from gevent.event import Event

from vsgi_fcgi.native import allocate_lock


class Gate(Protocol):
    """Closed when made; opened once, by the main context."""

    def wait(self, timeout: float | None) -> bool:
        """Wait until the gate is open, or for ``timeout`` seconds; say whether it is open."""

    def open(self) -> None:
        """Let the worker through."""


class ThreadGate:
    """A gate for a native thread."""

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


class GreenletGate:
    """A gate for a greenlet of the main context."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = Event()

    def wait(self, timeout: float | None) -> bool:
        """Let the hub run."""
        return bool(self._event.wait(timeout))

    def open(self) -> None:
        """Have the hub switch back to the greenlet."""
        self._event.set()
