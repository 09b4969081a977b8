"""``flup.server.fcgi_single``: an app that runs one request at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vsgi_fcgi.flup.script import FCGI_RESPONDER, BindAddress, Script
from vsgi_fcgi.wsgi.runner import App

__all__ = ["WSGIServer"]


class WSGIServer(Script):
    """flup's server without threads: the app has one, and connections are served meanwhile.

    The arguments are those of `vsgi_fcgi.flup.fcgi.WSGIServer`.

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
        )
