"""The requests that run now, and the limits on them.

A running request is only noted in a dict by its thread. One timer looks at all of them, so there
is no timer for each request. Without any of these settings, no request is noted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final

from greenlet import getcurrent

from vsgi_fcgi.log.access_format import rebuild_target
from vsgi_fcgi.log.access_log import AccessLog
from vsgi_fcgi.server.exchange import SUBMITTED, Exchange, LoggedExchange
from vsgi_fcgi.server.mailbox import ThreadLatch
from vsgi_fcgi.server.services import Services
from vsgi_fcgi.server.stacks import Place, stack_of, stack_text
from vsgi_fcgi.server.workers.base import Pool
from vsgi_fcgi.server.workers.threads import Replaced, ThreadPool
from vsgi_fcgi.transport.closing import Outcome
from vsgi_fcgi.transport.connections import Connections
from vsgi_fcgi.transport.thread_affinity import main_only, worker_only
from vsgi_fcgi.transport.unpatched import get_ident, start_thread
from vsgi_fcgi.wsgi.environ import Environ
from vsgi_fcgi.wsgi.response import App, error_response

if TYPE_CHECKING:
    from vsgi_fcgi.server.interrupt import Interrupt

_LOOKS: Final = 4
"""Looks in the shortest limit, so that each limit is kept to within a quarter of it."""

_MAX_INTERVAL: Final = 1.0
"""Maximum number of seconds between two looks."""

_RETRY_AFTER: Final = 1
"""Seconds after which a client may try again when the server was overloaded."""

_MAX_DONE: Final = 65536
"""Maximum number of ended requests that are not counted yet. The scoreboard counts each second."""

_SECOND: Final = 1_000_000_000


class WatchedExchange(LoggedExchange):
    """Keeps what is needed of a running request.

    Attributes:
        about: its method, its path and query, and the address of its client.
        submitted_at: the time when it was complete, by `time.monotonic_ns`.
    """

    __slots__ = ("about", "submitted_at")

    about: tuple[str, str, str]
    submitted_at: int

    @property
    def interrupt(self) -> Interrupt | None:
        """Interrupts the app; None if nothing limits its time."""
        return None

    @property
    def name(self) -> str:
        """The method and the URI."""
        return f"{self.about[0]} {self.about[1]}"

    @property
    def is_head(self) -> bool:
        """Whether the response must have no body."""
        return self.about[0] == "HEAD"

    def timing(self, now: int) -> dict[str, object]:
        """Return the fields of a log record about this request.

        Args:
            now: the time in nanoseconds, which is the end of the run if it has ended.
        """
        return {
            "method": self.about[0],
            "uri": self.about[1],
            "queued": round((self.run_began - self.submitted_at) / _SECOND, 3),
            "run": round((now - self.run_began) / _SECOND, 3),
        }


class InterruptibleExchange(WatchedExchange):
    """A request whose app can be interrupted, but not while it uses the exchange."""

    __slots__ = ("_interrupt",)

    def make_interruptible(self, app: App) -> App:
        """Return the app for this request. Called by its worker."""
        from vsgi_fcgi.server.interrupt import Interrupt

        self._interrupt = interrupt = Interrupt()
        return interrupt.wrap(app)

    @property
    def interrupt(self) -> Interrupt | None:
        """Interrupts the app; None if it does not run yet."""
        return getattr(self, "_interrupt", None)

    @worker_only
    def write(self, data: bytes, last: bool = False) -> None:
        """Send a piece of STDOUT; wait if the web server reads too slowly."""
        self._interrupt.call_masked(LoggedExchange.write, self, data, last)

    @worker_only
    def write_error(self, text: str) -> None:
        """Take text of ``wsgi.errors``."""
        self._interrupt.call_masked(LoggedExchange.write_error, self, text)

    @worker_only
    def report(self, message: str, error: BaseException | None = None) -> None:
        """Log a failure of the app."""
        self._interrupt.call_masked(LoggedExchange.report, self, message, error)


class RunningRequests:
    """The requests that run now.

    Args:
        services: the services of the server.
        access_log: the access log, or None if there is none.

    Attributes:
        threads: the ident of the thread that runs each exchange.
        stuck: the same for threads that another thread has replaced.
        slow: running requests that were logged as slow.
        greenlet: the greenlet that runs a request with ``--worker main``.
        done: for the scoreboard, if there is one: for each request that has ended, the first digit
            of its status, how long it waited and ran in nanoseconds, and the bytes of its response.
        exchange_class: the class of the exchanges.
    """

    def __init__(self, services: Services, access_log: AccessLog | None) -> None:
        config = services.config
        self._services = services
        self._take_notes = None if access_log is None else access_log.take_notes
        self._queue_timeout = nanoseconds(config.queue_timeout)
        self.exchange_class: type[WatchedExchange] = WatchedExchange
        if config.request_timeout is not None:
            self.exchange_class = InterruptibleExchange
        self.threads: dict[WatchedExchange, int] = {}
        self.stuck: dict[WatchedExchange, int] = {}
        self.slow: set[WatchedExchange] = set()
        self.greenlet: Any = None
        self.done: deque[tuple[int, int, int, int]] = deque(maxlen=_MAX_DONE)
        self._counts_done = services.counts is not None

    @main_only
    def note(self, exchange: WatchedExchange) -> None:
        """Keep data of a request before its params become the app's."""
        get = exchange.request.params.get
        exchange.about = (
            get("REQUEST_METHOD") or "-",
            get("REQUEST_URI") or rebuild_target(get),
            get("REMOTE_ADDR") or "",
        )
        if self._take_notes is None:
            exchange.head = b""
        else:
            self._take_notes(exchange)
        if exchange.body is not None and self._services.counts is not None:
            self._services.counts["received_bytes"] += exchange.body.size
        exchange.run_began = exchange.run_ended = 0
        exchange.submitted_at = monotonic_ns()

    @worker_only
    def run(
        self,
        run: Callable[[App, Environ, str | None, Exchange], None],
        app: App,
        base: Environ,
        mount: str | None,
        exchange: WatchedExchange,
    ) -> None:
        """Run a request, and note it meanwhile.

        Args:
            run: the function that runs it.
            app: the app.
            base: the part of the environ that all requests share.
            mount: the path at which the app is mounted.
            exchange: the exchange.
        """
        exchange.run_began = began = monotonic_ns()
        if began - exchange.submitted_at > self._queue_timeout:
            exchange.finish(self.refusal(exchange))
            self._services.mailbox.post(self._services.count, "queue_timeouts")
            return
        if self._services.workers_in_loop:
            self.greenlet = getcurrent()
        if type(exchange) is InterruptibleExchange:
            app = exchange.make_interruptible(app)
        threads = self.threads
        threads[exchange] = get_ident()
        try:
            run(app, base, mount, exchange)
        finally:
            # First, because after this no look marks it as slow or stuck.
            was_replaced = threads.pop(exchange, None) is None
            # The worker notices further references to its greenlet, and makes a new one.
            self.greenlet = None
            exchange.run_ended = ended = monotonic_ns()
        if self._counts_done:
            response = exchange.response
            head = exchange.final or exchange.head
            sent = len(exchange.final) if response is None else response.written
            code = head[8] if len(head) > 8 and not exchange.cancelled else 0
            self.done.append((code, began - exchange.submitted_at, ended - began, sent))
        if self.slow and exchange in self.slow:
            self._services.mailbox.post(self._report_end, exchange)
        if was_replaced:
            del self.stuck[exchange]
            raise Replaced

    def refusal(self, exchange: WatchedExchange) -> bytes:
        """Return the response to a request that has waited too long for a worker, and log it."""
        self._services.log.info(
            "%s: %s was answered 503: it has waited for a worker for more than %g seconds",
            exchange.connection.peer,
            exchange.name,
            self._services.config.queue_timeout,
        )
        return error_response(503, head_only=exchange.is_head, retry_after=_RETRY_AFTER)

    def _report_end(self, exchange: WatchedExchange) -> None:
        if exchange in self.slow:
            self.slow.discard(exchange)
            # The same way as the first message, so that the two keep their order.
            self._services.file_io.submit(partial(self._log_end, exchange))

    def _log_end(self, exchange: WatchedExchange) -> None:
        fields = exchange.timing(exchange.run_ended)
        self._services.log.warning(
            "%s has ended after %g seconds",
            exchange.name,
            fields["run"],
            fields=fields,
        )


