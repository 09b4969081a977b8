"""Where a command listens for FastCGI."""

from __future__ import annotations

import os

from vsgi_fcgi.addresses import Address
from vsgi_fcgi.cli.options import ListeningOptions
from vsgi_fcgi.server.listeners import default_address


def addresses_of(options: ListeningOptions, *, default: bool = True) -> list[Address]:
    """What the options name; else the sockets that systemd passes, or descriptor 0.

    Args:
        options: the settings.
        default: whether it listens at all, if nothing is named.

    Raises:
        UsageError: something cannot be read, or two options contradict each other.
    """
    addresses = options.addresses()
    if options.names_an_address:
        return addresses
    return [default_address(os.environ)] if default else []
