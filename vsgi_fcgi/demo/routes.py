"""The app: which path leads where."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from vsgi_fcgi.demo import page, trials
from vsgi_fcgi.demo.files import ICON, SCRIPT, STYLE

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from vsgi_fcgi.demo.responses import Handler


class Route(NamedTuple):
    """What is to be found at a path.

    Attributes:
        handler: answers.
        methods: the methods that it knows.
    """

    handler: Handler
    methods: tuple[str, ...] = ("GET", "HEAD")


ROUTES = {
    "/": Route(page.page),
    "/demo.css": Route(STYLE),
    "/demo.js": Route(SCRIPT),
    "/icon.svg": Route(ICON),
    "/upload": Route(trials.upload, ("POST",)),
    "/slow": Route(trials.slow),
    "/events": Route(trials.events),
    "/error": Route(trials.error),
}


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer a request to the demonstration, wherever it is mounted."""
    route = ROUTES.get(environ.get("PATH_INFO") or "/")
    if route is None:
        return page.not_found(environ, start_response)
    if environ["REQUEST_METHOD"] not in route.methods:
        return page.not_allowed(environ, start_response, route.methods)
    return route.handler(environ, start_response)
