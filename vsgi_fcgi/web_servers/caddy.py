"""Caddy."""

from __future__ import annotations

from typing import Final

from vsgi_fcgi.addresses import AbstractAddress, InetAddress, UnixAddress
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.web_servers.site import File, Site
from vsgi_fcgi.web_servers.template import fill, steps

TITLE: Final = "Caddy"

_STANDALONE: Final = """\
{{heading}}
{
	# Nothing listens but the site.
	admin off
	auto_https off
	storage file_system {{folder}}/caddy
}

{{site}}
"""

_PART: Final = """\
{{heading}}

{{site}}
"""

_SITE: Final = """\
{{addresses}} {
	{{bind}}
	{{location}}
}
"""

_AT_ROOT: Final = """\
reverse_proxy {{server}} {
	# Without a "split" the whole path is PATH_INFO, and SCRIPT_NAME is empty.
	transport fastcgi
	# Answers pass as they come.
	flush_interval -1
}
"""

_BELOW: Final = """\
@{{name}} path {{mount}} {{mount}}/*
handle @{{name}} {
	reverse_proxy {{server}} {
		# The whole path is PATH_INFO: --script-name says what of it is SCRIPT_NAME.
		transport fastcgi
		# Answers pass as they come.
		flush_interval -1
	}
}
handle {
	respond 404
}
"""


def files(site: Site) -> list[File]:
    """The files of a site.

    Raises:
        UsageError: something in it cannot be configured.
    """
    site.refuse_sendfile(TITLE)
    for word in (site.app, *site.command):
        if "{$" in word:
            raise UsageError(f"Caddy takes a part of {word!r} for a variable, even in a comment")
    http = site.listens
    text = fill(
        _SITE,
        addresses=_addresses(site, http),
        bind="".join(f"bind {host}\n" for host in dict.fromkeys(item.host for item in http)),
        location=location(site),
    )
    if site.folder is not None:
        path = f"{site.folder}/Caddyfile"
        run = steps(
            "It runs in place, without root:", f"caddy run --config {path} --adapter caddyfile"
        )
        heading = site.heading(TITLE, run)
        return [File(path, fill(_STANDALONE, heading=heading, folder=site.folder, site=text))]
    install = steps("For /etc/caddy/Caddyfile, then", "systemctl reload caddy")
    if site.server_name is None and not site.http:
        install += "\n\nIt is for every host name: what is there for :80 must go."
    heading = site.heading(TITLE, install)
    return [File("/etc/caddy/Caddyfile", fill(_PART, heading=heading, site=text))]


def location(site: Site) -> str:
    """What is about the app alone.

    Raises:
        UsageError: Caddy cannot connect to its server.
    """
    if isinstance(site.address, AbstractAddress):
        server = f"unix/{site.address}"
    elif isinstance(site.server, UnixAddress):
        server = f"unix/{site.server.path}"
    else:
        server = str(site.server)
    if not site.mount:
        return fill(_AT_ROOT, server=server)
    return fill(_BELOW, name=site.name, mount=site.mount, server=server)


def _addresses(site: Site, http: tuple[InetAddress, ...]) -> str:
    """Host names and ports; a name alone makes Caddy fetch a certificate for it."""
    if not http:
        return site.server_name or "http://"
    ports = dict.fromkeys(item.port for item in http)
    return ", ".join(f"http://{site.server_name or ''}:{port}" for port in ports)
