"""Server for PasteDeploy files, ``[server:main]`` with ``use = egg:vsgi-fcgi``."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vsgi_fcgi.addresses import Address
from vsgi_fcgi.cli.settings.command import Command, key_name
from vsgi_fcgi.cli.settings.options import ListeningOptions
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.server.config import Config
from vsgi_fcgi.server.server import Server
from vsgi_fcgi.settings import nearest
from vsgi_fcgi.wsgi.response import App


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class PasteOptions(ListeningOptions, Config):
    """Settings of a section; those of the process belong to the program that starts it (pserve)."""


PASTE = Command("paste", PasteOptions, description="A section of a PasteDeploy file.")

_ALIASES = {"host": "address"}
"""Names of settings that other servers for PasteDeploy use."""


def server_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], None]:
    """Create a server from a section of a PasteDeploy file.

    Args:
        global_conf: settings of the section ``[DEFAULT]``.
        **local_conf: settings of the server's section.

    Returns:
        A function that serves an app until a signal stops it.

    Raises:
        UsageError: a setting of the section is unknown or invalid.
    """
    options = read_section(local_conf)
    addresses: list[Address | None] = [None]
    if options.names_an_address:
        addresses = list(options.addresses())

    def serve(app: App) -> None:
        server = Server(app, config=options)
        try:
            for address in addresses:
                server.listen(address)
            server.run()
        finally:
            server.close()

    return serve


def read_section(section: Mapping[str, str]) -> PasteOptions:
    """Read a section with the rules for environment variables of ``vsgi-fcgi``.

    Raises:
        UsageError: a setting is unknown, or its value is invalid.
    """
    names = {key_name(name): name for name in PASTE.fields}
    given: dict[str, Any] = {}
    for key, text in section.items():
        known = key_name(_ALIASES.get(key, key))
        if known not in names:
            advice = nearest(known, names) or "; see the settings of Server"
            raise UsageError(f"{key}: vsgi-fcgi has no such setting{advice}")
        name = names[known]
        try:
            given[name] = PASTE.converter(name).parse_all(text)
        except ValueError as error:
            raise UsageError(f"{key}: {error}") from None
    labels = {name: key_name(name) for name in given}
    return typing.cast(PasteOptions, PASTE.make_options(given, labels))
