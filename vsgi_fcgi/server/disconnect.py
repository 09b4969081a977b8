"""How an app learns that its client has gone: ``environ["vsgi_fcgi.request"]``.

The server has one notion for all reasons why a response is not wanted any more: the flag
`cancelled` of an exchange. The main context sets it for ABORT_REQUEST, for the end of a connection,
for a failed write, at ``request_timeout`` and near the end of a stop. An app notices it in three
ways: its next read or write raises `ClientDisconnected`, it asks, or it has registered a callback.

Callbacks are in a deque of the exchange, which exists only if the app has registered one. The
worker appends, and then looks at the flag. The main context sets the flag, and then looks for
the deque. So the second of them notices, whichever it is. Each callback is taken out of the deque
before it is called, in one step of the interpreter, so that it is called once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import IO, Any, Final, Protocol, final

import gevent

from vsgi_fcgi.exceptions import ClientDisconnected
from vsgi_fcgi.server.mailbox import Latch
from vsgi_fcgi.server.services import Services

_MAX_CALLBACKS: Final = 1000
"""Maximum number of callbacks that one request may have registered at a time."""


@final
class DisconnectCallback:
    """A callback that `RequestHandle.on_disconnect` has registered.

    As a context manager, it removes the callback at the end of the ``with`` block. If the callback
    is being called at that moment, the block ends after it. So the callback never acts on what the
    app does after the block.
    """

    __slots__ = ("_called", "_function", "_removed", "_waiting")

    def __init__(
        self,
        function: Callable[[], object],
        waiting: deque[DisconnectCallback],
        called: Latch,
    ) -> None:
        self._function = function
        self._waiting = waiting
        self._called = called
        self._removed = False

    def call(self, services: Services) -> None:
        """Call the function, and log what it raises. In a greenlet of the main context."""
        try:
            self._function()
        except BaseException as error:
            services.log.error("a callback of on_disconnect failed", error=error)
        self._called.open()

    def discard(self) -> None:
        """Take note that the function will not be called."""
        self._called.open()

    def __enter__(self) -> DisconnectCallback:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._removed:
            return
        self._removed = True
        try:
            self._waiting.remove(self)
        except ValueError:
            # It was taken, to call it or to discard it.
            self._called.wait(None)


Callbacks = deque[DisconnectCallback]


def call_all(services: Services, waiting: Callbacks) -> None:
    """Call all callbacks of a request, each once. In a greenlet of the main context."""
    while True:
        try:
            callback = waiting.popleft()
        except IndexError:
            return
        callback.call(services)


def discard_all(waiting: Callbacks) -> None:
    """Discard all callbacks of a request that has ended, which may refer to its environ."""
    while True:
        try:
            callback = waiting.popleft()
        except IndexError:
            return
        callback.discard()


def call_all_soon(services: Services, waiting: Callbacks) -> None:
    """Have all callbacks of a request called in a greenlet. For the main context.

    In a greenlet, because a callback may use a cooperative lock, or raise an exception.
    """
    gevent.spawn_raw(call_all, services, waiting)


class Cancellable(Protocol):
    """The exchange of a request, as this module sees it."""

    callbacks: Callbacks | None
    closed: bool

    @property
    def cancelled(self) -> bool:
        """Whether the response is not wanted any more."""

    @property
    def services(self) -> Services:
        """The services of the server."""


def register(exchange: Cancellable, function: Callable[[], object]) -> DisconnectCallback:
    """Register a callback for a request. For the worker that runs the app.

    Raises:
        RuntimeError: 1000 callbacks are registered for this request.
    """
    services = exchange.services
    waiting = exchange.callbacks
    if waiting is None:
        waiting = deque()
        if not exchange.closed:
            exchange.callbacks = waiting
    if len(waiting) >= _MAX_CALLBACKS:
        raise RuntimeError(
            f"on_disconnect: {_MAX_CALLBACKS} callbacks are registered for this request; use"
            " it in a with statement, which removes the callback at its end"
        )
    registered = DisconnectCallback(function, waiting, services.make_latch())
    waiting.append(registered)
    # After it was appended: the main context may have looked before.
    if exchange.cancelled and not exchange.closed:
        services.mailbox.post(partial(call_all_soon, services), waiting)
    return registered


@final
class RequestInput:
    """``wsgi.input``: the body of a request, which cannot be read after its client has gone.

    Args:
        stream: the complete body, in memory or in a temporary file.
        exchange: the exchange of the request.
    """

    __slots__ = ("_exchange", "_stream")

    def __init__(self, stream: IO[bytes], exchange: Cancellable) -> None:
        self._stream = stream
        self._exchange = exchange

    # The flag is tested in each method: a call for it would cost more than the test.

    def read(self, size: Any = -1) -> bytes:
        """Read bytes."""
        if self._exchange.cancelled:
            raise _gone()
        return self._stream.read(size)

    def readline(self, size: Any = -1) -> bytes:
        """Read a line."""
        if self._exchange.cancelled:
            raise _gone()
        return self._stream.readline(size)

    def readlines(self, hint: Any = -1) -> list[bytes]:
        """Read lines."""
        if self._exchange.cancelled:
            raise _gone()
        return self._stream.readlines(hint)

    def readinto(self, buffer: Any) -> int:
        """Read bytes into a buffer."""
        if self._exchange.cancelled:
            raise _gone()
        stream: Any = self._stream
        size: int = stream.readinto(buffer)
        return size

    def __iter__(self) -> RequestInput:
        return self

    def __next__(self) -> bytes:
        if self._exchange.cancelled:
            raise _gone()
        return next(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _gone() -> ClientDisconnected:
    return ClientDisconnected("the client has gone")
