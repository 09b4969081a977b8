"""h2o, with a connection for each request."""

from __future__ import annotations

from typing import Final

from vsgi_fcgi.addresses import InetAddress, UnixAddress
from vsgi_fcgi.web_servers.site import File, Site
from vsgi_fcgi.web_servers.template import fill, steps

TITLE: Final = "h2o"

_STANDALONE: Final = """\
{{heading}}

# Each thread has connections of its own. Without this line there are as many as cores.
num-threads: 1

# Where bodies go that are too large for memory; without it /tmp.
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
# vsgi-fcgi has a bound of its own: --max-body-bytes.
limit-request-body: 1099511627776

{{listen}}

hosts:
  # This name is SERVER_NAME, whatever the client asked for.
  {{host}}:
    paths:
      {{location}}
"""

_LOCATION: Final = """\
{{path}}:
  {{whole}}
  fastcgi.connect:
    {{server}}
  # Milliseconds for which the app may be silent: before it answers, and between two
  # pieces of an answer.
  fastcgi.timeout.io: 60000
  # Leave fastcgi.timeout.keepalive alone. With it h2o 2.2.5 dies as a process of an
  # answer that is complete before the whole request has been sent: a 413 for a large
  # body is one.
"""

_WHOLE_PATH: Final = (
    "# The whole path is PATH_INFO: --script-name says what of it is SCRIPT_NAME.\n"
)


def files(site: Site) -> list[File]:
    """The files of a site.

    Raises:
        UsageError: something in it cannot be configured.
    """
    site.refuse_sendfile(TITLE)
    http = site.listens or (InetAddress("0.0.0.0", 80), InetAddress("::", 80))
    text = fill(
        _SITE,
        listen="\n".join(f'listen:\n  host: "{h.host}"\n  port: {h.port}\n' for h in http),
        host=f'"{site.server_name or "localhost"}"',
        location=location(site),
    )
    if site.folder is not None:
        path = f"{site.folder}/h2o.yaml"
        heading = site.heading(TITLE, steps("It runs in place, without root:", f"h2o -c {path}"))
        return [File(path, fill(_STANDALONE, heading=heading, folder=site.folder, site=text))]
    path = "/etc/h2o/h2o.conf"
    install = steps(
        f"As {path}; if h2o has other sites too, take what is below hosts. Then",
        "systemctl restart h2o",
    )
    heading = site.heading(TITLE, install)
    return [File(path, fill(_WHOLE, heading=heading, site=text))]


def location(site: Site) -> str:
    """What is about the app alone.

    Raises:
        UsageError: h2o cannot connect to its server.
    """
    server = site.server
    if isinstance(server, UnixAddress):
        lines = f'port: "{server.path}"\ntype: unix\n'
    else:
        lines = f'host: "{server.host}"\nport: {server.port}\ntype: tcp\n'
    whole = _WHOLE_PATH if site.mount else ""
    return fill(_LOCATION, path=f'"{site.root}"', whole=whole, server=lines)
