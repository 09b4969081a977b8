"""The web server's side of FastCGI: a multiplexing client, and what is built on it.

The names below are loaded when they are first used, and gevent with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vsgi_fcgi.client.config import ClientConfig
    from vsgi_fcgi.client.fastcgi_client import FastCGIClient
    from vsgi_fcgi.client.gateway import Gateway

__all__ = ["ClientConfig", "FastCGIClient", "Gateway"]


def __getattr__(name: str) -> Any:
    if name == "ClientConfig":
        from vsgi_fcgi.client.config import ClientConfig

        return ClientConfig
    if name == "FastCGIClient":
        from vsgi_fcgi.client.fastcgi_client import FastCGIClient

        return FastCGIClient
    if name == "Gateway":
        from vsgi_fcgi.client.gateway import Gateway

        return Gateway
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
