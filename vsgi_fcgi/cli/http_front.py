"""``--http``: HTTP in front of the server, in the same process, with FastCGI between the two."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence

from vsgi_fcgi.addresses import UnixAddress
from vsgi_fcgi.cli.http_listeners import with_static
from vsgi_fcgi.cli.options import Options
from vsgi_fcgi.client.gateway import Gateway
from vsgi_fcgi.client.http_server import HTTPServer
from vsgi_fcgi.server.listeners import Listener, open_listener
from vsgi_fcgi.server.server import Server
from vsgi_fcgi.server.socket_ownership import SocketOwnership


class HTTPFront:
    """An HTTP server whose requests reach the app as those of any web server do.

    It speaks to the server through a UNIX socket of its own, in a folder that nobody else may
    enter, over one multiplexed connection.

    Args:
        listeners: where HTTP is spoken.
        server: the server behind it, which does not run yet.
        options: the settings.

    Raises:
        UsageError: a folder of ``--static`` does not exist, or a package is missing.
        ListenError: the socket cannot be made.
    """

    def __init__(self, listeners: Sequence[Listener], server: Server, options: Options) -> None:
        self._listeners = listeners
        self._folder = tempfile.mkdtemp(prefix="vsgi-fcgi-")
        path = os.path.join(self._folder, "s")
        try:
            (inner,) = open_listener(UnixAddress(path), options.backlog, SocketOwnership(0o600))
            server.add_listeners([inner])
            self._log = server.log
            # What an app writes to wsgi.errors is in the log by then.
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

    def _stop(self, grace: float) -> None:
        self._http.stop(grace)
        self._gateway.close()

    def remove(self) -> None:
        """Remove the folder of its socket; again is harmless."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._folder, "s"))
        with contextlib.suppress(OSError):
            os.rmdir(self._folder)
