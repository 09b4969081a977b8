"""Hand complete requests to workers, and run the app for one request in any kind of worker.

`Dispatcher.submit` appends an exchange to the queue of the pool while connections are read. At the
end of the round, `Pool.hand_over` runs the requests or wakes threads for them. A worker calls the
function that `make_run` has made, which has no branches for what the settings have decided: it is
a chain of partial objects around `run_request`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, Protocol

from vsgi_fcgi.protocol import Role
from vsgi_fcgi.server.disconnect import RequestInput
from vsgi_fcgi.server.exchange import Exchange, RequestHandle
from vsgi_fcgi.server.roles import ROLE_NAMES, Apps
from vsgi_fcgi.transport.thread_affinity import main_only, worker_only
from vsgi_fcgi.wsgi.environ import Environ, ErrorStream, base_environ, make_environ
from vsgi_fcgi.wsgi.response import App, StartResponse, run_app

if TYPE_CHECKING:
    from vsgi_fcgi.server.stacks import Place


class Pool(Protocol):
    """What runs requests: threads, the main context itself, or greenlets in it."""

    jobs: deque[Exchange]
    """The queue: requests that no worker has taken yet."""

    fresh: bool
    """Requests were queued after the last call of `hand_over`."""

    size: int
    """The number of workers."""

    @property
    def free(self) -> int:
        """The number of workers that have no request."""

    def running(self) -> list[tuple[Any, int]]:
        """Return what the workers have taken, with an ident of each worker, in any thread."""

    def stack(self, ident: int) -> list[Place]:
        """Return where a worker is, in any thread; empty if it has ended."""

    def hand_over(self) -> None:
        """Run queued requests. Called in each round of the loop, after everything was read."""

    def stop(self) -> None:
        """End the workers as they become free."""


def take_out(jobs: deque[Any], exchange: Exchange) -> bool:
    """Take a request out of the queue of a pool; return False if a worker has it already."""
    try:
        jobs.remove(exchange)
    except ValueError:
        return False
    return True


class Dispatcher:
    """The way down, from the main context to the workers.

    Args:
        pool: the workers.
        max_queued: the setting ``max_queued``.
        request_round: has `Pool.hand_over` called at the end of this round of the loop.
        take_notes: called with each exchange before it is submitted: the access log keeps what it
            needs of the params, which become the app's.

    Attributes:
        intercept: called with each complete request; it is not submitted if this returns True.
    """

    __slots__ = ("_jobs", "_max_queued", "_pool", "_request_round", "_take_notes", "intercept")

    def __init__(
        self,
        pool: Pool,
        max_queued: int,
        request_round: Callable[[], object],
        take_notes: Callable[[Any], object] | None,
    ) -> None:
        self._pool = pool
        self._jobs = pool.jobs
        self._max_queued = max_queued
        self._take_notes = take_notes
        self.intercept: Callable[[Exchange], bool] | None = None
        self._request_round = request_round

    @main_only
    def submit(self, exchange: Exchange) -> None:
        """Queue a complete request, or answer 503 if too many requests wait already.

        A bare END_REQUEST with OVERLOADED would follow the specification more closely, but web
        servers turn it into an empty response with status 200, or into a timeout.
        """
        if self.intercept is not None and self.intercept(exchange):
            return
        waiting = len(self._jobs)
        if waiting >= self._max_queued and not self._make_room():
            exchange.refuse(503, f"{self._max_queued} requests wait for a worker")
            return
        if self._take_notes is not None:
            self._take_notes(exchange)
        exchange.submit()
        self._jobs.append(exchange)
        if not self._pool.fresh:
            self._pool.fresh = True
            self._request_round()

    def _make_room(self) -> bool:
        """Let workers begin before the end of the round, because the queue is full.

        Returns:
            Whether one more request can be queued.
        """
        self._pool.hand_over()
        # Requests that came together wait for a moment, even if there is a worker for each.
        return len(self._jobs) < self._max_queued + self._pool.free

    @main_only
    def forget(self, exchange: Exchange) -> bool:
        """Take a cancelled request out of the queue; return False if a worker has it already."""
        return take_out(self._jobs, exchange)

    @property
    def waiting(self) -> int:
        """The number of requests that no worker has taken yet."""
        return len(self._jobs)


# What a worker does with a request.

Run = Callable[[App, Environ, str | None, Exchange], None]

# The params become the environ, which refers to wsgi.errors, which refers to the exchange and the
# request. If the request still referred to the params, each request would be a cycle and wait for
# the garbage collector.
_TAKEN: dict[str, str] = {}


@worker_only
def run_request(app: App, base: Environ, mount: str | None, exchange: Exchange) -> None:
    """Make the environ, run the app and end the exchange, even if an exception is raised here.

    Args:
        app: the WSGI app.
        base: the part of the environ that all requests share.
        mount: the path at which the app is mounted; None to derive it from the params.
        exchange: the exchange.
    """
    try:
        if exchange.cancelled:
            return
        exchange.note_begin()
        request, body = exchange.request, exchange.body
        params, request.params = request.params, _TAKEN
        exchange.software = params.get("SERVER_SOFTWARE")
        errors = exchange.errors = ErrorStream(exchange)
        if body is None:
            environ = make_environ(params, request.repeated, base, None, 0, errors, mount)
        else:
            file = body.open()
            stream: Any = None if file is None else RequestInput(file, exchange)
            size = body.size
            environ = make_environ(params, request.repeated, base, stream, size, errors, mount)
        environ["vsgi_fcgi.request"] = RequestHandle(exchange)
        # A context variable that an app sets must not reach the next request of this thread.
        Context().run(run_app, app, environ, exchange)
    except BaseException as error:
        # First the answer: there may be too little memory to format the traceback.
        exchange.break_off()
        exchange.report("a bug in the server", error)
    finally:
        if not exchange.closed:
            exchange.finish()


@worker_only
def run_filter(app: App, base: Environ, mount: str | None, exchange: Exchange) -> None:
    """Run a filter, whose app also gets a file. Otherwise like `run_request`."""
    run_request(partial(_call_filter, app, exchange), base, mount, exchange)


def _call_filter(
    app: App, exchange: Exchange, environ: Environ, start_response: StartResponse
) -> Iterable[bytes]:
    data = exchange.data
    assert data is not None
    file = data.open()
    environ["vsgi_fcgi.data"] = BytesIO() if file is None else RequestInput(file, exchange)
    environ["FCGI_DATA_LENGTH"] = str(data.size)
    return app(environ, start_response)


def make_run(
    apps: Apps, *, around: Callable[..., None] | None, mount: str | None, **base: Any
) -> Callable[[Exchange], None]:
    """Return the function that runs a request.

    Args:
        apps: the apps.
        around: calls the function that it gets with the arguments that follow; None for nothing.
        mount: the path at which the apps are mounted; None to derive it from the params.
        **base: arguments for `base_environ`.
    """
    runs: dict[int, Callable[[Any], None]] = {}
    for role, app in apps.by_role.items():
        environ = base_environ(role=ROLE_NAMES[role], **base)
        run: Run = run_filter if role == Role.FILTER else run_request
        args = (app, environ, mount)
        runs[role] = partial(run, *args) if around is None else partial(around, run, *args)
    if len(runs) == 1:
        return runs.popitem()[1]
    return partial(_run_by_role, runs)


def _run_by_role(runs: Mapping[int, Callable[[Exchange], None]], exchange: Exchange) -> None:
    runs[exchange.request.role](exchange)