class RunLimits:
    """Looks at the running and waiting requests from time to time.

    With worker threads, the main context does this. With ``--worker main``, a native thread does
    it, because an app that blocks the main context is what it has to report.

    Args:
        services: the services of the server.
        running: the requests that run.
        pool: the workers, with the requests that wait for them.
        connections: all connections.
        access_log: the access log, or None if there is none.

    Attributes:
        on_stuck: called with a reason if a thread is stuck, so that the process can be replaced.
    """

    def __init__(
        self,
        services: Services,
        running: RunningRequests,
        pool: Pool,
        connections: Connections[Any],
        access_log: AccessLog | None,
    ) -> None:
        config = services.config
        self._services = services
        self._running = running
        self._pool = pool
        self._connections = connections
        self._access_log = access_log
        self._slow = nanoseconds(config.slow_request)
        self._queue_timeout = nanoseconds(config.queue_timeout)
        self._request_timeout = nanoseconds(config.request_timeout)
        self._grace = nanoseconds(config.graceful_timeout)
        self.on_stuck: Callable[[str], object] | None = None
        # The running requests whose limit was reached, with the time of this; those that are stuck.
        self._timed_out: dict[WatchedExchange, int] = {}
        self._stuck: set[WatchedExchange] = set()
        limits = [limit for limit in config.run_limits if limit is not None]
        interval = min(min(limits) / _LOOKS, _MAX_INTERVAL)
        self._timer = None
        self._stopped = ThreadLatch()
        if services.workers_in_loop:
            start_thread(partial(self._watch, interval), "vsgi-fcgi-watch")
        else:
            self._timer = services.loop.timer(interval, interval)
            self._timer.start(self._look)

    def stop(self) -> None:
        """Stop looking."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
        self._stopped.open()

    def _watch(self, interval: float) -> None:
        while not self._stopped.wait(interval):
            self._look_for_slow(monotonic_ns())

    def _look(self) -> None:
        try:
            now = monotonic_ns()
            self._look_for_slow(now)
            self._refuse_old(now)
            for exchange, ident in self._running.threads.copy().items():
                if now - exchange.run_began >= self._request_timeout:
                    self._time_out(exchange, ident, now)
            for exchange in self._timed_out.keys() - self._running.threads.copy().keys():
                del self._timed_out[exchange]
                self._stuck.discard(exchange)
        except Exception as error:
            self._connections.report_bug(error, "running requests are checked again later")

    # Requests that are slow.

    def _look_for_slow(self, now: int) -> None:
        slow = self._running.slow
        # A copy, made in one step of the interpreter: the workers change the dict.
        for exchange, ident in self._running.threads.copy().items():
            if now - exchange.run_began < self._slow or exchange in slow:
                continue
            slow.add(exchange)
            places = self._stack_of(exchange, ident)
            if places is None:
                slow.discard(exchange)
                continue
            self._services.count("slow")
            if self._timer is None:
                self._log_slow(exchange, places, now)
            else:
                # Another thread reads the source files.
                self._services.file_io.submit(partial(self._log_slow, exchange, places, now))

    def _stack_of(self, exchange: WatchedExchange, ident: int) -> list[Place] | None:
        """Return where the thread of a request is, or None if the request has just ended."""
        places = stack_of(ident, self._running.greenlet)
        return places if exchange in self._running.threads else None

    def _log_slow(self, exchange: WatchedExchange, places: list[Place], now: int) -> None:
        fields = exchange.timing(now)
        self._services.log.warning(
            "%s has run for %g seconds, after %g seconds in the queue",
            exchange.name,
            fields["run"],
            fields["queued"],
            fields=fields,
            stack=_stack_text(places),
        )

    # Requests that wait for a worker.

    @main_only
    def _refuse_old(self, now: int) -> None:
        """Answer the requests with a 503 that have waited too long."""
        jobs: Any = self._pool.jobs
        while jobs:
            try:
                exchange: WatchedExchange = jobs[0]
            except IndexError:
                return  # a worker has taken the last one meanwhile
            if now - exchange.submitted_at < self._queue_timeout:
                return
            if self._pool.remove(exchange):
                self._services.count("queue_timeouts")
                self._answer(exchange, self._running.refusal(exchange), Outcome.REFUSED)
                exchange.end_run()

    def _answer(self, exchange: WatchedExchange, response: bytes, outcome: Outcome) -> None:
        log = self._access_log
        if log is not None and exchange.begun:
            log.given_up(exchange, outcome)
        elif log is not None:
            log.answered_instead(exchange, response, outcome)
        exchange.connection.writer.answer_instead(exchange, response)

    # Requests that run too long.

    @main_only
    def _time_out(self, exchange: WatchedExchange, ident: int, now: int) -> None:
        """Answer a request with a 504, and interrupt its app.

        The web server may have given the request up before, and its app is interrupted as well.
        """
        since = self._timed_out.setdefault(exchange, now)
        if since == now:
            places = self._stack_of(exchange, ident)
            if places is None:
                return
            self._services.count("request_timeouts")
            end = "was cancelled"
            if exchange.state is SUBMITTED:
                end = "was broken off" if exchange.begun else "was answered 504"
                response = error_response(504, head_only=exchange.is_head)
                self._answer(exchange, response, Outcome.TIMED_OUT)
            self._services.file_io.submit(partial(self._log_timeout, exchange, places, now, end))
        if exchange.interrupt is not None:
            exchange.interrupt.try_to_raise()
            if now - since >= self._grace and exchange not in self._stuck:
                self._stuck.add(exchange)
                self._replace(exchange, ident)

    def _log_timeout(
        self, exchange: WatchedExchange, places: list[Place], now: int, end: str
    ) -> None:
        fields = exchange.timing(now)
        self._services.log.warning(
            "%s %s: it has run for %g seconds",
            exchange.name,
            end,
            fields["run"],
            fields=fields,
            stack=_stack_text(places),
        )

    @main_only
    def _replace(self, exchange: WatchedExchange, ident: int) -> None:
        """Have another thread take the place of one that does not return from its request."""
        pool, running, config = self._pool, self._running, self._services.config
        places = self._stack_of(exchange, ident)
        limit = config.max_stuck_threads
        if not isinstance(pool, ThreadPool) or places is None:
            return
        if len(running.stuck) >= limit:
            consequence = f"it is not replaced: max_stuck_threads ({limit}) others are stuck"
        else:
            running.stuck[exchange] = ident
            # The thread looks whether it was removed here.
            if running.threads.pop(exchange, None) is None:
                del running.stuck[exchange]
                return
            self._services.count("stuck_threads")
            consequence = "another thread takes its place"
            if not pool.replace_stuck():
                consequence = "it could not be replaced, because this host limits threads"
            if self.on_stuck is not None:
                self.on_stuck("a thread is stuck")
        self._services.file_io.submit(partial(self._log_stuck, exchange, places, consequence))

    def _log_stuck(self, exchange: WatchedExchange, places: list[Place], consequence: str) -> None:
        self._services.log.error(
            "%s has not ended %g seconds after RequestTimeout: its thread is stuck; %s",
            exchange.name,
            self._services.config.graceful_timeout,
            consequence,
            stack=_stack_text(places),
        )


def _stack_text(places: list[Place]) -> str:
    return "Stack of its thread (most recent call last):\n" + stack_text(places)


def nanoseconds(limit: float | None) -> float:
    """Return a limit in nanoseconds, or infinity if there is none."""
    return float("inf") if limit is None else limit * _SECOND
