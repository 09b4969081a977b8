"""``--status-bind``: an HTTP server for the status, in the main context of the server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from vsgi_fcgi.cli.commands.local_front import LocalFront, text
from vsgi_fcgi.cli.settings.options import Options
from vsgi_fcgi.listen.listeners import Listener
from vsgi_fcgi.server.mailbox import GreenletLatch
from vsgi_fcgi.server.publishing import Publisher
from vsgi_fcgi.server.server import Server
from vsgi_fcgi.status.app import PATHS, Response, respond


class StatusFront(LocalFront):
    """Serves the status on HTTP."""

    starts = "serving the status on"
    warning = (
        "the status can be read from other machines: it shows the URLs of requests and the"
        " addresses of clients"
    )

    def __init__(self, listeners: Sequence[Listener], server: Server, options: Options) -> None:
        super().__init__(listeners, server, options)
        server.serves_status = True

    def respond(self, environ: dict[str, Any]) -> Response:
        """Return a page of the status."""
        publisher = self.server.publisher
        path = environ["PATH_INFO"] or "/"
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return text("405 Method Not Allowed", "", ("Allow", "GET, HEAD"))
        if path not in PATHS:
            return text("404 Not Found")
        if publisher is None:
            return text("503 Service Unavailable")
        return self._ask(publisher, path, environ["QUERY_STRING"])

    def _ask(self, publisher: Publisher, path: str, query: str) -> Response:
        latch = GreenletLatch()
        responses: list[Response] = []

        def done(response: Response) -> None:
            responses.append(response)
            latch.open()

        if not publisher.ask(partial(respond, publisher, path, query, ""), done):
            return text("503 Service Unavailable")
        latch.wait(None)
        return responses[0]
