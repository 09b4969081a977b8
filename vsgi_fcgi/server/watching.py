"""What the status knows of a request, and the limits on requests that run.

A worker only notes when it begins and ends. The pool knows which requests its workers have taken.
One timer looks at all of them, so there is no timer for each request.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final

from vsgi_fcgi.log.access_format import rebuild_target
from vsgi_fcgi.log.access_log import AccessLog
from vsgi_fcgi.server.exchange import SUBMITTED, Exchange, LoggedExchange, TimedExchange
from vsgi_fcgi.server.mailbox import ThreadLatch
from vsgi_fcgi.server.services import Services
from vsgi_fcgi.server.stacks import Place, stack_text
from vsgi_fcgi.server.workers.base import Pool, Run, take_out
from vsgi_fcgi.server.workers.main import MainWorker
from vsgi_fcgi.server.workers.threads import Replaced, ThreadPool
from vsgi_fcgi.transport.closing import Outcome
from vsgi_fcgi.transport.connections import Connections
from vsgi_fcgi.transport.loop import TimerWatcher
from vsgi_fcgi.transport.thread_affinity import main_only, worker_only
from vsgi_fcgi.transport.unpatched import start_thread
from vsgi_fcgi.wsgi.environ import Environ, printable
from vsgi_fcgi.wsgi.response import App, error_response

if TYPE_CHECKING:
    from vsgi_fcgi.server.interrupt import Interrupt

_LOOKS: Final = 4
"""Looks in the shortest limit, so that each limit is kept to within a quarter of it."""

_MAX_INTERVAL: Final = 1.0
"""Maximum number of seconds between two looks."""

_RETRY_AFTER: Final = 1
"""Seconds after which a client may try again when the server was overloaded."""

_SECOND: Final = 1_000_000_000


class WatchedExchange(TimedExchange):
    """Keeps what is shown of a running request, and is counted at its end.

    Attributes:
        method: its method.
        target: its path and query.
        client: the address of its client.
        submitted_at: the time when it was complete, by `time.monotonic_ns`.
    """

    __slots__ = ("client", "method", "submitted_at", "target")

    method: str
    target: str
    client: str
    submitted_at: int

    @property
    def interrupt(self) -> Interrupt | None:
        """Interrupts the app; None if nothing limits its time."""
        return None

    @property
    def name(self) -> str:
        """The method and the URI for a log line, with unprintable text escaped."""
        return printable(f"{self.method} {self.target}")

    @main_only
    def submit(self) -> None:
        """Keep data of the request before its params become the app's."""
        params = self.request.params
        self.method = params.get("REQUEST_METHOD", "-")
        self.target = params.get("REQUEST_URI", "") or rebuild_target(params.get)
        self.client = params.get("REMOTE_ADDR", "")
        self.head = b""
        self.run_began = self.run_ended = 0
        if self.body is not None:
            counts = self.connection.services.counts
            if counts is not None:
                counts.events["received_bytes"] += self.body.size
        self.submitted_at = monotonic_ns()
        Exchange.submit(self)

    @main_only
    def end_run(self) -> bool:
        """Count the request, if it has run."""
        counts = self.connection.services.counts
        if counts is not None and self.run_began:
            response = self.response
            if response is None:
                head, sent = self.final, len(self.final) + len(self.more)
            else:
                head, sent = self.head, response.written
            code = head[8] - 48 if len(head) > 8 and not self.cancelled else 0
            if not 1 <= code <= 5:
                code = 0
            began = self.run_began
            # It has not ended if an exception came from outside of the app.
            ended = self.run_ended or monotonic_ns()
            counts.add(code, began - self.submitted_at, ended - began, sent)
        return Exchange.end_run(self)

    def timing(self, now: int) -> dict[str, object]:
        """Return the fields of a log record about this request.

        Args:
            now: the time in nanoseconds, which is the end of the run if it has ended.
        """
        return {
            "method": self.method,
            "uri": self.target,
            "queued": round((self.run_began - self.submitted_at) / _SECOND, 3),
            "run": round((now - self.run_began) / _SECOND, 3),
        }


class InterruptibleExchange(WatchedExchange):
    """A request whose app can be interrupted, but not while it uses the exchange."""

    __slots__ = ("_interrupt",)

    _interrupt: Interrupt

    @property
    def interrupt(self) -> Interrupt | None:
        """Interrupts the app; None if no worker has taken the request yet."""
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


