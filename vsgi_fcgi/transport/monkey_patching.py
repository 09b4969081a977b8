"""Detect monkey patches of threads, sockets and polling."""

from __future__ import annotations

import _thread
import contextlib
import importlib.util
import select
import socket
import sys
import threading
from collections.abc import Iterator
from types import BuiltinFunctionType
from typing import Any

from vsgi_fcgi.exceptions import UsageError

_FUNCTIONS: tuple[tuple[Any, str, str], ...] = (
    (_thread, "_thread", "start_new_thread"),
    (_thread, "_thread", "allocate_lock"),
    (_thread, "_thread", "get_ident"),
    (threading, "_thread", "_start_new_thread"),  # up to Python 3.12
    (threading, "_thread", "_start_joinable_thread"),  # from Python 3.13
    (threading, "_thread", "_allocate_lock"),
    (threading, "_thread", "get_ident"),
    (select, "select", "select"),
    (select, "select", "poll"),
)
"""Functions in C: the module to look at, the module that defines the function, and its name.

The defining module is compared, and not an object that was saved at import: this also finds
patches that were made before this package was imported.
"""

_WAITING = ("threading", "socket", "select", "time", "queue", "ssl", "subprocess")
"""Modules in which a greenlet may wait. If one is not patched, it blocks the process there."""

_FRAMEWORKS = ("django", "flask")
"""Frameworks with commands of their own, which import them before the server."""

_PATCH = "'from gevent import monkey; monkey.patch_all()'"

_DEBUGGERS = ("pydevd", "_pydevd_bundle", "_pydev_bundle")
"""Debuggers replace `start_new_thread` too, but call the original, which is harmless."""


def check_patching(worker: str) -> None:
    """Check that no monkey patch breaks the server.

    Patched locks switch greenlets instead of blocking a thread; the server froze and requests hung
    when this was tried. A patched socket belongs to the thread that created it, so a pool of
    connections that worker threads share hangs. Patches of gevent are compatible with the main
    context, which runs gevent's loop. Any other event loop would stop that loop.

    Args:
        worker: the kind of worker, as in `Config`.

    Raises:
        UsageError: threading, socket or select is patched in a way that these workers cannot use.
    """
    patched = dict(_patched())
    if not patched:
        if worker == "greenlet":
            raise UsageError(
                "worker greenlet needs the patches of gevent, or a request that waits blocks all"
                f" others; begin the program with {_PATCH}"
            )
        return
    # If gevent and another library have patched, the other library decides.
    who, by_gevent = _culprit(patched)
    if by_gevent and worker != "thread":
        if worker == "greenlet":
            _check_completeness()
        return
    modules = {name.partition(".")[0].replace("_thread", "threading") for name in patched}
    names = [name for name in ("threading", "socket", "select") if name in modules]
    what = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    if by_gevent:
        raise UsageError(
            f"gevent has monkey-patched {what}, on which worker threads hang;"
            " remove monkey.patch_all() or use --worker greenlet"
        )
    first = next(name for name, culprit in patched.items() if culprit == who)
    remedy = "eventlet.monkey_patch()" if who == "eventlet" else f"the patch of {first}"
    raise UsageError(
        f"{who} has monkey-patched {what}, on which this server hangs; remove {remedy}"
    )


def _check_completeness() -> None:
    """Check that gevent has patched all modules in which an app may wait."""
    from gevent import monkey

    missing = [
        name
        for name in _WAITING
        if not monkey.is_module_patched(name) and (name != "ssl" or _has_ssl())
    ]
    if missing:
        raise UsageError(
            f"gevent has not patched {', '.join(missing)}, so a request that waits there blocks all"
            f" others, or for ever; worker greenlet needs {_PATCH}, without arguments"
        )


def patch_for_greenlets() -> None:
    """Patch the standard library, before the app and what it needs are imported.

    The modules that the command has imported by now take nothing from the patched modules, except
    what they need unpatched. A test looks for it.

    Raises:
        UsageError: it is too late.
    """
    from gevent import monkey

    if any(monkey.is_module_patched(name) for name in _WAITING):
        return  # `check_patching` says whether this was enough
    for name in _FRAMEWORKS:
        if name in sys.modules:
            raise UsageError(
                f"--worker greenlet: {name} was imported before gevent could patch the standard"
                f" library; use vsgi-fcgi APP, or begin the script with {_PATCH}"
            )
    with _entry_points_read_once():
        # gevent cannot patch what this Python does not have.
        monkey.patch_all(ssl=_has_ssl())


@contextlib.contextmanager
def _entry_points_read_once() -> Iterator[None]:
    """Read the metadata of the installed packages once while gevent patches.

    gevent looks for plugins before and after each patch, 25 times, and each time Python reads the
    metadata of all packages. With 140 packages this took 0.3 of the 0.5 seconds of a start.
    """
    from importlib import metadata

    entry_points = metadata.entry_points
    metadata.entry_points = entry_points().select
    try:
        yield
    finally:
        metadata.entry_points = entry_points


def _has_ssl() -> bool:
    """Return whether this Python was built with OpenSSL."""
    return importlib.util.find_spec("_ssl") is not None


def _culprit(patched: dict[str, str]) -> tuple[str, bool]:
    """Return the name of the library that has patched, and whether only gevent has."""
    others = [who for who in patched.values() if who != "gevent"]
    return (others[0], False) if others else ("gevent", True)


def _patched() -> Iterator[tuple[str, str]]:
    """Yield each patched name, such as ``threading.get_ident``, with the package of the patch."""
    for module, home, name in _FUNCTIONS:
        found = getattr(module, name, None)
        if found is None:
            if name == "poll" and "eventlet" in sys.modules:
                yield (
                    "select.poll",
                    "eventlet",
                )  # it removes functions for which it has no replacement
        elif not isinstance(found, BuiltinFunctionType) or found.__module__ != home:
            who = _package(found)
            if who not in _DEBUGGERS:
                yield f"{module.__name__}.{name}", who
    # A subclass of the original, such as that of PySocks, is a socket that blocks its thread.
    if not any(base.__module__ == "socket" for base in socket.socket.__mro__):
        yield "socket.socket", _package(socket.socket)


def _package(found: Any) -> str:
    return str(getattr(found, "__module__", None) or type(found).__module__).partition(".")[0]
