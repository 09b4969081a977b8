"""``flup.server.fcgi``: an app that threads of this process run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vsgi_fcgi.flup.script import FCGI_RESPONDER, BindAddress, Script
from vsgi_fcgi.wsgi.runner import App

__all__ = ["WSGIServer"]


class WSGIServer(Script):
    """flup's server of threads; the arguments have its names, its order and its meaning.

    Args:
        application: the WSGI app.
        environ: what is to be in the environ of each request, beside what the web server says.
        multithreaded: whether requests may run side by side.
        multiprocess: what the app finds as ``wsgi.multiprocess``.
        bindAddress: the path of a UNIX socket, or a host and a port; descriptor 0 if None.
        umask: what the mode of the UNIX socket lacks of 0777; that of the process if None.
        multiplexed: nothing: a web server that wants to multiplex may always do so.
        debug: not honoured.
        roles: those in which the app is served.
        forceCGI: answer one request as a CGI program, whatever descriptor 0 is.
        minSpare: not honoured.
        maxSpare: not honoured.
        maxThreads: threads that run the app; the server's own default if None.

    Raises:
        UsageError: a value cannot be used.
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
            not_honoured={
                "minSpare": (minSpare, "all threads are there from the start"),
                "maxSpare": (maxSpare, "all threads are there from the start"),
            },
        )
