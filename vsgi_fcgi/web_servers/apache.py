"""Apache, with mod_proxy_fcgi."""

from __future__ import annotations

from typing import Final

from vsgi_fcgi.addresses import UnixAddress
from vsgi_fcgi.web_servers.site import File, Site
from vsgi_fcgi.web_servers.template import fill, steps

TITLE: Final = "Apache"

_STANDALONE: Final = """\
{{heading}}

LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_fcgi_module /usr/lib/apache2/modules/mod_proxy_fcgi.so
LoadModule setenvif_module /usr/lib/apache2/modules/mod_setenvif.so

ServerRoot {{folder}}
ServerName localhost
PidFile {{folder}}/apache.pid
ErrorLog {{folder}}/error.log
DocumentRoot {{folder}}
Mutex file:{{folder}}

# Nothing but the app is served.
<Directory />
    Require all denied
</Directory>

{{site}}
"""

_PART: Final = """\
{{heading}}

{{site}}
"""

_SITE: Final = """\
{{listen}}
<VirtualHost {{hosts}}>
    {{server_name}}
    {{location}}
</VirtualHost>
"""

_LOCATION: Final = """\
# Slashes that are escaped, and doubled ones, are the app's business. On: the first are decoded, and
# access rules are about what they make of the path.
AllowEncodedSlashes On
MergeSlashes Off
# Many cookies, or one large header: Apache's own limit is 8190 bytes.
LimitRequestFieldSize 32768

# enablereuse: connections are kept. flushpackets: answers pass as they come.
ProxyPass "{{root}}" "{{server}}" enablereuse=on flushpackets=on

# Without it SCRIPT_FILENAME reads "proxy:fcgi://...".
ProxyFCGIBackendType GENERIC

<Location "{{root}}">
    # Else the app gets no Authorization.
    CGIPassAuth On
    # vsgi-fcgi has a bound of its own: --max-body-bytes.
    LimitRequestBody 0
</Location>
"""


def files(site: Site) -> list[File]:
    """The files of a site.

    Raises:
        UsageError: something in it cannot be configured.
    """
    site.refuse_sendfile(TITLE)
    http = site.listens
    server_name = "" if site.server_name is None else f"ServerName {site.server_name}\n\n"
    text = fill(
        _SITE,
        listen="".join(f"Listen {item}\n" for item in http),
        hosts=" ".join(map(str, http)) or "*:80",
        server_name=server_name,
        location=location(site),
    )
    if site.folder is not None:
        path = f"{site.folder}/apache.conf"
        run = steps(
            "It runs in place, without root:",
            f"apache2 -DFOREGROUND -d {site.folder} -f {path}",
        )
        heading = site.heading(TITLE, run)
        return [File(path, fill(_STANDALONE, heading=heading, folder=site.folder, site=text))]
    path = f"/etc/apache2/sites-available/{site.name}.conf"
    install = steps(
        f"As {path}, where Debian looks, then",
        "a2enmod proxy_fcgi",
        f"a2ensite {site.name}",
        "systemctl restart apache2",
    )
    if site.server_name is None and not site.http:
        install += (
            "\n\nIt is for every host name: Debian's own site must go (a2dissite 000-default)."
        )
    heading = site.heading(TITLE, install)
    return [File(path, fill(_PART, heading=heading, site=text))]


def location(site: Site) -> str:
    """What is about the app alone.

    Raises:
        UsageError: Apache cannot connect to its server.
    """
    server = site.server
    if isinstance(server, UnixAddress):
        url = f"unix:{server.path}|fcgi://{site.name}{site.root}"
    else:
        url = f"fcgi://{server}{site.root}"
    return fill(_LOCATION, root=site.root, server=url)
