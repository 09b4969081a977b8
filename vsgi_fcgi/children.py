"""Release the server's resources in processes that an app forks.

A forked child must not use the server's sockets and files, and must not act as a second server.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import weakref
from _thread import get_ident
from typing import Any, Final, NoReturn, Protocol

from vsgi_fcgi.descriptors import open_null


class Forked(Protocol):
    """Object that owns a resource which forked children must not use."""

    def forked(self) -> None:
        """Give up the resource. Called in the child, which has only the thread that forked."""


_known: weakref.WeakSet[Forked] = weakref.WeakSet()
_registered: list[int] = []
_masks: list[tuple[int, Any]] = []
_BLOCKED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def give_up_in_children(owner: Forked) -> None:
    """Register an object whose ``forked()`` is called in each process that is forked later."""
    if not _registered:
        # A registration with os.register_at_fork cannot be undone, so it is made once.
        os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
        _registered.append(os.getpid())
    _known.add(owner)


def _before() -> None:
    # A signal that reaches the child before its handlers are replaced would stop the parent.
    _masks.append((get_ident(), signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)))


def _in_parent() -> None:
    _unblock()


def _in_child() -> None:
    owners = list(_known)
    _known.clear()
    for owner in owners:
        owner.forked()
    _unblock()


def _unblock() -> None:
    """Restore this thread's signal mask. Several threads may fork at the same time."""
    ident = get_ident()
    for item in reversed(_masks):
        if item[0] == ident:
            _masks.remove(item)
            signal.pthread_sigmask(signal.SIG_SETMASK, item[1])
            return


def silence(fd: int) -> None:
    """Replace a descriptor with /dev/null, so that its number stays in use.

    After a close, the number could be reused for another file. The object that owns the old
    descriptor would later close that file.
    """
    if fd < 0:
        return
    try:
        null = open_null()
        try:
            os.dup2(null, fd, inheritable=False)
        finally:
            os.close(null)
    except OSError:
        with contextlib.suppress(OSError):
            os.close(fd)


def exit_child(error: BaseException | None, status: int = 0) -> NoReturn:
    """Exit from a forked child in which the app has returned to the server.

    Like `multiprocessing`, this calls ``os._exit``, because the `atexit` functions belong to the
    parent.

    Args:
        error: exception that the app raised, or None; a SystemExit determines the exit status.
        status: exit status otherwise.
    """
    if isinstance(error, SystemExit):
        code = error.code
        if code is None or isinstance(code, int):
            status = code or 0
        else:
            sys.stderr.write(f"{code}\n")
            status = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status & 0xFF)
