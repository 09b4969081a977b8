"""What a worker does with one request, whichever kind of worker it is."""

from __future__ import annotations

from time import monotonic_ns

from vsgi_fcgi.server.contract import worker_only
from vsgi_fcgi.server.logged_reply import LoggedReply
from vsgi_fcgi.server.reply import Reply
from vsgi_fcgi.wsgi.environ import Environ, make_environ
from vsgi_fcgi.wsgi.errors import ErrorStream
from vsgi_fcgi.wsgi.runner import App, run_app

# The params become the environ, which holds wsgi.errors, which holds the reply and with it the
# request: if the request held the params still, each request would be a cycle, and wait for the
# garbage collector.
_TAKEN: dict[str, str] = {}


@worker_only
def run_request(app: App, base: Environ, reply: Reply) -> None:
    """Make the environ, run the app, end the reply; nothing is raised.

    Args:
        app: the WSGI app.
        base: the part of the environ that all requests share.
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
            environ = make_environ(params, request.repeated, base, None, 0, errors)
        else:
            stream = body.open()
            environ = make_environ(params, request.repeated, base, stream, body.size, errors)
        run_app(app, environ, reply)
    except BaseException as error:
        reply.report("a bug in the server", error)
        reply.break_off()
    finally:
        reply.finish()


@worker_only
def run_timed(app: App, base: Environ, reply: LoggedReply) -> None:
    """Do the same for an access log that tells how long it took."""
    reply.run_began = monotonic_ns()
    run_request(app, base, reply)
    reply.run_ended = monotonic_ns()
