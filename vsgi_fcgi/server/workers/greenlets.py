"""``--worker greenlet``: a greenlet for each request, for apps under ``gevent.monkey``.

Requests wait in a queue until all connections were read. Then `GreenletPool.hand_over` starts a
greenlet for each of them, and each runs until it waits for something. The loop resumes it when it
has that. Code between two waits is never interrupted: an app that computes, or that waits in a way
that gevent has not patched, blocks all other requests and all connections. `BlockWatch` reports it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import gevent
from gevent import Greenlet, GreenletExit

from vsgi_fcgi.children import exit_child
from vsgi_fcgi.exceptions import RequestTimeout
from vsgi_fcgi.log.access_format import rebuild_target
from vsgi_fcgi.server.exchange import Exchange
from vsgi_fcgi.server.mailbox import ThreadLatch
from vsgi_fcgi.server.services import Services
from vsgi_fcgi.server.stacks import Place, stack_of, stack_text
from vsgi_fcgi.transport import thread_affinity as contract
from vsgi_fcgi.transport.thread_affinity import main_only
from vsgi_fcgi.transport.unpatched import get_ident, start_thread

_TURN: Final = 0.002
"""Seconds for which new greenlets begin before responses are sent and connections are read."""

_LAST_STEPS: Final = 1.0
"""Seconds that apps get to clean up after GreenletExit, when the server stops."""

_LOOKS: Final = 4
"""Looks of the watch thread in the limit for blocking."""


class CutOff(GreenletExit, RequestTimeout):
    """The server stops and does not wait any longer for this request."""


class RequestGreenlet(Greenlet):  # type: ignore[type-arg]
    """Runs one request.

    A `gevent.Greenlet`, because apps use its methods, such as `link`. If an app leaves something
    behind that raises an exception in it later, such as a `gevent.Timeout`, it is dead by then,
    and nothing happens.

    Args:
        run: called with the exchange.
        exchange: the exchange.

    Attributes:
        exchange: the exchange.
        params: the params of the request, which become its environ.
    """

    def __init__(self, run: Callable[[Exchange], None], exchange: Exchange) -> None:
        super().__init__(run, exchange)
        self.exchange = exchange
        self.params: Mapping[str, Any] = exchange.request.params


class GreenletPool:
    """Runs each request in a greenlet of its own, in the main context.

    Args:
        run: runs one request.
        services: the services of the server.
        request_round: has `hand_over` called, and then everything sent, at the end of this round
            of the loop.
        on_stray: called with an exception that was raised outside of the app.
    """

    def __init__(
        self,
        run: Callable[[Exchange], None],
        services: Services,
        request_round: Callable[[], object],
        on_stray: Callable[[BaseException], object],
    ) -> None:
        self._run = run
        self._services = services
        self._request_round = request_round
        self._on_stray = on_stray
        self._ident = get_ident()
        # By their idents, the one that has run for longest first.
        self._greenlets: dict[int, RequestGreenlet] = {}
        self._in_turn = False
        self.jobs: deque[Exchange] = deque()
        self.fresh = False
        self.size = services.config.greenlets
        loop: Any = gevent.get_hub().loop
        if loop.default:
            # gevent 26.9 does it after the first `os.fork`. If the child has ended by then, nothing
            # wakes the greenlet that waits for it.
            loop.install_sigchld()
        limit = services.config.block_warning
        self._watch = BlockWatch(self, services, limit) if limit else None

    @property
    def free(self) -> int:
        """The number of greenlets that may be started."""
        return self.size - len(self._greenlets)

    def running(self) -> list[tuple[Exchange, int]]:
        """Return the requests that run, the longest first, with the idents of their greenlets."""
        # A copy, made in one step of the interpreter.
        items = list(self._greenlets.items())
        return [(greenlet.exchange, ident) for ident, greenlet in items]

    def stack(self, ident: int) -> list[Place]:
        """Return where a greenlet is; empty if it has ended."""
        greenlet = self._greenlets.get(ident)
        return [] if greenlet is None else stack_of(self._ident, greenlet)

    def blocking(self) -> tuple[RequestGreenlet | None, list[Place]]:
        """Return the greenlet that runs now, if it runs a request, and where the main thread is.

        Callable from any thread.
        """
        greenlets = list(self._greenlets.values())
        # One that waits has a frame.
        found = next((each for each in greenlets if each.gr_frame is None), None)
        return found, stack_of(self._ident)

    @main_only
    def hand_over(self) -> None:
        """Start greenlets for queued requests; those that are left start in the next round.

        In the hub's greenlet, to which a greenlet switches when it waits or has ended.
        """
        self.fresh = False
        clock = time.monotonic
        turn_ends = clock() + _TURN
        self._in_turn = True
        while self.jobs and len(self._greenlets) < self.size:
            RequestGreenlet(self._serve, self.jobs.popleft()).switch()
            if clock() > turn_ends:
                break
        self._in_turn = False
        if self.jobs and len(self._greenlets) < self.size:
            self._request_round()

    def _serve(self, exchange: Exchange) -> None:
        greenlet: Any = gevent.getcurrent()
        ident = id(greenlet)
        contract.enter_worker()
        self._greenlets[ident] = greenlet
        try:
            self._run(exchange)
        except BaseException as error:
            # The app, or a greenlet of it, has killed this one while code of the server ran.
            exchange.rescue()
            self._on_stray(error)
        finally:
            del self._greenlets[ident]
            contract.leave_worker()
        if self._services.in_child:
            # The hub would go on to serve the requests of the parent process.
            exit_child(None)
        if not self._in_turn:
            # To send the end of the response, and to start a greenlet for the next request.
            self._request_round()

    def stop(self) -> None:
        """End requests that still run: raise `CutOff`, a GreenletExit, where they wait."""
        if self._watch is not None:
            self._watch.stop()
        left = list(self._greenlets.values())
        for greenlet in left:
            greenlet.kill(CutOff, block=False)
        gevent.joinall(left, timeout=_LAST_STEPS)
        if self._greenlets:
            self._services.log.warning(
                "requests that still ran %g seconds after GreenletExit are cut off: %d",
                _LAST_STEPS,
                len(self._greenlets),
            )


class BlockWatch:
    """Reports an app that does not let the hub run.

    A native thread posts a call in the mailbox while requests run. The main context makes the call
    when it comes round. This costs nothing for each request, and nothing for each round.

    Args:
        pool: the greenlets.
        services: the services of the server.
        limit: seconds after which the hub counts as blocked.
    """

    def __init__(self, pool: GreenletPool, services: Services, limit: float) -> None:
        self._pool = pool
        self._services = services
        self._limit = limit
        # By the monotonic clock; None if the main context has answered.
        self._asked: float | None = None
        self._stopped = ThreadLatch()
        try:
            start_thread(self._watch, "vsgi-fcgi-block-watch")
        except RuntimeError:
            services.log.warning("block_warning has no effect: this host allows no more threads")

    def stop(self) -> None:
        """End the thread."""
        self._stopped.open()

    def _answer(self, nothing: None) -> None:
        self._asked = None

    def _watch(self) -> None:
        warned = False
        while not self._stopped.wait(self._limit / _LOOKS):
            asked, now = self._asked, time.monotonic()
            if asked is None:
                warned = False
                if self._pool.free < self._pool.size:
                    self._asked = now
                    self._services.mailbox.post(self._answer, None)
            elif not warned and now - asked >= self._limit:
                warned = True
                self._warn(now - asked)

    def _warn(self, seconds: float) -> None:
        greenlet, places = self._pool.blocking()
        who = "code that runs for no request"
        if greenlet is not None:
            get = greenlet.params.get
            who = f"{get('REQUEST_METHOD', '-')} {get('REQUEST_URI') or rebuild_target(get)}"
        self._services.log.warning(
            "%s has blocked the hub for more than %.1f seconds: all other requests wait",
            who,
            seconds,
            stack="Stack (most recent call last):\n" + stack_text(places),
        )
