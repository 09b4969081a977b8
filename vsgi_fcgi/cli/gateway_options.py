"""Everything that ``vsgi-fcgi gateway`` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from vsgi_fcgi.cli.command import Command, Example
from vsgi_fcgi.cli.options import ProcessOptions
from vsgi_fcgi.client.config import ClientConfig
from vsgi_fcgi.client.http_config import HTTPConfig
from vsgi_fcgi.settings import setting


@dataclass(frozen=True, kw_only=True)
class GatewayOptions(ProcessOptions, HTTPConfig, ClientConfig):
    """What the gateway is told.

    Raises:
        UsageError: a value is out of its bounds; the message begins with the field's name.
    """

    http: tuple[str, ...] = setting(
        (), "speak HTTP here; may be repeated", group="http", metavar="HOST:PORT"
    )
    static: tuple[str, ...] = setting(
        (),
        "serve the files of a folder under /URL; needs the extra static",
        group="http",
        metavar="/URL=DIR",
    )
    upstream: tuple[str, ...] = setting(
        (),
        "where a FastCGI application server listens: HOST:PORT, unix:PATH or unix:@NAME; several"
        " serve the same app",
        group="upstream",
        metavar="ADDRESS",
        aliases=("-u",),
    )
    graceful_timeout: float = setting(
        30.0, "seconds that running requests get to end after SIGTERM", group="timeouts", least=0
    )


GATEWAY = Command(
    "gateway",
    GatewayOptions,
    library=(HTTPConfig, ClientConfig),
    description=(
        "Speak HTTP, and pass each request on to a FastCGI application server, many at a time over"
        " one connection if it multiplexes."
    ),
    epilog=(
        "An app whose module is called gateway is named as gateway:app. Options may also stand in"
        " the environment, as in VSGI_FCGI_UPSTREAM=unix:/run/app.sock, or in the table [gateway]"
        " of the configuration file."
    ),
    examples=(
        Example(
            "Put HTTP in front of php-fpm",
            "gateway --http 127.0.0.1:8000 --upstream unix:/run/php/php-fpm.sock",
        ),
    ),
)