@worker_only
def run_limited(
    run: Run, app: App, base: Environ, mount: str | None, exchange: WatchedExchange
) -> None:
    """Run a request within the limits.

    Args:
        run: the function that runs it.
        app: the app.
        base: the part of the environ that all requests share.
        mount: the path at which the app is mounted.
        exchange: the exchange.

    Raises:
        Replaced: another thread has taken the place of this one.
    """
    services = exchange.connection.services
    limit = nanoseconds(services.config.queue_timeout)
    if monotonic_ns() - exchange.submitted_at > limit:
        exchange.finish(_refusal(exchange))
        services.mailbox.post(services.count, "queue_timeouts")
    elif isinstance(exchange, InterruptibleExchange):
        from vsgi_fcgi.server.interrupt import GreenletInterrupt, Interrupt

        interrupt = GreenletInterrupt() if services.workers_in_loop else Interrupt()
        exchange._interrupt = interrupt
        try:
            run(interrupt.wrap(app), base, mount, exchange)
        finally:
            was_replaced = not interrupt.decide()
        if was_replaced:
            raise Replaced
    else:
        run(app, base, mount, exchange)


def _refusal(exchange: WatchedExchange) -> bytes:
    """Return the response to a request that has waited too long for a worker, and log it."""
    services = exchange.connection.services
    services.log.info(
        "%s: %s was answered 503: it has waited for a worker for more than %g seconds",
        exchange.connection.peer,
        exchange.name,
        services.config.queue_timeout,
    )
    head_only = exchange.method == "HEAD"
    return error_response(503, head_only=head_only, retry_after=_RETRY_AFTER)


def running(pool: Pool) -> list[tuple[WatchedExchange, int]]:
    """Return the requests that run, with the idents of their threads. Callable from any thread."""
    return [
        (exchange, ident)
        for exchange, ident in pool.running()
        if exchange.run_began and not exchange.run_ended
    ]


