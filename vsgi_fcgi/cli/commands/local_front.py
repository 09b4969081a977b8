"""HTTP servers for the administrators and the programs of this machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from vsgi_fcgi.cli.settings.options import Options
from vsgi_fcgi.http.server import HTTPServer
from vsgi_fcgi.listen.listeners import Listener
from vsgi_fcgi.server.server import Server
from vsgi_fcgi.status.app import Response

MAX_CONNECTIONS = 64
"""Maximum HTTP connections on each address."""


class LocalFront:
    """Serves HTTP in the main context of the server, until the server has ended.

    Args:
        listeners: the listening sockets.
        server: the server, which must not run yet.
        options: the settings.

    Attributes:
        methods: the methods that are allowed.
        starts: what the log says before the address.
        warning: what the log says if other machines can connect.
    """

    methods: tuple[str, ...]
    starts: str
    warning: str

    def __init__(self, listeners: Sequence[Listener], server: Server, options: Options) -> None:
        self.server = server
        self._listeners = listeners
        config = replace(options, max_http_connections=MAX_CONNECTIONS, http_log=False)
        self._local = not any(listener.open_to_others for listener in listeners)
        sockets = [listener.sock for listener in listeners]
        self.http = HTTPServer(sockets, self._app, config, server.log)
        server.at_start.append(self._start)

    def respond(self, environ: dict[str, Any]) -> Response:
        """Return the response to a request. Called in a greenlet of the main context."""
        raise NotImplementedError

    def _start(self) -> None:
        self.http.start()
        for listener in self._listeners:
            self.server.log.info("%s %s", self.starts, listener.uri.partition(":")[2])
        if not self._local:
            self.server.log.warning("%s; use a loopback address or a UNIX socket", self.warning)

    def _app(
        self, environ: dict[str, Any], start_response: Callable[..., object]
    ) -> Iterable[bytes]:
        if self._local and environ["REMOTE_ADDR"] and not _is_local(environ.get("HTTP_HOST", "")):
            # A page of another site whose name was made to point to this machine.
            status, headers, body = text(
                "403 Forbidden", "The header Host must be localhost or an IP address."
            )
        else:
            status, headers, body = self.respond(environ)
        start_response(status, headers)
        return [body]


def text(status: str, sentence: str = "", *more: tuple[str, str]) -> Response:
    """Return a response of plain text.

    Args:
        status: its status.
        sentence: its body; the status by default.
        *more: further headers.
    """
    body = f"{sentence or status}\n".encode()
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *more]
    return status, headers, body


def _is_local(host: str) -> bool:
    """Return whether a Host header names no other site: an IP address, localhost or nothing."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
