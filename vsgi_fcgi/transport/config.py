"""The settings that the server and the relay share: connections of web servers."""

from __future__ import annotations

from dataclasses import dataclass

from vsgi_fcgi.settings import KIB, MIB, GracefulConfig, setting


@dataclass(frozen=True, kw_only=True)
class TransportConfig(GracefulConfig):
    """Timeouts and limits of the connections of web servers, in seconds and bytes."""

    receive_timeout: float = setting(
        60.0,
        "seconds without data from an incomplete request, then 408",
        group="timeouts",
        minimum=0.001,
    )
    send_timeout: float = setting(
        60.0,
        "seconds without progress in sending to a web server, then the connection is closed",
        group="timeouts",
        minimum=0.001,
    )
    linger_timeout: float = setting(
        5.0,
        "seconds to read and discard the rest of a request that was answered early",
        group="timeouts",
        minimum=0.001,
    )
    accept_backoff: float = setting(
        0.5,
        "seconds before accepting again when the process is out of descriptors",
        group="timeouts",
        minimum=0.001,
    )

    max_params_bytes: int = setting(
        128 * KIB,
        "maximum bytes of params per request, then 431",
        group="limits",
        minimum=256,
    )
    total_params_bytes: int = setting(
        64 * MIB,
        "maximum bytes of all incomplete requests with their params, then 503",
        group="limits",
        minimum=64 * KIB,
    )
