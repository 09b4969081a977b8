"""``--status-bind``: an HTTP server for the status, in the main context of the server."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from vsgi_fcgi.cli.settings.options import Options
from vsgi_fcgi.http.server import HTTPServer
from vsgi_fcgi.listen.listeners import Listener
from vsgi_fcgi.server.mailbox import GreenletLatch
from vsgi_fcgi.server.publishing import Publisher
from vsgi_fcgi.server.server import Server
from vsgi_fcgi.status.app import PATHS, Response, respond

_MAX_CONNECTIONS = 64
"""Maximum HTTP connections for the status."""


class StatusFront:
    """Serves the status on HTTP, until the server has ended.

    Args:
        listeners: the listening sockets.
        server: the server, which must not run yet and has a scoreboard.
        options: the settings.
    """

    def __init__(self, listeners: Sequence[Listener], server: Server, options: Options) -> None:
        self._listeners = listeners
        self._server = server
        config = replace(options, max_http_connections=_MAX_CONNECTIONS, http_log=False)
        self._local = not any(listener.open_to_others for listener in listeners)
        sockets = [listener.sock for listener in listeners]
        self._http = HTTPServer(sockets, self._app, config, server.log)
        server.at_start.append(self._start)

    def _start(self) -> None:
        self._http.start()
        for listener in self._listeners:
            self._server.log.info("serving the status on %s", listener.uri.partition(":")[2])
        if not self._local:
            self._server.log.warning(
                "the status can be read from other machines: it shows the URLs of requests and the"
                " addresses of clients; use a loopback address or a UNIX socket"
            )

    def _app(
        self, environ: dict[str, Any], start_response: Callable[..., object]
    ) -> Iterable[bytes]:
        publisher = self._server.publisher
        path = environ["PATH_INFO"] or "/"
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            status, headers, body = _error("405 Method Not Allowed")
        elif self._local and environ["REMOTE_ADDR"] and not _is_local(environ["HTTP_HOST"]):
            # A page of another site whose name was made to point to this machine.
            status, headers, body = _error("403 Forbidden")
        elif path not in PATHS:
            status, headers, body = _error("404 Not Found")
        elif publisher is None:
            status, headers, body = _error("503 Service Unavailable")
        else:
            status, headers, body = self._ask(publisher, path, environ["QUERY_STRING"])
        start_response(status, headers)
        return [body]

    def _ask(self, publisher: Publisher, path: str, query: str) -> Response:
        latch = GreenletLatch()
        responses: list[Response] = []

        def done(response: Response) -> None:
            responses.append(response)
            latch.open()

        if not publisher.ask(partial(respond, publisher, path, query, ""), done):
            return _error("503 Service Unavailable")
        latch.wait(None)
        return responses[0]


def _error(status: str) -> Response:
    body = f"{status}\n".encode()
    return status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))], body


def _is_local(host: str) -> bool:
    """Return whether a Host header names no other site: an IP address or localhost."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
