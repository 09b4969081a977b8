"""The settings of an HTTP server in front of FastCGI."""

from __future__ import annotations

from dataclasses import dataclass

from vsgi_fcgi.settings import setting


@dataclass(frozen=True, kw_only=True)
class HTTPConfig:
    """What an HTTP server is told. Times are in seconds."""

    max_http_connections: int = setting(
        1024,
        "HTTP connections at once; others wait in the backlog",
        group="http",
        least=1,
    )
    http_timeout: float = setting(
        60.0,
        "seconds in which an HTTP client must send or take something, then it is hung up on",
        group="http",
        least=0.001,
    )
