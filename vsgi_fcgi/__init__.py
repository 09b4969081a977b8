"""FastCGI server for WSGI apps.

The public names are loaded on first use (PEP 562), so that importing only the protocol does not
load gevent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vsgi_fcgi.exceptions import RequestTimeout
    from vsgi_fcgi.server import Config, Server

__version__ = "0.1.0"

__all__ = ["Config", "RequestTimeout", "Server", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("Config", "Server"):
        import vsgi_fcgi.server

        return getattr(vsgi_fcgi.server, name)
    if name == "RequestTimeout":
        import vsgi_fcgi.exceptions

        return vsgi_fcgi.exceptions.RequestTimeout
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
