"""Functions that apps run in the main context, and the statistics that they can read.

VSGI promises that state is safe if it is used only in the main context.
``environ["vsgi_fcgi.main_context"].call(function, *args)`` runs a function there, one at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Any, ParamSpec, TypeVar

import gevent

from vsgi_fcgi.children import exit_child
from vsgi_fcgi.exceptions import MainContextClosed
from vsgi_fcgi.server.mailbox import GreenletLatch, Item, Latch, ThreadLatch
from vsgi_fcgi.server.services import Services
from vsgi_fcgi.transport.closing import ClosableConnection
from vsgi_fcgi.transport.unpatched import get_ident


class Stats:
    """Numbers of connections and requests of a running server, for any thread to read.

    They show whether a web server multiplexes: few connections were accepted, and many requests are
    in flight. The main context counts only the connections that it accepts. The other numbers are
    computed when they are read, so that they cost a request nothing. Two numbers that are read one
    after the other may belong to different moments.

    Args:
        connections: the connections that are open.

    Attributes:
        connections_accepted: connections accepted since the start, without those that were refused
            because FCGI_WEB_SERVER_ADDRS does not name their peer.
    """

    __slots__ = ("_connections", "connections_accepted")

    def __init__(self, connections: Collection[ClosableConnection] = ()) -> None:
        self._connections = connections
        self.connections_accepted = 0

    @property
    def connections_open(self) -> int:
        """The number of open connections, including idle ones."""
        return len(self._connections)

    @property
    def requests_in_flight(self) -> int:
        """The number of requests that have begun and not ended, whatever their state."""
        # A copy, made in one step of the interpreter: the main context changes the set.
        connections = list(self._connections)
        return sum(len(connection.protocol.requests) for connection in connections)


P = ParamSpec("P")
T = TypeVar("T")


class _Call:
    __slots__ = ("calls", "ended", "error", "function", "latch", "result")

    def __init__(self, calls: MainContextCalls, function: Callable[[], Any], latch: Latch) -> None:
        self.calls = calls
        self.function = function
        self.latch = latch
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended = False

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error
        if self.calls._services.in_child:
            exit_child(self.error, 0 if self.error is None else 1)
        self._end()

    def refuse(self, why: str = "the function did not run") -> None:
        self.error = MainContextClosed(f"the main context has ended; {why}")
        self._end()

    def _end(self) -> None:
        if not self.ended:
            self.ended = True
            self.latch.open()


class MainContextCalls:
    """Runs functions of an app in the main context: ``environ["vsgi_fcgi.main_context"]``.

    Args:
        services: the services of the server.
        stats: what the server counts.

    Attributes:
        stats: numbers of connections and requests of this server, for any thread to read.
    """

    def __init__(self, services: Services, stats: Stats) -> None:
        self.stats = stats
        self._services = services
        self._ident = get_ident()
        self._waiting: deque[_Call] = deque()
        self._runner: Any = None
        self._running: _Call | None = None
        self._closed = False

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function(*args, **kwargs)`` in the main context, and wait for its result.

        Two such functions never run at the same time, even if one of them waits cooperatively.
        Inside such a function, this is a plain call.

        Returns:
            The result of the function.

        Raises:
            MainContextClosed: the server has stopped, or this is a child process that the app has
                forked. The function did not run.
            BaseException: the function raised it.
        """
        if self._services.in_child:
            raise MainContextClosed(
                "this process was forked from the server's, and has no main context; the function"
                " did not run"
            )
        inside = get_ident() == self._ident
        if inside and gevent.getcurrent() is self._runner:
            return function(*args, **kwargs)
        latch: Latch = GreenletLatch() if inside else ThreadLatch()
        call = _Call(self, lambda: function(*args, **kwargs), latch)
        if not self._services.mailbox.post(self._take, call):
            call.refuse()
        latch.wait(None)
        if call.error is not None:
            try:
                raise call.error
            finally:
                del call  # it holds the error, whose traceback holds this frame
        result: T = call.result
        return result

    def _take(self, call: _Call) -> None:
        if self._closed:
            call.refuse()
            return
        self._waiting.append(call)
        if self._runner is None:
            # In a greenlet, because the function may wait or take a cooperative lock.
            self._runner = gevent.spawn_raw(self._run)

    def _run(self) -> None:
        self._running = self._waiting.popleft()
        self._running.run()
        self._running = self._runner = None
        if self._waiting:
            # In another greenlet: a `gevent.Timeout` that the function started and did not cancel
            # must not end the next function.
            self._runner = gevent.spawn_raw(self._run)

    def close(self, unmade: list[Item]) -> list[Item]:
        """Refuse the calls that will not be made: the waiting ones and those in the mailbox.

        Args:
            unmade: the items that the mailbox returned.

        Returns:
            The other items.
        """
        self._closed = True
        others = []
        for item in unmade:
            if isinstance(item[1], _Call):
                item[1].refuse()
            else:
                others.append(item)
        while self._waiting:
            self._waiting.popleft().refuse()
        if self._running is not None:
            # The function waits for something, but the loop will not run again.
            self._running.refuse("the function was still waiting and will not go on")
        return others
