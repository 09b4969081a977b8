"""nginx, which keeps connections and sends one request at a time on each."""

from __future__ import annotations

from typing import Final

from vsgi_fcgi.addresses import UnixAddress
from vsgi_fcgi.exceptions import UsageError
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
)
from vsgi_fcgi.front_ends.site import File, Place, Site, fill, steps

TITLE: Final = "nginx"

TESTED: Final = "1.22 and 1.26"

_LONGEST_LINE: Final = 4000
"""Maximum bytes of a line in the configuration: nginx reads it into a buffer of 4096 bytes."""

_STANDALONE: Final = """\
{{heading}}

daemon off;
worker_processes 1;
pid {{folder}}/nginx.pid;
error_log {{folder}}/error.log;

events {
    worker_connections 1024;
}

http {
    access_log off;
    {{types}}
    client_body_temp_path {{folder}}/body_temp;
    proxy_temp_path {{folder}}/proxy_temp;
    fastcgi_temp_path {{folder}}/fastcgi_temp;
    uwsgi_temp_path {{folder}}/uwsgi_temp;
    scgi_temp_path {{folder}}/scgi_temp;

    {{site}}
}
"""

_PART: Final = """\
{{heading}}

{{site}}
"""

_UPSTREAM: Final = """\
upstream {{name}} {
    server {{server}};
    # Number of idle connections to the app that each worker process keeps.
    keepalive 64;
}
"""

_KEPT: Final = """\
fastcgi_pass {{name}};
# nginx reuses connections only with this line and the keepalive in the upstream.
fastcgi_keep_conn on;
"""

_AT_ONCE: Final = "fastcgi_buffering off;"

_SITE: Final = """\
{{upstream}}

server {
    {{listen}}

    # For many cookies, or one large header: nginx's default limit is 8 KiB.
    large_client_header_buffers 4 32k;
    # The app gets double slashes unchanged: an access rule for /admin needs one for //admin.
    merge_slashes off;

    # The host of the request. If the request line contains a host (GET http://...), nginx uses
    # it, and takes only the port from the header Host.
    set $port "";
    if ($http_host ~ "(:[0-9]+)$") {
        set $port $1;
    }

    {{location}}
    {{others}}
    {{static}}
    {{files}}
}
"""

_SPLIT_AT_ROOT: Final = """\
fastcgi_param SCRIPT_NAME     "";
fastcgi_param PATH_INFO       $uri;
"""

_AT_ROOT: Final = """\
location / {
    {{split}}
    {{params}}
}
"""

_BELOW: Final = """\
# "(?s)" and "\\z" are for paths that contain a newline.
location ~ "(?s)^(?<mount>{{pattern}})(?<rest>/.*)?\\z" {
    fastcgi_param SCRIPT_NAME     $mount;
    fastcgi_param PATH_INFO       $rest;
    {{params}}
}
"""

_PARAMS: Final = """\
fastcgi_param QUERY_STRING    $query_string;
fastcgi_param REQUEST_METHOD  $request_method;
fastcgi_param CONTENT_TYPE    $content_type;
fastcgi_param CONTENT_LENGTH  $content_length;
fastcgi_param REQUEST_URI     $request_uri;
fastcgi_param REQUEST_SCHEME  $scheme;
fastcgi_param HTTPS           $https if_not_empty;
fastcgi_param REMOTE_ADDR     $remote_addr;
fastcgi_param REMOTE_PORT     $remote_port;
fastcgi_param REMOTE_USER     $remote_user;
fastcgi_param SERVER_ADDR     $server_addr;
fastcgi_param SERVER_PORT     $server_port;
fastcgi_param SERVER_NAME     $host;
fastcgi_param HTTP_HOST       $host$port if_not_empty;
fastcgi_param SERVER_PROTOCOL $server_protocol;
fastcgi_param SERVER_SOFTWARE nginx/$nginx_version;
fastcgi_param GATEWAY_INTERFACE CGI/1.1;

{{kept}}
# nginx passes responses on as they arrive. vsgi-fcgi buffers them for slow clients.
{{at_once}}
# The response headers must fit into this buffer.
fastcgi_buffer_size 32k;
fastcgi_buffers 16 16k;
# vsgi-fcgi has a limit of its own: --max-body-bytes.
client_max_body_size 0;
"""

