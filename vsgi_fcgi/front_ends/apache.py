"""Apache, with mod_proxy_fcgi or mod_fcgid. The printed configuration is for mod_proxy_fcgi."""

from __future__ import annotations

import re
from typing import Final

from vsgi_fcgi.addresses import UnixAddress
from vsgi_fcgi.front_ends.base import (
    BrokenEnd,
    FrontEnd,
    Notes,
    Params,
    PathCorrection,
    PathSplit,
    Printed,
    Quirks,
    Remedy,
    Version,
    decoded_paths,
)
from vsgi_fcgi.front_ends.site import File, Place, Site, fill, steps

TITLE: Final = "Apache"

TESTED: Final = "2.4.71"

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

# Apache serves no files.
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

_FLAGS: Final = "enablereuse=on flushpackets=on"

_PASS: Final = f'ProxyPass "{{{{root}}}}" "{{{{server}}}}" {_FLAGS}'

_PASSWORD: Final = "CGIPassAuth On"

_LOCATION: Final = """\
# The app gets escaped and double slashes unchanged. With "On", Apache decodes escaped slashes and
# applies access rules to the decoded path.
AllowEncodedSlashes On
MergeSlashes Off
# For many cookies, or one large header: Apache's default limit is 8190 bytes.
LimitRequestFieldSize 32768

# enablereuse keeps connections. flushpackets passes responses on as they arrive.
{{passed}}

# Without this line SCRIPT_FILENAME is "proxy:fcgi://...".
ProxyFCGIBackendType GENERIC

<Location "{{root}}">
    # Without this line the app gets no Authorization.
    {{password}}
    # vsgi-fcgi has a limit of its own: --max-body-bytes.
    LimitRequestBody 0
</Location>
"""


def files(site: Site) -> list[File]:
    """Return the configuration files of a site.

    Raises:
        UsageError: a value of the site cannot be configured.
    """
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
            "Start it without root:",
            f"apache2 -DFOREGROUND -d {site.folder} -f {path}",
        )
        heading = site.heading(TITLE, TESTED, run)
        return [File(path, fill(_STANDALONE, heading=heading, folder=site.folder, site=text))]
    path = f"/etc/apache2/sites-available/{site.name}.conf"
    install = steps(
        f"Save it as {path} on Debian, then run",
        "a2enmod proxy_fcgi",
        f"a2ensite {site.name}",
        "systemctl restart apache2",
    )
    if site.server_name is None and not site.http:
        install += (
            "\n\nIt is for every host name: remove Debian's own site (a2dissite 000-default)."
        )
    heading = site.heading(TITLE, TESTED, install)
    return [File(path, fill(_PART, heading=heading, site=text))]


def location(site: Site) -> str:
    """Return the lines of the app.

    Raises:
        UsageError: Apache cannot connect to the app's server.
    """
    passed = APACHE_PROXY.lines(_PASS, site)
    return fill(_LOCATION, root=site.root, passed=passed, password=_PASSWORD)


def server(place: Place) -> str:
    """Return the address of a server in the syntax of ProxyPass.

    If the mount point ends with a slash, this has to end with one, too. It contains nothing else of
    the mount point, so that SCRIPT_FILENAME shows where to split the path.
    """
    found = place.server
    slash = "" if place.mount else "/"
    if isinstance(found, UnixAddress):
        return f"unix:{found.path}|fcgi://{place.name}{slash}"
    return f"fcgi://{found}{slash}"


_SOCKET_OF_FCGID: Final = re.compile(r".*/\d+\.\d+")


def is_fcgid(address: object) -> bool:
    """Return whether mod_fcgid made the socket that a server listens on.

    It makes a UNIX socket for each process that it starts, with two numbers as its name.
    SERVER_SOFTWARE does not tell: it names all modules that Apache has loaded, or none.

    Args:
        address: what ``getsockname`` returned.
    """
    return isinstance(address, str) and _SOCKET_OF_FCGID.fullmatch(address) is not None


def fcgid_quirks(version: Version) -> Quirks:
    """Return what Apache with mod_fcgid does that no specification says."""
    # mod_fcgid terminates a process that ends without END_REQUEST, and appends an error page to the
    # body.
    return Quirks(broken_end=BrokenEnd.END_REQUEST)


def split_path(script: str, params: Params) -> PathSplit | None:
    """Split a path that came without PATH_INFO, as ProxyPass does.

    SCRIPT_FILENAME reads ``proxy:fcgi://host/path``, or just ``/path`` with ProxyFCGIBackendType
    GENERIC; or it is the name of a file.
    """
    file: str = params.get("SCRIPT_FILENAME", "")
    if not script:
        return None
    if file.startswith("proxy:"):
        file = "/" + file.partition("://")[2].partition("/")[2]
    bare = "/" + file.lstrip("/")
    if bare == "/" and script[-1] != "/":
        return script, "", PathCorrection.UNCHANGED
    # "ProxyPass /app fcgi://host/" puts one slash before the path, which may begin with two.
    shorter = file[1:] if file.startswith("//") else file
    for encoded in (file, shorter, bare):
        # Nothing is normalised: behind /x%2F..%2F../admin a client could hide all but /admin.
        for rest in decoded_paths(encoded):
            if script.endswith(rest):
                mount = script[: len(script) - len(rest)]
                if mount[-1:] != "/":
                    return mount, rest, PathCorrection.PROXIED
    return None


_BOTH: Final = {
    "authorization": Remedy(
        "Apache, for the place of the app (in .htaccess, the middle line alone)",
        f'<Location "/">\n    {_PASSWORD}\n</Location>',
    ),
    "header": Remedy(
        "Apache with mod_headers, in place of SetEnv",
        "RequestHeader set X-Forwarded-Proto expr=%{REQUEST_SCHEME}",
    ),
}

_WHOLE_LINE: Final = Remedy("Apache, in place of the ProxyPass or SetHandler that there is", _PASS)
_END_OF_LINE: Final = Remedy(
    "Apache, at the end of the line of ProxyPass, which can do this, and SetHandler cannot", _FLAGS
)

APACHE_FCGID: Final = FrontEnd(
    key="apache-fcgid",
    name="Apache with mod_fcgid",
    software="apache",
    owns_socket=is_fcgid,
    keeps=False,
    multiplexes=False,
    quirks=fcgid_quirks,
    split_path=split_path,
    remedies={**_BOTH, "stream": Remedy("Apache", "FcgidOutputBufferSize 0")},
    notes=Notes(upload_held=" mod_fcgid reads the whole of each body first."),
)

APACHE_PROXY: Final = FrontEnd(
    key="apache-proxy",
    name="Apache with mod_proxy_fcgi",
    software="apache",
    keeps=True,
    multiplexes=False,
    split_path=split_path,
    server=server,
    remedies={
        **_BOTH,
        **dict.fromkeys(("path", "stream", "keep"), _WHOLE_LINE),
        **dict.fromkeys(("path-anywhere", "stream-anywhere", "keep-anywhere"), _END_OF_LINE),
    },
    # Where ProxyPass has split the path, SCRIPT_FILENAME has said so.
    notes=Notes(follows_path=frozenset({PathCorrection.UNCHANGED})),
    printed=Printed(
        program="apache",
        aliases=("apache2", "httpd"),
        title=TITLE,
        tested=TESTED,
        files=files,
        group="www-data",
    ),
)

FRONT_ENDS: Final = (APACHE_FCGID, APACHE_PROXY)
