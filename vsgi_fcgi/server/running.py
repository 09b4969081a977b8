"""What a worker does with one request, whichever kind of worker it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from io import BytesIO
from time import monotonic_ns
from typing import Any

from vsgi_fcgi.protocol import Role
from vsgi_fcgi.server.body import Body
from vsgi_fcgi.server.contract import worker_only
from vsgi_fcgi.server.filter_body import FilterBody
from vsgi_fcgi.server.logged_reply import LoggedReply
from vsgi_fcgi.server.reply import Reply
from vsgi_fcgi.server.roles import ROLE_NAMES, Apps
from vsgi_fcgi.wsgi.environ import Environ, base_environ, make_environ
from vsgi_fcgi.wsgi.errors import ErrorStream
from vsgi_fcgi.wsgi.runner import App, StartResponse, run_app

Run = Callable[[App, Environ, str | None, Reply], None]

# The params become the environ, which holds wsgi.errors, which holds the reply and with it the
# request: if the request held the params still, each request would be a cycle, and wait for the
# garbage collector.
_TAKEN: dict[str, str] = {}


@worker_only
def run_request(app: App, base: Environ, mount: str | None, reply: Reply) -> None:
    """Make the environ, run the app, end the reply; nothing is raised.

    Args:
        app: the WSGI app.
        base: the part of the environ that all requests share.
        mount: where the app is mounted; None to work it out.
        reply: the request.
    """
    try:
        if reply.cancelled:
            return
        request, body = reply.request, reply.body
        params, request.params = request.params, _TAKEN
        reply.software = params.get("SERVER_SOFTWARE")
        errors = reply.errors = ErrorStream(reply)
        if body is None:
            environ = make_environ(params, request.repeated, base, None, 0, errors, mount)
        else:
            stream = body.open()
            size = body.size
            environ = make_environ(params, request.repeated, base, stream, size, errors, mount)
        run_app(app, environ, reply)
    except BaseException as error:
        reply.report("a bug in the server", error)
        reply.break_off()
    finally:
        reply.finish()


@worker_only
def run_filter(app: App, base: Environ, mount: str | None, reply: Reply) -> None:
    """Do the same for a filter, whose app gets a file too."""
    assert isinstance(reply.body, FilterBody)
    run_request(partial(_call_filter, app, reply.body.data), base, mount, reply)


def _call_filter(
    app: App, data: Body, environ: Environ, start_response: StartResponse
) -> Iterable[bytes]:
    environ["vsgi_fcgi.data"] = data.open() or BytesIO()
    environ["FCGI_DATA_LENGTH"] = str(data.size)
    return app(environ, start_response)


@worker_only
def run_timed(run: Run, app: App, base: Environ, mount: str | None, reply: LoggedReply) -> None:
    """Run it, by one of the above, for an access log that tells how long it took."""
    reply.run_began = monotonic_ns()
    run(app, base, mount, reply)
    reply.run_ended = monotonic_ns()


def make_run(apps: Apps, *, timed: bool, mount: str | None, **base: Any) -> Callable[[Reply], None]:
    """What a worker is to do with a request.

    Args:
        apps: the apps.
        timed: whether it is to be noted how long it took.
        mount: where the apps are mounted; None to work it out.
        **base: for `base_environ`.
    """
    runs: dict[int, Callable[[Any], None]] = {}
    for role, app in apps.by_role.items():
        environ = base_environ(role=ROLE_NAMES[role], **base)
        run: Run = run_filter if role == Role.FILTER else run_request
        args = (app, environ, mount)
        runs[role] = partial(run_timed, run, *args) if timed else partial(run, *args)
    if len(runs) == 1:
        return runs.popitem()[1]
    return partial(_run_by_role, runs)


def _run_by_role(runs: Mapping[int, Callable[[Reply], None]], reply: Reply) -> None:
    runs[reply.request.role](reply)