_OTHERS: Final = """\

location / {
    return 404;
}
"""

_STATIC: Final = """\

# nginx sends these files without the app.
location ^~ {{url}}/ {
    alias {{folder}}/;
}
"""

_TYPES: Final = "include /etc/nginx/mime.types;\n"

_FILES: Final = """\

# Clients cannot request these files. The app sends them with X-Accel-Redirect.
location {{url}}/ {
    internal;
    alias {{folder}}/;
}
"""


def files(site: Site) -> list[File]:
    """Return the configuration files of a site.

    Raises:
        UsageError: a value of the site cannot be configured.
    """
    if any(len(line.encode()) > _LONGEST_LINE for line in site.heading(TITLE, TESTED).splitlines()):
        raise UsageError(
            "the command that starts the server is too long for a line of nginx's configuration;"
            " write its settings to a file and name it with --config"
        )
    text = fill(
        _SITE,
        upstream=NGINX.lines(_UPSTREAM, site),
        listen=_listen(site),
        location=location(site),
        others=_OTHERS if site.mount else "",
        static="".join(
            fill(_STATIC, url=url, folder=folder.rstrip("/")) for url, folder in site.static
        ),
        files="".join(
            fill(_FILES, url=url.rstrip("/"), folder=folder.rstrip("/"))
            for url, folder in site.sendfile_folders
            if site.sendfile != "off"
        ),
    )
    if site.folder is not None:
        path = f"{site.folder}/nginx.conf"
        types = _TYPES if site.static else ""
        run = steps("Start it without root:", f"nginx -e stderr -c {path}")
        heading = site.heading(TITLE, TESTED, run)
        return [
            File(
                path, fill(_STANDALONE, heading=heading, folder=site.folder, types=types, site=text)
            )
        ]
    path = f"/etc/nginx/sites-available/{site.name}"
    enabled = f"/etc/nginx/sites-enabled/{site.name}"
    install = steps(
        f"Save it as {path} on Debian, then run",
        f"ln -s {path} {enabled}",
        "nginx -t && systemctl reload nginx",
    )
    heading = site.heading(TITLE, TESTED, install)
    return [File(path, fill(_PART, heading=heading, site=text))]


def location(site: Site) -> str:
    """Return the location of the app, which needs the ``upstream`` and ``$port`` of the site."""
    params = fill(_PARAMS, kept=NGINX.lines(_KEPT, site), at_once=_AT_ONCE)
    if not site.mount:
        return fill(_AT_ROOT, split=_SPLIT_AT_ROOT, params=params)
    return fill(_BELOW, pattern=site.pattern, params=params)


def _listen(site: Site) -> str:
    addresses = [str(item) for item in site.listens] or ["80", "[::]:80"]
    if site.server_name is not None:
        return "".join(f"listen {item};\n" for item in addresses) + (
            f"server_name {site.server_name};\n"
        )
    if site.listens:
        return "".join(f"listen {item};\n" for item in addresses)
    why = "# For every host name: remove Debian's own site, sites-enabled/default.\n"
    return why + "".join(f"listen {item} default_server;\n" for item in addresses)


def quirks(version: Version) -> Quirks:
    """Return what this version of nginx does that no specification says."""
    return Quirks(
        # Since 1.23 nginx joins them itself.
        repeats_headers=() < version < (1, 23),
        # Unless nginx keeps connections and buffers responses, it takes a bare close for the end
        # of the response. An invalid header is an error in all modes.
        broken_end=BrokenEnd.INVALID_RECORD,
    )


def split_path(script: str, params: Params) -> PathSplit | None:
    """Split a path that came without PATH_INFO.

    nginx sends an empty PATH_INFO, so there is none in its configuration, and SCRIPT_NAME is
    ``$fastcgi_script_name``, which is the whole path.
    """
    return ("", script, PathCorrection.WHOLE) if script else None


