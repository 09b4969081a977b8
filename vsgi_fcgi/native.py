"""The primitives of native threads, whether or not an app has monkey-patched their modules.

A lock that gevent has patched switches greenlets instead of blocking the thread: in a worker or
in a log writer that would be wrong, in a watcher's callback it is an error. Taken the way that
gevent takes its own. The library itself never patches anything.
"""

from __future__ import annotations

from _queue import SimpleQueue
from collections.abc import Callable
from threading import Thread
from typing import Any, Protocol

from gevent import monkey


class Lock(Protocol):
    """What a native lock can do."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock; with a timeout in seconds, say whether it was taken."""

    def release(self) -> None:
        """Free the lock, from any thread."""

    def __enter__(self) -> bool: ...

    def __exit__(self, *exc: object) -> None: ...


allocate_lock: Callable[[], Lock] = monkey.get_original("_thread", "allocate_lock")
get_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")
Socket: Any = monkey.get_original("_socket", "socket")
"""The C class without Python's wrapper around it: it is made for every connection."""
_start_new_thread: Callable[[Callable[[], object], tuple[()]], int] = monkey.get_original(
    "_thread", "start_new_thread"
)


def start_thread(target: Callable[[], object], name: str) -> None:
    """Start a native thread that does not keep the process alive.

    Where `threading` is as Python ships it, the thread has a name for debuggers and logs.

    Raises:
        RuntimeError: the system allows no more threads.
    """
    if monkey.is_module_patched("threading"):
        _start_new_thread(target, ())
    else:
        Thread(target=target, name=name, daemon=True).start()


__all__ = ["Lock", "SimpleQueue", "Socket", "allocate_lock", "get_ident", "start_thread"]
