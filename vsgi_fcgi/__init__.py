"""A FastCGI server for WSGI apps.

The names below are loaded when they are first used (PEP 562), so that importing the protocol
alone loads no gevent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vsgi_fcgi.server import Config, Server

__version__ = "0.1.0"

__all__ = ["Config", "Server", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("Config", "Server"):
        import vsgi_fcgi.server

        return getattr(vsgi_fcgi.server, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