class RunLimits:
    """Looks at the running and waiting requests from time to time.

    With worker threads and with greenlets, the main context does this. With ``--worker main``, a
    native thread does it, because an app that blocks the main context is what it has to report.

    Args:
        services: the services of the server.
        pool: the workers, with the requests that run and those that wait for them.
        connections: all connections.
        access_log: the access log, or None if there is none.

    Attributes:
        on_stuck: called with a reason if a thread is stuck, so that the process can be replaced.
        slow: the running requests that were logged as slow.
        replaced: the running requests whose thread another one has replaced.
    """

    def __init__(
        self,
        services: Services,
        pool: Pool,
        connections: Connections[Any],
        access_log: AccessLog | None,
    ) -> None:
        config = services.config
        self._services = services
        self._warn = services.log.warning
        self._pool = pool
        self._connections = connections
        self._access_log = access_log
        self._slow = nanoseconds(config.slow_request)
        self._queue_timeout = nanoseconds(config.queue_timeout)
        self._request_timeout = nanoseconds(config.request_timeout)
        self._grace = nanoseconds(config.graceful_timeout)
        self.on_stuck: Callable[[str], object] | None = None
        self.slow: set[WatchedExchange] = set()
        self.replaced: set[WatchedExchange] = set()
        # The running requests whose limit was reached, with the time of this; those that are stuck.
        self._timed_out: dict[WatchedExchange, int] = {}
        self._stuck: set[WatchedExchange] = set()
        limits = [limit for limit in config.run_limits if limit is not None]
        interval = min(min(limits) / _LOOKS, _MAX_INTERVAL)
        self._timer: TimerWatcher | None = None
        self._stopped = ThreadLatch()
        if isinstance(pool, MainWorker):
            try:
                start_thread(partial(self._watch, interval), "vsgi-fcgi-watch")
                return
            except RuntimeError:
                # The loop does it, between requests and while the app waits cooperatively.
                if config.slow_request is not None:
                    self._warn(
                        "slow_request does not find an app that blocks the main context: this host"
                        " allows no more threads"
                    )
        self._timer = services.loop.timer(interval, interval)
        self._timer.start(self._look)

    def stop(self) -> None:
        """Stop looking."""
        self._stopped.open()
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            if not self._services.in_child:
                self._look_for_ends()

    def _watch(self, interval: float) -> None:
        while not self._stopped.wait(interval):
            self._look_for_slow(monotonic_ns())
        self._look_for_ends()

    def _look(self) -> None:
        try:
            now = monotonic_ns()
            self._look_for_slow(now)
            self._refuse_old(now)
            for exchange in [each for each in self._timed_out if each.run_ended]:
                del self._timed_out[exchange]
                self._stuck.discard(exchange)
                self.replaced.discard(exchange)
            for exchange, ident in running(self._pool):
                if now - exchange.run_began >= self._request_timeout:
                    self._time_out(exchange, ident, now)
        except Exception as error:
            self._connections.report_bug(error, "running requests are checked again later")

    # Requests that are slow.

    def _look_for_slow(self, now: int) -> None:
        self._look_for_ends()
        slow = self.slow
        for exchange, ident in running(self._pool):
            if now - exchange.run_began < self._slow or exchange in slow:
                continue
            slow.add(exchange)
            places = self._stack_of(exchange, ident)
            if places is None:
                slow.discard(exchange)
                continue
            self._services.count("slow")
            message = "%s has run for %g seconds, after %g seconds in the queue"
            fields = exchange.timing(now)
            run, queued = fields["run"], fields["queued"]
            self._log(
                partial(self._warn, message, exchange.name, run, queued, fields=fields), places
            )

    def _stack_of(self, exchange: WatchedExchange, ident: int) -> list[Place] | None:
        """Return where the thread of a request is, or None if the request has just ended."""
        places = self._pool.stack(ident)
        return None if exchange.run_ended else places

    def _look_for_ends(self) -> None:
        """Log the end of slow requests."""
        for exchange in [each for each in self.slow if each.run_ended]:
            self.slow.discard(exchange)
            message, fields = "%s has ended after %g seconds", exchange.timing(exchange.run_ended)
            self._log(partial(self._warn, message, exchange.name, fields["run"], fields=fields))

    def _log(self, log: Callable[..., object], places: list[Place] | None = None) -> None:
        """Log a message, in order, in a thread that may read source files."""

        def write() -> None:
            stack = None
            if places is not None:
                stack = "Stack of its thread (most recent call last):\n" + stack_text(places)
            log(stack=stack)

        if self._timer is None:
            write()
        else:
            self._services.file_io.submit(write)

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
            if take_out(jobs, exchange):
                self._services.count("queue_timeouts")
                self._answer(exchange, _refusal(exchange), Outcome.REFUSED)
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
                response = error_response(504, head_only=exchange.method == "HEAD")
                self._answer(exchange, response, Outcome.TIMED_OUT)
            message, fields = "%s %s: it has run for %g seconds", exchange.timing(now)
            run = fields["run"]
            self._log(partial(self._warn, message, exchange.name, end, run, fields=fields), places)
        if exchange.interrupt is not None:
            exchange.interrupt.try_to_raise()
            if now - since >= self._grace and exchange not in self._stuck:
                self._stuck.add(exchange)
                self._replace(exchange, ident)

    @main_only
    def _replace(self, exchange: WatchedExchange, ident: int) -> None:
        """Have another thread take the place of one that does not return from its request."""
        pool, config, interrupt = self._pool, self._services.config, exchange.interrupt
        places = self._stack_of(exchange, ident)
        limit = config.max_stuck_threads
        if not isinstance(pool, ThreadPool) or places is None or interrupt is None:
            return
        if len(self.replaced) >= limit:
            consequence = f"it is not replaced: max_stuck_threads ({limit}) others are stuck"
        else:
            # The thread asks as well when it has ended the request.
            if not interrupt.decide():
                return
            self.replaced.add(exchange)
            self._services.count("stuck_threads")
            consequence = "another thread takes its place"
            if not pool.replace_stuck():
                consequence = "it could not be replaced, because this host limits threads"
            if self.on_stuck is not None:
                self.on_stuck("a thread is stuck")
        message = "%s has not ended %g seconds after RequestTimeout: its thread is stuck; %s"
        name, grace = exchange.name, config.graceful_timeout
        self._log(partial(self._services.log.error, message, name, grace, consequence), places)


def nanoseconds(limit: float | None) -> float:
    """Return a limit in nanoseconds, or infinity if there is none."""
    return float("inf") if limit is None else limit * _SECOND
