"""Run the app for one request, in any kind of worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import Context
from functools import partial
from io import BytesIO
from time import monotonic_ns
from typing import Any

from vsgi_fcgi.protocol import Role
from vsgi_fcgi.server.body import Body
from vsgi_fcgi.server.exchange import Exchange, LoggedExchange
from vsgi_fcgi.server.roles import ROLE_NAMES, Apps
from vsgi_fcgi.transport.thread_affinity import worker_only
from vsgi_fcgi.wsgi.environ import Environ, ErrorStream, base_environ, make_environ
from vsgi_fcgi.wsgi.response import App, StartResponse, run_app

Run = Callable[[App, Environ, str | None, Exchange], None]

# The params become the environ, which refers to wsgi.errors, which refers to the exchange and the
# request. If the request still referred to the params, each request would be a cycle and wait for
# the garbage collector.
_TAKEN: dict[str, str] = {}


@worker_only
def run_request(app: App, base: Environ, mount: str | None, exchange: Exchange) -> None:
    """Make the environ, run the app and end the exchange. No exception is raised.

    Args:
        app: the WSGI app.
        base: the part of the environ that all requests share.
        mount: the path at which the app is mounted; None to derive it from the params.
        exchange: the exchange.
    """
    try:
        if exchange.cancelled:
            return
        request, body = exchange.request, exchange.body
        params, request.params = request.params, _TAKEN
        exchange.software = params.get("SERVER_SOFTWARE")
        errors = exchange.errors = ErrorStream(exchange)
        if body is None:
            environ = make_environ(params, request.repeated, base, None, 0, errors, mount)
        else:
            stream = body.open()
            size = body.size
            environ = make_environ(params, request.repeated, base, stream, size, errors, mount)
        # A context variable that an app sets must not reach the next request of this thread.
        Context().run(run_app, app, environ, exchange)
    except BaseException as error:
        exchange.report("a bug in the server", error)
        exchange.break_off()
    finally:
        if not exchange.closed:
            exchange.finish()


@worker_only
def run_filter(app: App, base: Environ, mount: str | None, exchange: Exchange) -> None:
    """Run a filter, whose app also gets a file. Otherwise like `run_request`."""
    assert exchange.data is not None
    run_request(partial(_call_filter, app, exchange.data), base, mount, exchange)


def _call_filter(
    app: App, data: Body, environ: Environ, start_response: StartResponse
) -> Iterable[bytes]:
    environ["vsgi_fcgi.data"] = data.open() or BytesIO()
    environ["FCGI_DATA_LENGTH"] = str(data.size)
    return app(environ, start_response)


@worker_only
def run_timed(
    run: Run, app: App, base: Environ, mount: str | None, exchange: LoggedExchange
) -> None:
    """Run a request, and note for the access log when the app began and ended."""
    exchange.run_began = monotonic_ns()
    run(app, base, mount, exchange)
    exchange.run_ended = monotonic_ns()


def make_run(
    apps: Apps, *, around: Callable[..., None] | None, mount: str | None, **base: Any
) -> Callable[[Exchange], None]:
    """Return the function that runs a request.

    Args:
        apps: the apps.
        around: calls the function that it gets with the arguments that follow, such as `run_timed`;
            None for nothing.
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
