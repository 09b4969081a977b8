"""The settings of the relay."""

from __future__ import annotations

from dataclasses import dataclass

from vsgi_fcgi.client.config import ClientConfig
from vsgi_fcgi.settings import setting
from vsgi_fcgi.transport.config import TransportConfig


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class RelayConfig(TransportConfig, ClientConfig):
    """The settings of the relay. Sizes are in bytes and times in seconds.

    A front connection is a connection of a web server.

    Raises:
        UsageError: a value is out of range; the message names it.
    """

    fail_on_app_status: bool = setting(
        False,
        "treat a response with an application status other than 0 as failed; vsgi-fcgi ends an"
        " incomplete response with such a status",
        group="upstream",
    )

    max_front_connections: int = setting(
        8192,
        "maximum connections of web servers; at the limit the longest idle one is closed, or"
        " else accepting waits",
        group="limits",
        minimum=1,
    )
    max_front_requests: int = setting(
        1024,
        "maximum requests in flight on one connection of a web server, then 503",
        group="limits",
        minimum=1,
    )
