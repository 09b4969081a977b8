"""The HTTP server: accepts and limits connections, and stops without losing a request."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

import gevent
import gevent.socket
from gevent.server import StreamServer

from vsgi_fcgi import __version__
from vsgi_fcgi.children import give_up_in_children, silence
from vsgi_fcgi.http.config import HTTPConfig
from vsgi_fcgi.http.connection import App, HTTPConnection, Logger
from vsgi_fcgi.http.head import RequestError
from vsgi_fcgi.transport.unpatched import get_ident

_POLL_INTERVAL: Final = 0.02
"""Seconds between two checks whether the last request has ended, while the server stops."""

_LAST_REQUESTS: Final = 0.2
"""Seconds for which idle connections stay open after the server has begun to stop.

A client may be sending a request at that moment. It gets a response with "Connection: close",
whereas a closed connection would be an error.
"""

_LAST_ANSWERS: Final = 1.0
"""Seconds for clients to read the last responses, if all requests have ended in time."""

_ACCEPT_BACKOFF: Final = 0.5
"""Seconds without accepting after an error, for example if no file descriptors are left."""

_ACCEPT_LOG_INTERVAL: Final = 10.0
"""Seconds between two log lines about such errors."""

_MAX_REJECTION_LINES: Final = 10
"""Maximum log lines about rejected requests in a second."""


class HTTPServer:
    """Serves an app over HTTP on listening sockets, in the hub of the calling thread.

    Args:
        sockets: the listening sockets, which the server closes when it stops.
        app: the WSGI app, usually a `Gateway`.
        config: limits and timeouts.
        log: the log.
    """

    def __init__(self, sockets: Iterable[Any], app: App, config: HTTPConfig, log: Logger) -> None:
        self._servers = [_Server(sock, app, config, log) for sock in sockets]
        self._ident = get_ident()
        give_up_in_children(self)

    def forked(self) -> None:
        """Leave all connections to the parent process after a fork."""
        in_hub = get_ident() == self._ident
        for server in self._servers:
            server.forked(stop=in_hub)

    def start(self) -> None:
        """Begin to accept connections."""
        for server in self._servers:
            server.start()

    def stop(self, grace: float) -> bool:
        """Accept the queued connections, close idle ones, and wait for running requests.

        Args:
            grace: maximum seconds to wait.

        Returns:
            Whether all requests have ended.
        """
        for server in self._servers:
            server.begin_stopping()
        last = _LAST_ANSWERS
        try:
            with gevent.Timeout(grace):
                last_requests = time.monotonic() + _LAST_REQUESTS
                while self._open and time.monotonic() < last_requests:
                    gevent.sleep(_POLL_INTERVAL)
                for server in self._servers:
                    server.close_idle()
                while self._open:
                    gevent.sleep(_POLL_INTERVAL)
        except gevent.Timeout:
            last = 0.0
            busy = sum(server.busy for server in self._servers)
            if busy:
                self._servers[0].log.warning("HTTP requests that still ran are cut off: %d", busy)
            return not busy
        finally:
            for server in self._servers:
                server.stop(last)
        return True

    @property
    def _open(self) -> bool:
        """Whether a request is running, or an idle connection is open."""
        return any(server.busy or server.idle for server in self._servers)


class _Server(StreamServer):
    """One listening socket."""

    def __init__(self, sock: Any, app: App, config: HTTPConfig, log: Logger) -> None:
        listener = gevent.socket.socket(
            sock.family, sock.type, sock.proto, fileno=os.dup(sock.fileno())
        )
        super().__init__(listener, spawn=config.max_http_connections)
        self.app = app
        self.config = config
        self.log = log
        self.environ = {
            "SCRIPT_NAME": "",
            "SERVER_SOFTWARE": f"vsgi_fcgi/{__version__}",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.errors": _Errors(log),
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
        }
        self.stopping = False
        self.closing_idle = False
        self.busy = 0
        self.idle: set[HTTPConnection] = set()
        self._connections: set[HTTPConnection] = set()
        self._original = sock
        self._accept_logged = -_ACCEPT_LOG_INTERVAL
        self._refused_in = 0
        self._refusals = 0

    def handle(self, sock: Any, address: Any) -> None:
        """Serve one connection."""
        connection = HTTPConnection(self, sock, address)
        self._connections.add(connection)
        try:
            connection.serve()
        finally:
            self._connections.discard(connection)

    def forked(self, *, stop: bool) -> None:
        """Leave the sockets to the parent process after a fork.

        Args:
            stop: whether to end the greenlets; True if the loop may continue in this process.
        """
        # The parent process logs the running requests.
        self.config = replace(self.config, http_log=False)
        if not self.closed:
            silence(self.socket.fileno())
            if stop:
                self.close()
        for connection in self._connections:
            connection.forked(stop=stop)

    def do_read(self) -> Any:
        """Accept a connection, or return None if none is waiting."""
        try:
            return super().do_read()
        except OSError as error:
            self._pause(error)
            return None

    def _pause(self, error: OSError) -> None:
        """Pause accepting: gevent would close its server, or print a traceback each time."""
        now = time.monotonic()
        if now - self._accept_logged >= _ACCEPT_LOG_INTERVAL:
            self._accept_logged = now
            self.log.warning("cannot accept HTTP connections: %s; trying again", error)
        if self.started:
            self.stop_accepting()
            # `_timer` is an attribute of gevent: its `stop_accepting` closes the timer.
            timer: Any = self.loop.timer(_ACCEPT_BACKOFF)
            self._timer = timer
            timer.start(self._resume)

    def _resume(self) -> None:
        if self.started:
            self.start_accepting()

    def begin_stopping(self) -> None:
        """Accept the queued connections, then stop; each connection serves one more request."""
        self.stopping = True
        with contextlib.suppress(OSError):  # there may be no file descriptors left
            while not self.full() and (accepted := self.do_read()) is not None:
                self.do_handle(*accepted)
        self.close()
        # While one of the two sockets is open, new clients connect and wait for a response that
        # never comes.
        self._original.close()

    def close_idle(self) -> None:
        """Close the idle connections, after serving requests that have already arrived."""
        self.closing_idle = True
        for connection in list(self.idle):
            connection.stop_reading()

    def refuse(self, peer: str, error: RequestError) -> None:
        """Log a rejected request, at a limited rate because any client can cause these lines."""
        now = int(time.monotonic())
        if now != self._refused_in:
            if self._refusals > _MAX_REJECTION_LINES:
                more = self._refusals - _MAX_REJECTION_LINES
                self.log.warning("%d more HTTP requests were rejected", more)
            self._refused_in, self._refusals = now, 0
        self._refusals += 1
        if self._refusals <= _MAX_REJECTION_LINES:
            self.log.warning("%s: HTTP request rejected (%d): %s", peer, error.status, error.reason)


class _Errors:
    """The stream for ``wsgi.errors``: writes to the log."""

    def __init__(self, log: Logger) -> None:
        self._log = log

    def write(self, text: str) -> None:
        """Log text."""
        if text.strip():
            self._log.warning("%s", text.rstrip())

    def writelines(self, lines: Iterable[str]) -> None:
        """Log lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Do nothing: `write` does not buffer."""