def recognised_by(params: Params) -> str:
    """Recognise an nginx that does not say what it is, as one without its fastcgi_params."""
    if "DOCUMENT_URI" in params and "REDIRECT_STATUS" in params:
        return "DOCUMENT_URI and REDIRECT_STATUS, as its fastcgi_params have them"
    if params and all(name.startswith("HTTP_") for name in params):
        return "params that are all headers, as it sends them without its fastcgi_params"
    return ""


def server(place: Place) -> str:
    """Return the address of a server in nginx's syntax, in quotes if it contains a space."""
    found = place.server
    text = f"unix:{found.path}" if isinstance(found, UnixAddress) else str(found)
    return f'"{text}"' if " " in text else text


def sends_whole_path(params: Params) -> bool:
    """Return whether nginx sent the whole path as SCRIPT_NAME, and an empty PATH_INFO.

    It does so for every path where PATH_INFO is ``$fastcgi_path_info`` and nothing splits it, and
    for the mount point itself where ``fastcgi_split_path_info`` does. At the root of the site both
    are the same, and the server corrects it.
    """
    script: str = params.get("SCRIPT_NAME", "")
    return (
        params.get("PATH_INFO") == ""
        and script.strip("/") != ""
        and params.get("DOCUMENT_URI") == script
    )


_IN_LOCATION: Final = "nginx, in the location of the app"
_DEBIANS_PARAMS: Final = "include fastcgi_params;\n"
_SPLIT: Final = Remedy(_IN_LOCATION, _DEBIANS_PARAMS + _SPLIT_AT_ROOT)

REMEDIES: Final = {
    "path": _SPLIT,
    "path-mount": Remedy(
        "nginx, in place of the location of the app",
        _BELOW.replace("{{params}}", "include fastcgi_params;\n    fastcgi_pass {{server}};"),
    ),
    "params": _SPLIT,
    "host": Remedy(
        "nginx, in the location of the app, below the include of fastcgi_params",
        "fastcgi_param HTTP_HOST $host:$server_port;",
    ),
    "authorization": Remedy(
        _IN_LOCATION, "fastcgi_param HTTP_AUTHORIZATION $http_authorization if_not_empty;"
    ),
    "no-body": Remedy(
        "nginx, in the location of auth_request or mirror, below the include of fastcgi_params",
        'fastcgi_pass_request_body off;\nfastcgi_param CONTENT_LENGTH "";',
    ),
    "header": Remedy(_IN_LOCATION, "fastcgi_param HTTP_X_FORWARDED_PROTO $scheme;"),
    "upload": Remedy(_IN_LOCATION, "fastcgi_request_buffering off;"),
    "stream": Remedy(_IN_LOCATION, _AT_ONCE),
    "keep": Remedy(
        "nginx, next to the block server, and in the location of the app instead of its"
        " fastcgi_pass",
        f"{_UPSTREAM}\n{_KEPT}",
    ),
}

NOTES: Final = Notes(
    body_not_sent=(
        " nginx does this in a location for auth_request or mirror, and with"
        " fastcgi_pass_request_body off."
    ),
    loses_port="Debian's fastcgi_params leaves it out of HTTP_HOST.",
    whole_path=sends_whole_path,
    whole_path_cause=(
        " nginx does so with PATH_INFO $fastcgi_path_info and no fastcgi_split_path_info."
    ),
)

NGINX: Final = FrontEnd(
    key="nginx",
    name="nginx",
    software="nginx",
    recognised_by=recognised_by,
    keeps=True,
    multiplexes=False,
    quirks=quirks,
    split_path=split_path,
    server=server,
    remedies=REMEDIES,
    notes=NOTES,
    printed=Printed(
        program="nginx",
        title=TITLE,
        tested=TESTED,
        files=files,
        group="www-data",
        sendfile="x-accel",
        static=True,
    ),
)

FRONT_ENDS: Final = (NGINX,)
