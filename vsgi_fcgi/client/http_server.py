"""HTTP in front of the gateway: gevent's pywsgi, with limits and an end that loses nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Any

import gevent
import gevent.socket
from gevent.pywsgi import WSGIHandler, WSGIServer

from vsgi_fcgi import __version__
from vsgi_fcgi.client.connection import Logger
from vsgi_fcgi.client.gateway import BodyBroken
from vsgi_fcgi.client.http_config import HTTPConfig
from vsgi_fcgi.exceptions import UpstreamError
from vsgi_fcgi.wsgi.headers import error_page

App = Callable[[dict[str, Any], Any], Iterable[bytes]]

_LOOK = 0.05
"""Seconds between two looks at whether the last request has ended, while it stops."""


class HTTPServer:
    """Serves an app by HTTP on sockets that listen already, in the calling thread's hub.

    Args:
        sockets: listening sockets, which it closes when it stops.
        app: what answers; the gateway, as a rule.
        config: limits and timeouts.
        log: the log.
    """

    def __init__(self, sockets: Iterable[Any], app: App, config: HTTPConfig, log: Logger) -> None:
        self._servers = [_Server(sock, app, config, log) for sock in sockets]

    def start(self) -> None:
        """Begin to accept."""
        for server in self._servers:
            server.start()

    def stop(self, grace: float) -> bool:
        """Accept what is queued and no more, hang up on who is idle, let requests end.

        Args:
            grace: seconds that they get.

        Returns:
            Whether all of them have ended.
        """
        for server in self._servers:
            server.begin_stopping()
        try:
            with gevent.Timeout(grace):
                # Whoever was accepted just now gets to read what has come.
                gevent.sleep(0)
                while any(server.busy for server in self._servers):
                    gevent.sleep(_LOOK)
        except gevent.Timeout:
            return False
        finally:
            for server in self._servers:
                server.stop(1)
        return True


class _Server(WSGIServer):
    """One listening socket."""

    def __init__(self, sock: Any, app: App, config: HTTPConfig, log: Logger) -> None:
        listener = gevent.socket.socket(
            sock.family, sock.type, sock.proto, fileno=os.dup(sock.fileno())
        )
        super().__init__(
            listener,
            app,
            spawn=config.max_http_connections,
            log=None,
            error_log=_Lines(log),
            handler_class=_Handler,
            environ={"SERVER_SOFTWARE": f"vsgi_fcgi/{__version__}"},
        )
        self.logger = log
        self._original = sock
        self.stopping = False
        self.busy = 0
        self.idle: set[Any] = set()
        self._timeout = config.http_timeout

    def handle(self, sock: Any, address: Any) -> None:
        """Serve one connection."""
        sock.settimeout(self._timeout)
        # Headers and body are sent apart: the second would wait until the first is confirmed.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().handle(sock, address)

    def begin_stopping(self) -> None:
        """Accept what is queued, then no more, and hang up on whoever has asked nothing."""
        self.stopping = True
        with contextlib.suppress(OSError):  # there may be no descriptor left
            while not self.full() and (accepted := self.do_read()) is not None:
                self.do_handle(*accepted)
        self.close()
        # As long as one of the two is open, who connects waits for an answer that never comes.
        self._original.close()
        for sock in list(self.idle):
            _take_no_more(sock)


class _Handler(WSGIHandler):
    """One connection."""

    server: _Server

    def read_requestline(self) -> Any:
        """Wait for the next request; once the server stops, take only what has come already."""
        sock = self.socket
        if self.server.stopping:
            _take_no_more(sock)
        self.server.idle.add(sock)
        try:
            return super().read_requestline()
        finally:
            self.server.idle.discard(sock)

    def get_environ(self) -> dict[str, Any]:
        """The environ, with the target of the request as it came."""
        environ: dict[str, Any] = super().get_environ()
        environ["REQUEST_URI"] = environ["RAW_URI"] = self.path
        return environ

    def handle_one_response(self) -> None:
        """Answer one request."""
        server = self.server
        server.busy += 1
        try:
            super().handle_one_response()
        finally:
            server.busy -= 1
            if server.stopping:
                self.close_connection = True

    def handle_error(self, kind: Any, error: Any, traceback: Any) -> None:
        """Say in one line what is nobody's bug; what is out cannot be taken back."""
        if isinstance(error, UpstreamError | BodyBroken) and not self.headers_sent:
            status = error.status if isinstance(error, UpstreamError) else 400
            line, headers, body = error_page(status)
            self.start_response(line, headers, sys.exc_info())
            self.write(body)
            self.close_connection |= status == 400
        elif isinstance(error, UpstreamError | BodyBroken | TimeoutError | ConnectionError):
            self.close_connection = True
        else:
            super().handle_error(kind, error, traceback)
            return
        self.server.logger.warning("%s: %s", (self.requestline or "").strip(), error)


def _take_no_more(sock: Any) -> None:
    """What has come can still be read, and then the end."""
    with contextlib.suppress(OSError):  # its client may be gone
        sock.shutdown(socket.SHUT_RD)


class _Lines:
    """What pywsgi writes its complaints to."""

    def __init__(self, log: Logger) -> None:
        self._log = log

    def write(self, text: str) -> None:
        """Log a piece of text."""
        if text.strip():
            self._log.warning("%s", text.rstrip())

    def writelines(self, lines: Iterable[str]) -> None:
        """Log several."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing is kept back."""
