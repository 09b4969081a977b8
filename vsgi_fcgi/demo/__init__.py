"""Demonstration app, which shows how it is served and offers requests that test a server.

``vsgi_fcgi.demo:app`` is an ordinary WSGI app. Of the server, it uses only the version number. It
is not for production: it shows the data of a request to every client, and every client can occupy
a worker for a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from werkzeug.exceptions import BadRequest, HTTPException, MethodNotAllowed, NotFound
from werkzeug.wrappers import Request, Response

from vsgi_fcgi.demo import trials
from vsgi_fcgi.demo.page import ICON, SCRIPT, STYLE, error_page, page

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["app"]

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers that every response has."""


class Route(NamedTuple):
    """View of a path.

    Attributes:
        view: function that returns the response to a request.
        methods: allowed methods.
    """

    view: Callable[[Request], Response]
    methods: tuple[str, ...] = ("GET", "HEAD")


ROUTES = {
    "/": Route(page),
    "/demo.css": Route(STYLE),
    "/demo.js": Route(SCRIPT),
    "/icon.svg": Route(ICON),
    "/upload": Route(trials.upload, ("POST",)),
    "/slow": Route(trials.slow),
    "/events": Route(trials.events),
    "/talk": Route(trials.talk, ("GET", "HEAD", "POST")),
    "/error": Route(trials.error),
}


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer a request; the app may be mounted at any path."""
    # The page shows the environ, so werkzeug must not add keys to it.
    request = Request(environ, populate_request=False)
    try:
        response = _answer(request)
    except BadRequest as error:
        response = Response(f"{error.description}\n", "400 Bad Request")
    except HTTPException as error:
        response = error_page(request, error)
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.update(_HEADERS)
    return response(environ, start_response)


def _answer(request: Request) -> Response:
    # Request.path is not used, because it treats // as /.
    route = ROUTES.get(request.environ.get("PATH_INFO") or "/")
    if route is None:
        raise NotFound("This page does not exist.")
    if request.method not in route.methods:
        raise MethodNotAllowed(route.methods, f"This URL supports {', '.join(route.methods)}.")
    return route.view(request)
