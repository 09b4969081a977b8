"""The web server's side of FastCGI: a multiplexing client, and a gateway that uses it.

The names below are imported at their first use, because they import gevent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vsgi_fcgi.client.client import FastCGIClient
    from vsgi_fcgi.client.config import ClientConfig
    from vsgi_fcgi.client.gateway import Gateway

__all__ = ["ClientConfig", "FastCGIClient", "Gateway"]


def __getattr__(name: str) -> Any:
    if name == "ClientConfig":
        from vsgi_fcgi.client.config import ClientConfig

        return ClientConfig
    if name == "FastCGIClient":
        from vsgi_fcgi.client.client import FastCGIClient

        return FastCGIClient
    if name == "Gateway":
        from vsgi_fcgi.client.gateway import Gateway

        return Gateway
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
