"""Raise `RequestTimeout` in the thread of a request, but only while code of the app runs there.

``PyThreadState_SetAsyncExc`` raises an exception in another thread, at any place and at any time
later. In code of this package, that could lose a message or leave a lock held. In the next request,
it would hit the wrong one. So each request with a time limit has a lock, its gate. The worker holds
the gate while this package's code runs, and releases it while the app's code runs. The exception is
set only by a thread that has acquired the gate. So once the worker has the gate again, an exception
that has not been raised yet can be removed, and no further one is set.

Python raises such an exception only between two instructions, and the call of a C function is one
instruction. So nothing is raised between the return of the app and the store of its result in
`Interrupt.call`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from greenlet import getcurrent

from vsgi_fcgi.exceptions import RequestTimeout
from vsgi_fcgi.transport.unpatched import allocate_lock, get_ident
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.files import SendableFile
from vsgi_fcgi.wsgi.response import App, StartResponse

_set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_exception.argtypes = (ctypes.c_ulong, ctypes.py_object)

# A null pointer, which removes an exception.
_NONE: Any = ctypes.py_object()


class Interrupt:
    """Can interrupt the app in one request. To be made in the thread of its worker.

    Attributes:
        raised: the exception was set. It is set only once for a request.
    """

    __slots__ = ("_decision", "_gate", "_ident", "_in_app", "raised")

    def __init__(self) -> None:
        self._ident = get_ident()
        self._gate = allocate_lock()
        self._gate.acquire()
        self._in_app = False
        self.raised = False
        self._decision = [None]

    def decide(self) -> bool:
        """Decide whether this thread is replaced: by the worker that ends, or by who replaces it.

        Returns:
            Whether this is the first call, in any thread.
        """
        try:
            # One step of the interpreter.
            self._decision.pop()
        except IndexError:
            return False
        return True

    def try_to_raise(self) -> bool:
        """Interrupt the app. Callable from any other thread.

        Returns:
            False if no code of the app runs at the moment; try again later.
        """
        if not self._gate.acquire(False):
            return False
        try:
            if not self.raised:
                self.raised = True
                _set_exception(self._ident, RequestTimeout)
        finally:
            self._gate.release()
        return True

    def wrap(self, app: App) -> App:
        """Return an app for this request, so that it can be interrupted."""
        return partial(_run_interruptible, self, app)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call code of the app.

        Raises:
            RequestTimeout: it was interrupted.
            BaseException: the app raised it.
        """
        results: list[Any] = []
        step = map(results.append, map(function, *((arg,) for arg in args)))
        try:
            self._in_app = True
            self._gate.release()
            try:
                next(step)
            finally:
                # Not in a method: an exception may be raised where a method begins, and then the
                # gate would stay open.
                try:
                    self._gate.acquire()
                finally:
                    self._in_app = False
                    if self.raised:
                        _set_exception(self._ident, _NONE)
        except RequestTimeout:
            if not results:
                raise
            # The app had returned already. Its iterable must be closed, so it is not lost here.
        return results[0]

    def call_masked(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call code of this package, perhaps from the app, without interruption."""
        if not self._in_app:
            return function(*args)
        try:
            self._gate.acquire()
            self._in_app = False
            return function(*args)
        finally:
            self._in_app = True
            self._gate.release()


class GreenletInterrupt(Interrupt):
    """Can interrupt the app in one request that runs in a greenlet of the main context.

    The main context runs only while the greenlet waits. If code of the app waits then, the
    exception is raised there, at once. So there is nothing to remove later.
    """

    __slots__ = ("_greenlet",)

    def __init__(self) -> None:
        super().__init__()
        self._greenlet: Any = getcurrent()

    def try_to_raise(self) -> bool:
        """Interrupt the app. To be called in the hub's greenlet.

        Returns:
            False if code of the server waits at the moment; try again later.
        """
        if not self._in_app:
            return False
        if not self.raised:
            self.raised = True
            self._greenlet.throw(RequestTimeout)
        return True


def _run_interruptible(
    interrupt: Interrupt, app: App, environ: Environ, start_response: StartResponse
) -> Iterable[bytes]:
    """Run a WSGI app so that it can be interrupted, while its iterable is used as well."""
    iterable = interrupt.call(app, environ, start_response)
    # Code of the app does not run any more, or the web server may send the file itself.
    if isinstance(iterable, (list, tuple, SendableFile)):
        return iterable
    return _Interruptible(interrupt, iterable)


class _Interruptible:
    """The iterable of an app, which can be interrupted."""

    def __init__(self, interrupt: Interrupt, iterable: Iterable[bytes]) -> None:
        self._call = interrupt.call
        self._iterable = iterable

    def __iter__(self) -> Iterator[bytes]:
        iterator = self._call(iter, self._iterable)
        return iter(lambda: self._call(next, iterator, _END), _END)

    def close(self) -> None:
        """Close the iterable, without interruption, because this frees what the app holds."""
        close = getattr(self._iterable, "close", None)
        if close is not None:
            close()


_END: Any = object()
