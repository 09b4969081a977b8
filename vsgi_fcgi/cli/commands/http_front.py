"""``--http``: an HTTP server in the same process, which forwards requests over FastCGI."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence

from vsgi_fcgi.addresses import UnixAddress
from vsgi_fcgi.cli.commands.listeners import with_static
from vsgi_fcgi.cli.settings.options import Options
from vsgi_fcgi.client.gateway import Gateway
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.http.server import HTTPServer
from vsgi_fcgi.listen.listeners import Listener, open_listener
from vsgi_fcgi.listen.ownership import SocketOwnership
from vsgi_fcgi.server.server import Server


class HTTPFront:
    """An HTTP server whose requests reach the app like those of any web server.

    It connects to the server through a UNIX socket in a private folder, over one multiplexed
    connection.

    Args:
        listeners: the listening sockets for HTTP.
        server: the FastCGI server, which must not run yet.
        options: the settings.

    Raises:
        UsageError: a folder of ``--static`` does not exist.
        ListenError: the UNIX socket cannot be created.
    """

    def __init__(self, listeners: Sequence[Listener], server: Server, options: Options) -> None:
        self._listeners = listeners
        try:
            self._folder = tempfile.mkdtemp(prefix="vsgi-fcgi-")
        except OSError as error:
            raise UsageError(
                f"--http: no folder for its internal socket: {error.strerror}; set TMPDIR to a"
                " folder that this user may write to"
            ) from error
        path = os.path.join(self._folder, "s")
        try:
            (inner,) = open_listener(UnixAddress(path), options.backlog, SocketOwnership(0o600))
            # Other processes of a supervisor serve the same app.
            inner.shared = any(listener.shared for listener in listeners)
            server.add_listeners([inner])
            self._log = server.log
            # The server has already logged the text that an app writes to wsgi.errors.
            self._gateway = Gateway(UnixAddress(path), log=self._log, log_stderr=False)
            app = with_static(self._gateway, options.static)
            sockets = [listener.sock for listener in listeners]
            self._http = HTTPServer(sockets, app, options, self._log)
        except BaseException:
            self.remove()
            raise
        server.at_start.append(self._start)
        server.before_stop.append(self._stop)
        server.at_exit.append(self.remove)

    def _start(self) -> None:
        self._http.start()
        for listener in self._listeners:
            self._log.info("serving HTTP on %s", listener.uri)

    def _stop(self, grace: float) -> bool:
        ended = self._http.stop(grace)
        self._gateway.close()
        return ended

    def remove(self) -> None:
        """Remove the folder of the socket. Calling this again has no effect."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._folder, "s"))
        with contextlib.suppress(OSError):
            os.rmdir(self._folder)
