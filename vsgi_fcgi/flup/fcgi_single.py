"""Replacement for ``flup.server.fcgi_single``, which runs one request at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vsgi_fcgi.flup.script import FCGI_RESPONDER, BindAddress, Script
from vsgi_fcgi.wsgi.response import App

__all__ = ["WSGIServer"]


class WSGIServer(Script):
    """Server with one thread for the app; connections are served in another thread.

    The arguments are those of `vsgi_fcgi.flup.fcgi.WSGIServer`.

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
