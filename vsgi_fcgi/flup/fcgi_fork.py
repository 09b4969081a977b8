"""``flup.server.fcgi_fork``: an app that was run by processes, each one request at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vsgi_fcgi.flup.script import FCGI_RESPONDER, BindAddress, Script
from vsgi_fcgi.wsgi.runner import App

__all__ = ["WSGIServer"]

_ONE_PROCESS = (
    "this process serves alone, one request at a time; the web server can start several of it"
    " (max-procs of lighttpd), and vsgi_fcgi.flup.fcgi runs requests side by side in threads"
)


class WSGIServer(Script):
    """flup's server of processes. Here it is one: an app that was made for them may need that.

    Args:
        application: the WSGI app.
        environ: what is to be in the environ of each request, beside what the web server says.
        bindAddress: as for `vsgi_fcgi.flup.fcgi.WSGIServer`, and so are those up to ``forceCGI``.
        umask: as there.
        multiplexed: as there.
        debug: as there.
        roles: as there.
        forceCGI: as there.
        timeout: not honoured.
        minSpare: not honoured.
        maxSpare: not honoured.
        maxChildren: honoured if it is 1.
        maxRequests: honoured if it is 0, which is no limit.
        sockTimeout: not honoured: the server has timeouts of its own.

    Raises:
        UsageError: a value cannot be used.
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
            not_honoured={
                "timeout": (timeout, "a request that takes long is not ended"),
                "minSpare": (minSpare, "there is one process"),
                "maxSpare": (maxSpare, "there is one process"),
                "maxChildren": (None if maxChildren == 1 else maxChildren, _ONE_PROCESS),
                "maxRequests": (maxRequests or None, "the process is not replaced"),
                "sockTimeout": (sockTimeout or None, "see receive_timeout and send_timeout"),
            },
        )
