"""nginx, over kept connections."""

from __future__ import annotations

from typing import Final

from vsgi_fcgi.addresses import UnixAddress
from vsgi_fcgi.exceptions import UsageError
from vsgi_fcgi.web_servers.site import File, Site
from vsgi_fcgi.web_servers.template import fill, steps

TITLE: Final = "nginx"

_LONGEST_LINE: Final = 4000
"""Bytes of a comment that nginx takes, whose buffer has 4096."""

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

_SITE: Final = """\
upstream {{name}} {
    server {{server}};
    # How many idle connections to the app each worker process keeps.
    keepalive 64;
}

server {
    {{listen}}

    # Many cookies, or one large header: nginx's own limit is 8 KiB.
    large_client_header_buffers 4 32k;
    # Doubled slashes are the app's business: a rule for /admin is to be one for //admin, too.
    merge_slashes off;

    # The host that is asked for. An address with a host in it (GET http://...) counts more than
    # the header Host, of which only the port is taken.
    set $port "";
    if ($http_host ~ "(:[0-9]+)$") {
        set $port $1;
    }

    {{location}}
    {{others}}
    {{files}}
}
"""

_AT_ROOT: Final = """\
location / {
    fastcgi_param SCRIPT_NAME     "";
    fastcgi_param PATH_INFO       $uri;
    {{params}}
}
"""

_BELOW: Final = """\
# "(?s)" and "\\z" are for paths with a newline in them.
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

fastcgi_pass {{name}};
# A connection is used for one request after the other: it needs the keepalive above, too.
fastcgi_keep_conn on;
# Answers pass as they come. The server keeps what a slow client has not read.
fastcgi_buffering off;
# The headers of an answer must fit.
fastcgi_buffer_size 32k;
fastcgi_buffers 16 16k;
# vsgi-fcgi has a bound of its own: --max-body-bytes.
client_max_body_size 0;
"""

_OTHERS: Final = """\

location / {
    return 404;
}
"""

_FILES: Final = """\

# No client can ask for it: it is where the app's X-Accel-Redirect leads.
location {{url}}/ {
    internal;
    alias {{folder}}/;
}
"""


def files(site: Site) -> list[File]:
    """The files of a site.

    Raises:
        UsageError: something in it cannot be configured.
    """
    site.refuse_sendfile(TITLE, "x-accel")
    if any(len(line.encode()) > _LONGEST_LINE for line in site.heading(TITLE).splitlines()):
        raise UsageError(
            "the command that starts the server is too long for a line of nginx's configuration;"
            " write its settings into a file that --config names"
        )
    server = site.server
    text = fill(
        _SITE,
        name=site.name,
        server=f"unix:{server.path}" if isinstance(server, UnixAddress) else str(server),
        listen=_listen(site),
        location=location(site),
        others=_OTHERS if site.mount else "",
        files="".join(
            fill(_FILES, url=url.rstrip("/"), folder=folder.rstrip("/"))
            for url, folder in site.sendfile_folders
            if site.sendfile != "off"
        ),
    )
    if site.folder is not None:
        path = f"{site.folder}/nginx.conf"
        run = steps("It runs in place, without root:", f"nginx -e stderr -c {path}")
        heading = site.heading(TITLE, run)
        return [File(path, fill(_STANDALONE, heading=heading, folder=site.folder, site=text))]
    path = f"/etc/nginx/sites-available/{site.name}"
    enabled = f"/etc/nginx/sites-enabled/{site.name}"
    install = steps(
        f"As {path}, where Debian looks, then",
        f"ln -s {path} {enabled}",
        "nginx -t && systemctl reload nginx",
    )
    heading = site.heading(TITLE, install)
    return [File(path, fill(_PART, heading=heading, site=text))]


def location(site: Site) -> str:
    """What is about the app alone; it needs the ``upstream`` and the ``$port`` beside it."""
    params = fill(_PARAMS, name=site.name)
    if not site.mount:
        return fill(_AT_ROOT, params=params)
    return fill(_BELOW, pattern=site.pattern, params=params)


def _listen(site: Site) -> str:
    addresses = [str(item) for item in site.listens] or ["80", "[::]:80"]
    if site.server_name is not None:
        return "".join(f"listen {item};\n" for item in addresses) + (
            f"server_name {site.server_name};\n"
        )
    if site.listens:
        return "".join(f"listen {item};\n" for item in addresses)
    why = "# For every host name: Debian's own site, sites-enabled/default, must go.\n"
    return why + "".join(f"listen {item} default_server;\n" for item in addresses)
