"""Caddy, which opens a connection for each request."""

from __future__ import annotations

from typing import Final

from vsgi_fcgi.addresses import AbstractAddress, InetAddress, UnixAddress
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.front_ends.base import BrokenEnd, FrontEnd, Notes, Printed, Quirks, Remedy, Version
from vsgi_fcgi.front_ends.site import File, Site, fill, steps

TITLE: Final = "Caddy"

TESTED: Final = "2.6.2"

_AT_ONCE: Final = "flush_interval -1"

_STANDALONE: Final = """\
{{heading}}
{
	# Caddy listens only for the site.
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
	# Without "split", PATH_INFO is the whole path and SCRIPT_NAME is empty.
	transport fastcgi
	# Caddy passes responses on as they arrive.
	{{at_once}}
}
"""

_BELOW: Final = """\
@{{name}} path {{mount}} {{mount}}/*
handle @{{name}} {
	reverse_proxy {{server}} {
		# PATH_INFO is the whole path. The server splits it at its --script-name.
		transport fastcgi
		# Caddy passes responses on as they arrive.
		{{at_once}}
	}
}
handle {
	respond 404
}
"""


def files(site: Site) -> list[File]:
    """Return the configuration files of a site.

    Raises:
        UsageError: a value of the site cannot be configured.
    """
    for word in (site.app, *site.command):
        if "{$" in word:
            raise UsageError(f"Caddy would replace a variable in {word!r}, even in a comment")
    http = site.listens
    text = fill(
        _SITE,
        addresses=_addresses(site, http),
        bind="".join(f"bind {host}\n" for host in dict.fromkeys(item.host for item in http)),
        location=location(site),
    )
    if site.folder is not None:
        path = f"{site.folder}/Caddyfile"
        run = steps("Start it without root:", f"caddy run --config {path} --adapter caddyfile")
        heading = site.heading(TITLE, TESTED, run)
        return [File(path, fill(_STANDALONE, heading=heading, folder=site.folder, site=text))]
    install = steps("Add it to /etc/caddy/Caddyfile, then run", "systemctl reload caddy")
    if site.server_name is None and not site.http:
        install += "\n\nIt is for every host name: remove the site :80 that is there."
    heading = site.heading(TITLE, TESTED, install)
    return [File("/etc/caddy/Caddyfile", fill(_PART, heading=heading, site=text))]


def location(site: Site) -> str:
    """Return the lines of the app.

    Raises:
        UsageError: Caddy cannot connect to the app's server.
    """
    if isinstance(site.address, AbstractAddress):
        server = f"unix/{site.address}"
    elif isinstance(site.server, UnixAddress):
        server = f"unix/{site.server.path}"
    else:
        server = str(site.server)
    if not site.mount:
        return fill(_AT_ROOT, server=server, at_once=_AT_ONCE)
    return fill(_BELOW, name=site.name, mount=site.mount, server=server, at_once=_AT_ONCE)


def _addresses(site: Site, http: tuple[InetAddress, ...]) -> str:
    """Return host names and ports. For a name without a port Caddy obtains a certificate."""
    if not http:
        return site.server_name or "http://"
    ports = dict.fromkeys(item.port for item in http)
    return ", ".join(f"http://{site.server_name or ''}:{port}" for port in ports)


UNKNOWN_LENGTH: Final = "-1"
"""The CONTENT_LENGTH that Caddy 2.6 sends for a body of unknown length; others send none."""


def quirks(version: Version) -> Quirks:
    """Return what this version of Caddy does that no specification says."""
    # Caddy logs an invalid header as an error, but does not report a bare close.
    return Quirks(broken_end=BrokenEnd.INVALID_RECORD)


REMEDIES: Final = {
    "header": Remedy(
        "Caddy, in the block of reverse_proxy, in place of env in that of its transport",
        "header_up -X_Forwarded_Proto\nheader_up X-Forwarded-Proto {scheme}",
    ),
    "stream": Remedy("Caddy, in the block of reverse_proxy", _AT_ONCE),
}

NOTES: Final = Notes(
    body_not_sent=(
        " Caddy does this for forward_auth, and its configuration cannot leave CONTENT_LENGTH out."
    ),
    sends_length_anyway=True,
)

CADDY: Final = FrontEnd(
    key="caddy",
    name="Caddy",
    software="caddy",
    keeps=False,
    multiplexes=False,
    quirks=quirks,
    remedies=REMEDIES,
    notes=NOTES,
    printed=Printed(program="caddy", title=TITLE, tested=TESTED, files=files, group="caddy"),
)

FRONT_ENDS: Final = (CADDY,)
