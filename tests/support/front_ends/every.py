"""Every web server with an app behind it, for tests of what each of them does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from support.front_ends.more_servers import H2O, ApacheProxy, Caddy
from support.front_ends.servers import APPS, AppServer, HAProxy, Lighttpd, Nginx, WebServer, command
from support.processes import ProcessGroup, free_port
from support.relay_server import RelayServer

Start = Callable[[ProcessGroup, ProcessGroup, str, tuple[str, ...]], int]


@dataclass(frozen=True)
class Front:
    """A web server, perhaps with a program between it and the app.

    Attributes:
        start: starts it in the first group, with an app of a name and options behind it; returns
            its port. Programs between the two may need the second group.
        prefixes: where the app is.
    """

    start: Start
    prefixes: tuple[str, ...] = ("",)


def _before(kind: Callable[[ProcessGroup, AppServer], WebServer]) -> Start:
    """A web server with a file of ``examples/``."""

    def start(group: ProcessGroup, _: ProcessGroup, app: str, options: tuple[str, ...]) -> int:
        return kind(group, AppServer(group, app, *options)).port

    return start


def _relayed(group: ProcessGroup, behind: ProcessGroup, app: str, options: tuple[str, ...]) -> int:
    """Start nginx, the relay and the app."""
    return Nginx(group, RelayServer(group, AppServer(behind, app, *options))).port


def _http(group: ProcessGroup, _: ProcessGroup, app: str, options: tuple[str, ...]) -> int:
    """Start the app with ``--http``."""
    port = free_port()
    argv = [str(command(group)), "--chdir", str(APPS), "--http", f"127.0.0.1:{port}", *options, app]
    group.start(argv, name="http").wait_for_log("serving HTTP on")
    return port


def _lighttpd(group: ProcessGroup, _: ProcessGroup, app: str, options: tuple[str, ...]) -> int:
    """Start lighttpd, which starts the app."""
    return Lighttpd(group, " ".join((*options, app))).port


FRONTS = {
    "nginx": Front(_before(Nginx), ("", "/tcp", "/unbuffered")),
    "nginx, then the relay": Front(_relayed),
    "`--http`": Front(_http),
    "lighttpd": Front(_lighttpd),
    "Apache with mod_proxy_fcgi": Front(_before(ApacheProxy), ("", "/handler")),
    "Caddy": Front(_before(Caddy)),
    "h2o": Front(_before(H2O)),
    "HAProxy, a connection for each request": Front(_before(HAProxy), ("/alone",)),
    "HAProxy, shared connections": Front(_before(HAProxy)),
}
