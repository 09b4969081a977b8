"""Replacement for ``flup.server.fcgi_fork``, which runs one request at a time per process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vsgi_fcgi.flup.script import FCGI_RESPONDER, BindAddress, Script
from vsgi_fcgi.wsgi.response import App

__all__ = ["WSGIServer"]

_ONE_PROCESS = (
    "there is one process, with one request at a time; let the web server start several processes"
    " (max-procs of lighttpd), or use vsgi_fcgi.flup.fcgi, which has threads"
)


class WSGIServer(Script):
    """Server without threads, for apps that were written for flup's server with processes.

    This server has a single process, which runs one request at a time.

    Args:
        application: the WSGI app.
        environ: additional keys for the environ of each request.
        bindAddress: see `vsgi_fcgi.flup.fcgi.WSGIServer`.
        umask: see `vsgi_fcgi.flup.fcgi.WSGIServer`.
        multiplexed: ignored, because a web server may always multiplex.
        debug: ignored, with a warning.
        roles: roles in which the app is served.
        forceCGI: answer one request as a CGI program, whatever descriptor 0 is.
        timeout: ignored, with a warning.
        minSpare: ignored, with a warning.
        maxSpare: ignored, with a warning.
        maxChildren: ignored, with a warning unless it is 1.
        maxRequests: ignored, with a warning unless it is 0.
        sockTimeout: ignored, with a warning; the server has its own timeouts.

    Raises:
        UsageError: a value is invalid.
    """

    def __init__(
        self,
        application: App,
        environ: Mapping[str, Any] | None = None,
        bindAddress: BindAddress = None,
        umask: int | None = None,
        multiplexed: bool = False,
        debug: bool = False,
        roles: tuple[int, ...] = (FCGI_RESPONDER,),
        forceCGI: bool = False,
        timeout: int | None = None,
        *,
        minSpare: int | None = None,
        maxSpare: int | None = None,
        maxChildren: int = 50,
        maxRequests: int = 0,
        sockTimeout: int = 0,
    ) -> None:
        super().__init__(
            application,
            environ,
            bind_address=bindAddress,
            umask=umask,
            debug=debug,
            roles=roles,
            force_cgi=forceCGI,
            threads=1,
            multiprocess=True,
            ignored={
                "timeout": (timeout, "a slow request is not ended"),
                "minSpare": (minSpare, "there is one process"),
                "maxSpare": (maxSpare, "there is one process"),
                "maxChildren": (None if maxChildren == 1 else maxChildren, _ONE_PROCESS),
                "maxRequests": (maxRequests or None, "the process is not replaced"),
                "sockTimeout": (sockTimeout or None, "set receive_timeout and send_timeout"),
            },
        )
