"""The original primitives of native threads, even if an app has monkey-patched their modules.

A lock that gevent has patched switches greenlets instead of blocking the thread. That would be
wrong in a worker or in a log writer, and it is an error in a watcher's callback. The originals come
from gevent, which keeps them for itself. This package never patches anything.
"""

from __future__ import annotations

import select
import threading
from _queue import SimpleQueue
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any, Protocol

from gevent import monkey


class Lock(Protocol):
    """The methods of a native lock."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire the lock, and return whether it was acquired within the timeout in seconds."""

    def release(self) -> None:
        """Release the lock, from any thread."""

    def __enter__(self) -> bool: ...

    def __exit__(self, *exc: object) -> None: ...


allocate_lock: Callable[[], Lock] = monkey.get_original("_thread", "allocate_lock")
RLock: Any = monkey.get_original("_thread", "RLock")
get_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")
Socket: Any = monkey.get_original("_socket", "socket")
"""The class in C without Python's wrapper, because it is created for every connection."""
poll: Any = monkey.get_original("select", "poll") if hasattr(select, "poll") else None
"""None if eventlet has removed it. Then `check_patching` raises an error."""
_start_new_thread: Callable[[Callable[[], object], tuple[()]], int] = monkey.get_original(
    "_thread", "start_new_thread"
)


def start_thread(target: Callable[[], object], name: str) -> None:
    """Start a native thread that does not keep the process alive.

    If `threading` is not patched, the thread has a name for debuggers and logs.

    Raises:
        RuntimeError: the system allows no more threads.
    """
    # Any patch counts: a thread that eventlet starts is a greenlet of the current thread.
    starts = getattr(threading, "_start_joinable_thread", None) or threading._start_new_thread  # type: ignore[attr-defined]
    if isinstance(starts, BuiltinFunctionType) and starts.__module__ == "_thread":
        threading.Thread(target=target, name=name, daemon=True).start()
    else:
        _start_new_thread(target, ())


__all__ = [
    "Lock",
    "RLock",
    "SimpleQueue",
    "Socket",
    "allocate_lock",
    "get_ident",
    "poll",
    "start_thread",
]
