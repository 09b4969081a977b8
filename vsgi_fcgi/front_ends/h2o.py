"""h2o, which opens a connection for each request."""

from __future__ import annotations

from typing import Final

from vsgi_fcgi.addresses import EVERY_IPV4, InetAddress, UnixAddress
from vsgi_fcgi.front_ends.base import FrontEnd, Printed, Quirks, Remedy, Version
from vsgi_fcgi.front_ends.site import File, Site, fill, steps

TITLE: Final = "h2o"

TESTED: Final = "2.2.5"

_STANDALONE: Final = """\
{{heading}}

# Each thread has its own connections. By default there is one thread per core.
num-threads: 1

# Folder for bodies that are too large for memory; the default is /tmp.
temp-buffer-path: {{folder}}

{{site}}
"""

_WHOLE: Final = """\
{{heading}}

user: debian-h2o
pid-file: /run/h2o.pid
access-log: /var/log/h2o/access.log
error-log: /var/log/h2o/error.log

{{site}}
"""

_SITE: Final = """\
# vsgi-fcgi has a limit of its own: --max-body-bytes.
limit-request-body: 1099511627776

{{listen}}

hosts:
  # This name is always SERVER_NAME, also if the client requested another one.
  {{host}}:
    paths:
      {{location}}
"""

_LOCATION: Final = """\
{{path}}:
  {{whole}}
  fastcgi.connect:
    {{server}}
  # Milliseconds to wait for the app: before the response, and between two pieces of it.
  fastcgi.timeout.io: 60000
  # Do not set fastcgi.timeout.keepalive. With it h2o 2.2.5 crashes if a response is complete
  # before the whole request has been sent, such as a 413 for a large body.
"""

_WHOLE_PATH: Final = "# PATH_INFO is the whole path. The server splits it at its --script-name.\n"


def files(site: Site) -> list[File]:
    """Return the configuration files of a site.

    Raises:
        UsageError: a value of the site cannot be configured.
    """
    http = site.listens or (InetAddress(EVERY_IPV4, 80), InetAddress("::", 80))
    text = fill(
        _SITE,
        listen="\n".join(f'listen:\n  host: "{h.host}"\n  port: {h.port}\n' for h in http),
        host=f'"{site.server_name or "localhost"}"',
        location=location(site),
    )
    if site.folder is not None:
        path = f"{site.folder}/h2o.yaml"
        heading = site.heading(TITLE, TESTED, steps("Start it without root:", f"h2o -c {path}"))
        return [File(path, fill(_STANDALONE, heading=heading, folder=site.folder, site=text))]
    path = "/etc/h2o/h2o.conf"
    install = steps(
        f"Save it as {path}, or only the part below hosts if h2o has other sites. Then run",
        "systemctl restart h2o",
    )
    heading = site.heading(TITLE, TESTED, install)
    return [File(path, fill(_WHOLE, heading=heading, site=text))]


def location(site: Site) -> str:
    """Return the lines of the app.

    Raises:
        UsageError: h2o cannot connect to the app's server.
    """
    server = site.server
    if isinstance(server, UnixAddress):
        lines = f'port: "{server.path}"\ntype: unix\n'
    else:
        lines = f'host: "{server.host}"\nport: {server.port}\ntype: tcp\n'
    whole = _WHOLE_PATH if site.mount else ""
    return fill(_LOCATION, path=f'"{site.root}"', whole=whole, server=lines)


def quirks(version: Version) -> Quirks:
    """Return what this version of h2o does that no specification says."""
    # What setenv sets comes before SERVER_SOFTWARE, and the client's headers after it.
    return Quirks(repeats_headers=True, configured_first=True)


REMEDIES: Final = {
    "header": Remedy(
        "h2o, for the path of the app, where the site has TLS",
        "setenv: {HTTP_X_FORWARDED_PROTO: https}",
    ),
}

H2O: Final = FrontEnd(
    key="h2o",
    name="h2o",
    software="h2o",
    # It can keep them, and crashes then (2.2.5) when a response is complete before the whole
    # request has been sent.
    keeps=False,
    multiplexes=False,
    quirks=quirks,
    remedies=REMEDIES,
    printed=Printed(program="h2o", title=TITLE, tested=TESTED, files=files, group="debian-h2o"),
)

FRONT_ENDS: Final = (H2O,)
