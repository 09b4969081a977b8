"""The settings of an HTTP server."""

from __future__ import annotations

from dataclasses import dataclass

from vsgi_fcgi.settings import KIB, SettingsBase, setting


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class HTTPConfig(SettingsBase):
    """Settings of an HTTP server. Times are in seconds."""

    max_http_connections: int = setting(
        1024,
        "maximum HTTP connections; others wait in the backlog",
        group="http",
        minimum=1,
    )
    http_timeout: float = setting(
        60.0,
        "seconds without progress after which an HTTP client is disconnected",
        group="http",
        minimum=0.001,
    )
    http_head_timeout: float = setting(
        30.0,
        "seconds for the whole head of an HTTP request, from its first byte on",
        group="http",
        minimum=0.001,
    )
    min_http_body_rate: int = setting(
        500,
        "minimum rate of the body of an HTTP request in bytes per second, in addition to"
        " the HTTP timeout for the whole body; 0 turns this off",
        group="http",
        minimum=0,
    )
    max_http_head_bytes: int = setting(
        64 * KIB,
        "maximum bytes of the head of an HTTP request: its request line and all of its headers",
        group="http",
        minimum=1024,
    )
    max_http_target_bytes: int = setting(
        8 * KIB,
        "maximum bytes of the target of an HTTP request: its path and query string",
        group="http",
        minimum=64,
    )
    max_http_headers: int = setting(
        100,
        "maximum headers of an HTTP request",
        group="http",
        minimum=1,
    )
    http_log: bool = setting(
        True,
        "log a line for each HTTP request at level info; --no-http-log turns this off",
        group="http",
    )
