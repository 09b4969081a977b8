"""Replacement for ``flup.server.fcgi``, which runs an app in threads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vsgi_fcgi.flup.script import FCGI_RESPONDER, BindAddress, Script
from vsgi_fcgi.wsgi.response import App

__all__ = ["WSGIServer"]


class WSGIServer(Script):
    """Server with threads; the arguments have the names, order and meaning of flup.

    Args:
        application: the WSGI app.
        environ: additional keys for the environ of each request.
        multithreaded: True if requests may run at the same time.
        multiprocess: value of ``wsgi.multiprocess`` in the environ.
        bindAddress: path of a UNIX socket, or a host and a port; None for descriptor 0.
        umask: permission bits that the UNIX socket does not get; the process's umask if None.
        multiplexed: ignored, because a web server may always multiplex.
        debug: ignored, with a warning.
        roles: roles in which the app is served.
        forceCGI: answer one request as a CGI program, whatever descriptor 0 is.
        minSpare: ignored, with a warning.
        maxSpare: ignored, with a warning.
        maxThreads: number of threads that run the app; the server's default if None.

    Raises:
        UsageError: a value is invalid.
    """

    def __init__(
        self,
        application: App,
        environ: Mapping[str, Any] | None = None,
        multithreaded: bool = True,
        multiprocess: bool = False,
        bindAddress: BindAddress = None,
        umask: int | None = None,
        multiplexed: bool = False,
        debug: bool = False,
        roles: tuple[int, ...] = (FCGI_RESPONDER,),
        forceCGI: bool = False,
        *,
        minSpare: int | None = None,
        maxSpare: int | None = None,
        maxThreads: int | None = None,
    ) -> None:
        super().__init__(
            application,
            environ,
            bind_address=bindAddress,
            umask=umask,
            debug=debug,
            roles=roles,
            force_cgi=forceCGI,
            threads=maxThreads if multithreaded else 1,
            multiprocess=multiprocess,
            ignored={
                "minSpare": (minSpare, "all threads start with the server"),
                "maxSpare": (maxSpare, "all threads start with the server"),
            },
        )
