"""Where HTTP is spoken, and what is served there by itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from vsgi_fcgi.addresses import InetAddress, parse_bind
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.server.listeners import Listener, open_listeners

_SCHEME = "http:"


def open_http(addresses: Iterable[str], backlog: int) -> list[Listener]:
    """Listen for HTTP.

    Args:
        addresses: the values of ``--http``.
        backlog: connections that may wait to be accepted on each.

    Raises:
        UsageError: one is no TCP address.
        ListenError: one cannot be listened on.
    """
    found = []
    for text in addresses:
        address = parse_bind(text)
        if not isinstance(address, InetAddress):
            raise UsageError(f"--http {text} is no TCP address; write HOST:PORT")
        found.append(address)
    listeners = open_listeners(found, backlog)
    for listener in listeners:
        listener.uri = f"{_SCHEME}{listener.uri.partition(':')[2]}"
    return listeners


def part(listeners: Iterable[Listener]) -> tuple[list[Listener], list[Listener]]:
    """Part listeners for HTTP from those for FastCGI."""
    http: list[Listener] = []
    fastcgi: list[Listener] = []
    for listener in listeners:
        (http if listener.uri.startswith(_SCHEME) else fastcgi).append(listener)
    return http, fastcgi


def with_static(app: Any, mounts: Sequence[str]) -> Any:
    """The app, with folders whose files are served without it.

    Args:
        app: a WSGI app.
        mounts: the values of ``--static``, such as ``/static=site/static``.

    Raises:
        UsageError: one is no URL and folder, or werkzeug is missing.
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
    try:
        from werkzeug.middleware.shared_data import SharedDataMiddleware
    except ImportError:
        raise UsageError("--static needs werkzeug: pip install 'vsgi-fcgi[static]'") from None
    return SharedDataMiddleware(app, folders)
