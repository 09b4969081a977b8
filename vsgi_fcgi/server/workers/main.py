"""``--worker main``: the app runs in the main context, one request at a time, as in VSGI.

Requests wait in a queue until all connections were read. Then `MainWorker.hand_over` switches to
the worker's greenlet, which runs them for one turn and switches back. Their responses are in the
mailbox by then, and the main context sends them.

An app that waits cooperatively also switches back, in the middle of a request. The loop goes on,
and resumes the greenlet when the app has what it waits for. No other request begins meanwhile.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from sys import getrefcount
from typing import TYPE_CHECKING, Any

import gevent
from greenlet import getcurrent, greenlet

from vsgi_fcgi.server.exchange import Exchange
from vsgi_fcgi.transport import thread_affinity as contract
from vsgi_fcgi.transport.thread_affinity import main_only
from vsgi_fcgi.transport.unpatched import get_ident

if TYPE_CHECKING:
    from vsgi_fcgi.server.stacks import Place

_TURN = 0.002
"""Seconds for which apps run before responses are sent and connections are read."""


class _Greenlet(greenlet):
    """Reports exceptions that an app throws into it after its end.

    gevent would write a traceback to stderr instead.

    Args:
        run: the function to run.
        hub: the greenlet that continues after its end.
        on_stray: called with each exception that came after its end.
    """

    def __init__(
        self,
        run: Callable[[], object],
        hub: greenlet,
        on_stray: Callable[[BaseException], object],
    ) -> None:
        super().__init__(run, hub)
        self._on_stray = on_stray

    def throw(self, *args: Any) -> Any:
        """Raise an exception in the greenlet."""
        if self.dead:
            self._on_stray(args[0])
            return None
        return super().throw(*args)


class MainWorker:
    """Runs the app in one greenlet of the main context.

    It is not run in the watcher's callback itself, because an app may wait cooperatively. Then the
    loop continues while this one request waits.

    Args:
        run: runs one request.
        request_round: has `hand_over` called, and then everything sent, at the end of this round
            of the loop.
        on_stray: called with an exception that an app caused and that came between two requests.
        watched: whether `running` is used.
    """

    def __init__(
        self,
        run: Callable[[Exchange], None],
        request_round: Callable[[], object],
        on_stray: Callable[[BaseException], object],
        *,
        watched: bool = False,
    ) -> None:
        self._run = run
        self._watched = watched
        self._request_round = request_round
        self._on_stray = on_stray
        self.jobs: deque[Exchange] = deque()
        self._hub = gevent.get_hub()
        self._ident = get_ident()
        self._greenlet = _Greenlet(self._work, self._hub, on_stray)
        self._exchange: Exchange | None = None
        self.fresh = False
        # The greenlet is in a turn, or in an app that waits cooperatively.
        self._busy = False
        self._in_turn = False
        self._stopping = False
        self.size = 1

    @property
    def free(self) -> int:
        """The number of workers without a request: 1 or 0."""
        return 0 if self._busy else 1

    def running(self) -> list[tuple[Exchange, int]]:
        """Return the request that runs, if there is one, with the ident of the main thread."""
        exchange = self._exchange
        return [] if exchange is None else [(exchange, self._ident)]

    def stack(self, ident: int) -> list[Place]:
        """Return where the app is."""
        # Imported already by the modules that call this, which few servers need.
        from vsgi_fcgi.server.stacks import stack_of

        return stack_of(ident, self._greenlet)

    @main_only
    def hand_over(self) -> None:
        """Run queued requests, in the hub's greenlet; those that are left run in the next round."""
        self.fresh = False
        if not self._busy and (self.jobs or self._stopping):
            self._busy = self._in_turn = True
            self._greenlet.switch()
            # It returns at the end of the turn, or when an app waits cooperatively.
            self._in_turn = False
            if self.jobs and not self._busy:
                self._request_round()

    def _work(self) -> None:
        contract.enter_worker()
        jobs, clock = self.jobs, time.monotonic
        run = self._run_watched if self._watched else self._run
        this = getcurrent()
        # Compared only in a turn: outside it, other code that resumes the greenlet refers to it.
        references = getrefcount(this)
        while getrefcount(this) <= references:
            turn_ends = clock() + _TURN
            while jobs:
                run(jobs.popleft())
                if not self._in_turn or getrefcount(this) > references or clock() > turn_ends:
                    break
            if not self._in_turn:
                # The app has waited, so that this is not the end of a round.
                self._request_round()
            self._busy = False
            if self._stopping and not jobs:
                break
            self._wait_for_turn()
        else:
            # Something still refers to this greenlet. It may be a `gevent.Timeout` that an app
            # started and did not cancel: here it would end another request.
            self._greenlet = _Greenlet(self._work, self._hub, self._on_stray)
            self._busy = False
            self._request_round()
        contract.leave_worker()

    def _run_watched(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._run(exchange)
        self._exchange = None

    def _wait_for_turn(self) -> None:
        """Let the loop run until there is a request, and report exceptions that apps have caused.

        A `gevent.Timeout` that an app started and did not cancel is raised in this greenlet after
        its request. So is an exception that another greenlet of the app throws into it.
        """
        while True:
            try:
                self._hub.switch()
            except BaseException as error:
                self._on_stray(error)
            if self._in_turn:
                return

    def stop(self) -> None:
        """End the greenlet when it finds no more requests."""
        self._stopping = True
        self._request_round()
