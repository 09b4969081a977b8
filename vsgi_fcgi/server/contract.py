"""Which context may call what: written at the methods, checked in tests, free otherwise.

There are two kinds of context: the main context (the native thread that runs the hub) and
workers. A method of an object that both can reach says whose it is. With
``VSGI_FCGI_CHECK_CONTRACT=1`` in the environment every such call is checked; without it the
marks return the function as it is.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from gevent import getcurrent

from vsgi_fcgi.native import get_ident

P = ParamSpec("P")
T = TypeVar("T")

CHECKED = os.environ.get("VSGI_FCGI_CHECK_CONTRACT") == "1"

main_threads: set[int] = set()
_workers: set[tuple[int, int]] = set()


class ContractBroken(AssertionError):
    """A method was called in a context that may not call it: a bug in this package."""


def _here() -> tuple[int, int]:
    return get_ident(), id(getcurrent())


def enter_worker() -> None:
    """Say that the current thread, or greenlet of the main context, is a worker from here on."""
    if CHECKED:
        _workers.add(_here())


def leave_worker() -> None:
    """Say that the current worker has ended."""
    if CHECKED:
        _workers.discard(_here())


def main_only(function: Callable[P, T]) -> Callable[P, T]:
    """Mark a method that only the main context may call, and no worker inside it."""
    if not CHECKED:
        return function

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        if get_ident() not in main_threads or _here() in _workers:
            raise ContractBroken(f"{function.__qualname__} is for the main context alone")
        return function(*args, **kwargs)

    return checked


def worker_only(function: Callable[P, T]) -> Callable[P, T]:
    """Mark a method that only a worker may call."""
    if not CHECKED:
        return function

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        if _here() not in _workers:
            raise ContractBroken(f"{function.__qualname__} is for workers alone")
        return function(*args, **kwargs)

    return checked
