"""The running server. `Server` is loaded when it is first used, and gevent with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vsgi_fcgi.server.config import Config
    from vsgi_fcgi.server.server import Server

__all__ = ["Config", "Server"]


def __getattr__(name: str) -> Any:
    if name == "Config":
        from vsgi_fcgi.server.config import Config

        return Config
    if name == "Server":
        from vsgi_fcgi.server.server import Server

        return Server
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
