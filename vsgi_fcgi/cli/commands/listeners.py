"""The listening sockets of the commands, for FastCGI and HTTP, and the folders of ``--static``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from vsgi_fcgi.addresses import Address, InetAddress, parse_bind
from vsgi_fcgi.cli.settings.options import ListeningOptions
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.listen.listeners import Listener, default_address, open_listeners
from vsgi_fcgi.listen.ownership import SocketOwnership

_SCHEME = "http:"
STATUS = "status:"
PUSH = "push:"


def open_http(addresses: Iterable[str], backlog: int) -> list[Listener]:
    """Open the listening sockets for HTTP.

    Args:
        addresses: the values of ``--http``.
        backlog: connections that may wait on each socket to be accepted.

    Raises:
        UsageError: an address is not a TCP address.
        ListenError: a socket cannot be opened.
    """
    found = []
    for text in addresses:
        address = parse_bind(text)
        if not isinstance(address, InetAddress):
            raise UsageError(f"--http {text} is not a TCP address; write HOST:PORT")
        found.append(address)
    listeners = open_listeners(found, backlog)
    for listener in listeners:
        listener.uri = f"{_SCHEME}{listener.uri.partition(':')[2]}"
    return listeners


def open_fronts(
    scheme: str, addresses: Iterable[str], backlog: int, ownership: SocketOwnership
) -> list[Listener]:
    """Open listening sockets of the server's own HTTP pages.

    Args:
        scheme: `STATUS` or `PUSH`.
        addresses: the values of ``--status-bind`` or ``--push-bind``.
        backlog: connections that may wait on each socket to be accepted.
        ownership: the owner and the mode of UNIX sockets.

    Raises:
        UsageError: an address is not valid.
        ListenError: a socket cannot be opened.
    """
    listeners = open_listeners([parse_bind(text) for text in addresses], backlog, ownership)
    for listener in listeners:
        listener.uri = f"{scheme}{listener.uri.replace('fcgi', 'http', 1)}"
    return listeners


class Listening(NamedTuple):
    """Listeners by their purpose."""

    http: list[Listener]
    status: list[Listener]
    push: list[Listener]
    fastcgi: list[Listener]


def split(listeners: Iterable[Listener]) -> Listening:
    """Split listeners by their purpose."""
    found = Listening([], [], [], [])
    schemes = {_SCHEME: found.http, STATUS: found.status, PUSH: found.push}
    for listener in listeners:
        scheme = f"{listener.uri.partition(':')[0]}:"
        schemes.get(scheme, found.fastcgi).append(listener)
    return found


def with_static(app: Any, mounts: Sequence[str]) -> Any:
    """Return an app that serves the files of some folders, and passes on other requests.

    Args:
        app: a WSGI app.
        mounts: the values of ``--static``, such as ``/static=site/static``.

    Raises:
        UsageError: a value is not /URL=DIR, or there is no such folder.
    """
    if not mounts:
        return app
    folders = {}
    for mount in mounts:
        url, equals, folder = mount.partition("=")
        if not equals or not url.startswith("/") or not folder:
            raise UsageError(f"--static {mount}: write /URL=DIR, as in /static=site/static")
        if not os.path.isdir(folder):
            raise UsageError(f"--static {mount}: there is no folder {folder}")
        folders[url.rstrip("/") or "/"] = os.path.abspath(folder)
    from werkzeug.middleware.shared_data import SharedDataMiddleware

    # werkzeug's own default is 12 hours, for which a browser would not see a changed file.
    return SharedDataMiddleware(app, folders, cache_timeout=0)


# FastCGI


def addresses_of(options: ListeningOptions, *, default: bool = True) -> list[Address]:
    """Return the addresses to listen on.

    Args:
        options: the settings.
        default: if the options name no address, use the sockets that systemd passes or descriptor
            0; otherwise none.

    Raises:
        UsageError: an address is not valid, or two options contradict each other.
    """
    addresses = options.addresses()
    if options.names_an_address:
        return addresses
    return [default_address(os.environ)] if default else []
