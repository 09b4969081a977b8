"""A server for PasteDeploy's files: ``[server:main]`` with ``use = egg:vsgi-fcgi``."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vsgi_fcgi.addresses import Address
from vsgi_fcgi.cli.command import Command, key_name, nearest
from vsgi_fcgi.cli.options import ListeningOptions
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.server.config import Config
from vsgi_fcgi.server.server import Server
from vsgi_fcgi.wsgi.runner import App


@dataclass(frozen=True, kw_only=True)
class PasteOptions(ListeningOptions, Config):
    """What a section can say: the rest belongs to whoever starts the process, such as pserve."""


PASTE = Command("paste", PasteOptions, library=(Config,), description="A section of a file.")

_ALIASES = {"host": "address"}
"""What servers of Paste have always been told."""


def server_factory(global_conf: Mapping[str, str], **local_conf: str) -> Callable[[App], None]:
    """Make a server as a section says.

    Args:
        global_conf: what the file says to all.
        **local_conf: what the section says.

    Returns:
        A function that serves an app, until a signal says to stop.

    Raises:
        UsageError: the section says what cannot be understood or done.
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
    """Read a section as the environment variables of ``vsgi-fcgi`` are read.

    Raises:
        UsageError: there is no such setting, or its value cannot be used.
    """
    names = {key_name(name): name for name in PASTE.fields}
    given: dict[str, Any] = {}
    for key, text in section.items():
        known = key_name(_ALIASES.get(key, key))
        if known not in names:
            advice = nearest(known, names) or "; see the settings of Server"
            raise UsageError(f"there is no setting {key} for a server of vsgi-fcgi{advice}")
        name = names[known]
        try:
            given[name] = PASTE.kind(name).read_all(text)
        except ValueError as error:
            raise UsageError(f"{key}: {error}") from None
    labels = {name: key_name(name) for name in given}
    return typing.cast(PasteOptions, PASTE.make(given, labels))
