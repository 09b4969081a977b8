"""Every web server that has a configuration, by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vsgi_fcgi.addresses import UnixAddress
from vsgi_fcgi.web_servers import apache, caddy, h2o, haproxy, lighttpd, nginx
from vsgi_fcgi.web_servers.site import File, Site


def _in_run(name: str) -> UnixAddress:
    return UnixAddress(f"/run/{name}.sock")


@dataclass(frozen=True, slots=True)
class Program:
    """A web server.

    Attributes:
        files: what makes its configuration.
        group: the group as which Debian runs it, who must be able to connect.
        default_socket: from the name of a site to where its server listens, if nothing is said;
            None if the web server starts it.
    """

    files: Callable[[Site], list[File]]
    group: str
    default_socket: Callable[[str], UnixAddress] | None = _in_run


PROGRAMS: Final[dict[str, Program]] = {
    "lighttpd": Program(lighttpd.files, "www-data", None),
    "nginx": Program(nginx.files, "www-data"),
    "apache": Program(apache.files, "www-data"),
    "haproxy": Program(haproxy.files, "haproxy", haproxy.default_socket),
    "caddy": Program(caddy.files, "caddy"),
    "h2o": Program(h2o.files, "debian-h2o"),
}

SYSTEMD: Final = "systemd"
"""It starts the server, whichever web server there is."""

NAMES: Final = (*PROGRAMS, SYSTEMD)
