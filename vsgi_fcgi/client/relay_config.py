"""Every setting of the relay."""

from __future__ import annotations

from dataclasses import dataclass

from vsgi_fcgi.client.config import ClientConfig
from vsgi_fcgi.settings import KIB, MIB, setting


@dataclass(frozen=True, kw_only=True)
class RelayConfig(ClientConfig):
    """What a relay is told. Sizes are in bytes and times in seconds.

    "In front" is the side of the web servers.

    Raises:
        UsageError: a value is out of its bounds; the message names it.
    """

    fail_on_app_status: bool = setting(
        False,
        "take an answer that ends with an application status other than 0 for a failed one:"
        " vsgi-fcgi says so that an answer is not whole",
        group="upstream",
    )

    graceful_timeout: float = setting(
        30.0, "seconds that running requests get to end after SIGTERM", group="timeouts", least=0
    )
    receive_timeout: float = setting(
        60.0,
        "seconds without a byte of a request that has begun, then 408",
        group="timeouts",
        least=0.001,
    )
    send_timeout: float = setting(
        60.0,
        "seconds in which nothing could be sent to a web server, then its connection is closed",
        group="timeouts",
        least=0.001,
    )
    linger_timeout: float = setting(
        5.0,
        "seconds for which the rest of a request that was answered early is discarded",
        group="timeouts",
        least=0.001,
    )
    accept_pause: float = setting(
        0.5,
        "seconds for which accepting pauses when the system is out of descriptors",
        group="timeouts",
        least=0.001,
    )

    max_front_connections: int = setting(
        8192,
        "connections of web servers at once; past it the longest idle one is closed, else"
        " accepting waits",
        group="limits",
        least=1,
    )
    max_front_requests: int = setting(
        1024,
        "requests in flight on one connection of a web server, then 503",
        group="limits",
        least=1,
    )
    max_params_bytes: int = setting(
        128 * KIB, "bytes of params of a request, then 431", group="limits", least=256
    )
    total_params_bytes: int = setting(
        64 * MIB,
        "bytes of params of requests that are still coming in, over all connections, then 503",
        group="limits",
        least=64 * KIB,
    )
