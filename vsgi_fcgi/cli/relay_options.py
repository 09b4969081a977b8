"""Everything that ``vsgi-fcgi relay`` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from vsgi_fcgi.cli.command import Command, Example
from vsgi_fcgi.cli.options import ListeningOptions, ProcessOptions
from vsgi_fcgi.client.relay_config import RelayConfig
from vsgi_fcgi.server.config import SocketConfig
from vsgi_fcgi.settings import setting


@dataclass(frozen=True, kw_only=True)
class RelayOptions(ListeningOptions, ProcessOptions, SocketConfig, RelayConfig):
    """What the relay is told.

    Raises:
        UsageError: a value is out of its bounds; the message begins with the field's name.
    """

    upstream: tuple[str, ...] = setting(
        (),
        "where a FastCGI application server listens: HOST:PORT, unix:PATH or unix:@NAME; several"
        " serve the same app",
        group="upstream",
        metavar="ADDRESS",
        aliases=("-u",),
    )


RELAY = Command(
    "relay",
    RelayOptions,
    library=(SocketConfig, RelayConfig),
    description=(
        "Take the requests of web servers that use a FastCGI connection for each, and carry them"
        " over few connections to an application server that multiplexes."
    ),
    epilog=(
        "Without an option of where to listen, it takes the sockets that systemd passes, else"
        " descriptor 0. An app whose module is called relay is named as relay:app. Options may"
        " also stand in the environment, as in VSGI_FCGI_UPSTREAM=unix:/run/app.sock, or in the"
        " table [relay] of the configuration file."
    ),
    examples=(
        Example(
            "Carry what nginx sends over one connection",
            "relay --bind unix:/run/relay.sock --upstream unix:/run/app.sock",
        ),
    ),
)
