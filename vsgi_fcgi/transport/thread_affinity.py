"""Marks for methods that only the main context, or only a worker, may call.

There are two kinds of context: the main context (the native thread that runs the hub) and
workers. If both can reach an object, its methods carry a mark. With
``VSGI_FCGI_CHECK_CONTRACT=1`` in the environment, as in the tests, every call is checked. Without
it the marks return the function unchanged and cost nothing. In compiled modules, where a decorator
makes calls slow, ``hatch_build.py`` turns them into a test of a constant in the method.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from gevent import getcurrent

from vsgi_fcgi.transport.unpatched import get_ident

P = ParamSpec("P")
T = TypeVar("T")

CHECKED = os.environ.get("VSGI_FCGI_CHECK_CONTRACT") == "1"

main_threads: set[int] = set()
_workers: set[tuple[int, int]] = set()


class ContractBroken(AssertionError):
    """A method was called in the wrong context; this is a bug in this package."""


def _here() -> tuple[int, int]:
    return get_ident(), id(getcurrent())


def enter_worker() -> None:
    """Register the current thread, or greenlet of the main context, as a worker."""
    if CHECKED:
        _workers.add(_here())


def leave_worker() -> None:
    """Unregister the current worker."""
    if CHECKED:
        _workers.discard(_here())


def check_main(name: str) -> bool:
    """Check that the caller is the main context, and no worker in its thread.

    Args:
        name: the called method, for the message.

    Returns:
        True.

    Raises:
        ContractBroken: the caller is not the main context.
    """
    if get_ident() not in main_threads or _here() in _workers:
        raise ContractBroken(f"{name} is for the main context alone")
    return True


def check_worker(name: str) -> bool:
    """Check that the caller is a worker; otherwise like `check_main`."""
    if _here() not in _workers:
        raise ContractBroken(f"{name} is for workers alone")
    return True


def main_only(function: Callable[P, T]) -> Callable[P, T]:
    """Mark a method that only the main context may call, and no worker in its thread."""
    if not CHECKED:
        return function

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        check_main(function.__qualname__)
        return function(*args, **kwargs)

    return checked


def worker_only(function: Callable[P, T]) -> Callable[P, T]:
    """Mark a method that only a worker may call."""
    if not CHECKED:
        return function

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        check_worker(function.__qualname__)
        return function(*args, **kwargs)

    return checked
