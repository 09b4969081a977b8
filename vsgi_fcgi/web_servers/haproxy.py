"""HAProxy, over kept connections."""

from __future__ import annotations

from typing import Final

from vsgi_fcgi.addresses import InetAddress, UnixAddress
from vsgi_fcgi.web_servers.site import File, Site
from vsgi_fcgi.web_servers.template import fill, steps

TITLE: Final = "HAProxy"

CHROOT: Final = "/var/lib/haproxy"
"""The folder out of which Debian's HAProxy sees nothing."""

_STANDALONE: Final = """\
{{heading}}

global
    log stdout format raw local0 info
    # Each thread of HAProxy has connections of its own. Without this line it starts as many
    # threads as there are cores.
    nbthread 1

defaults
    mode http
    log global
    option httplog
    timeout connect 5s
    # How long a client may read nothing of its answer. It is to be shorter than vsgi-fcgi's
    # --send-timeout (60 s).
    timeout client 30s
    # How long the app may be silent.
    timeout server 60s
    timeout http-request 10s
    timeout http-keep-alive 10s

{{site}}
"""

_PART: Final = """\
{{heading}}

{{site}}
"""

_SITE: Final = """\
fcgi-app {{name}}
    # What the app writes to wsgi.errors goes to HAProxy's log.
    log-stderr global
    # It must be there, and means nothing to a WSGI app.
    docroot /
    # The first group becomes SCRIPT_NAME, where the app is mounted, and the second PATH_INFO.
    path-info ^({{pattern}})(.*)$
    # HAProxy's own has the port in it.
    set-param SERVER_NAME %[req.hdr(host),host_only]
    # Left out otherwise.
    pass-header Authorization
    # A connection has one request after the other.
    option keep-conn
    no option mpxs-conns
    no option get-values
    # For several at once, which is for many requests that wait for long, say this instead. A client
    # that does not read a large answer holds up its neighbours then, and the app does not learn of
    # a client that has left. And Debian 12's HAProxy (2.6) answers some of many requests that begin
    # at the same time with a 500 of its own.
    #
    #     option mpxs-conns
    #     option get-values
    #     option max-reqs 100

frontend {{name}}
    mode http
    {{bind}}
    {{deny}}
    default_backend {{name}}

backend {{name}}
    mode http
    use-fcgi-app {{name}}
    # Without it the first request of each client opens a connection.
    http-reuse always
    {{chroot}}
    server app {{server}} proto fcgi
"""

_CHROOTED: Final = f"# In {CHROOT}, which is the root for HAProxy: see chroot, above.\n"
_OUTSIDE: Final = f"""\
# Take chroot out of the section global, if it is there: nothing outside of that folder is found.
# Or say --socket {CHROOT}/{{{{name}}}}.sock instead.
"""


def files(site: Site) -> list[File]:
    """The files of a site.

    Raises:
        UsageError: something in it cannot be configured.
    """
    site.refuse_sendfile(TITLE)
    http = site.listens
    server, chroot = _server(site)
    deny = ""
    if site.mount:
        condition = f"{{ path,url_dec -m reg '^{site.pattern}(/|$)' }}"
        deny = f"http-request return status 404 unless {condition}\n"
    if site.server_name is not None:
        condition = f"{{ req.hdr(host),host_only -m str -i {site.server_name} }}"
        deny += f"http-request return status 404 unless {condition}\n"
    text = fill(
        _SITE,
        name=site.name,
        pattern=site.pattern,
        bind="".join(f"bind {item}\n" for item in http) or "bind :80\n",
        deny=deny,
        chroot=chroot,
        server=server,
    )
    if site.folder is not None:
        path = f"{site.folder}/haproxy.cfg"
        run = steps("It runs in place, without root:", f"haproxy -db -f {path}")
        heading = site.heading(TITLE, run)
        return [File(path, fill(_STANDALONE, heading=heading, site=text))]
    path = "/etc/haproxy/haproxy.cfg"
    install = steps(f"For the end of {path}, then", "systemctl reload haproxy")
    heading = site.heading(TITLE, install)
    return [File(path, fill(_PART, heading=heading, site=text))]


def _server(site: Site) -> tuple[str, str]:
    """Where HAProxy connects to, and what is to be known of it."""
    server = site.server
    if isinstance(server, InetAddress):
        return str(server), ""
    if site.folder is not None:
        return f"unix@{server.path}", ""
    if server.path.startswith(f"{CHROOT}/"):
        return f"unix@{server.path.removeprefix(CHROOT)}", _CHROOTED
    return f"unix@{server.path}", fill(_OUTSIDE, name=site.name)


def default_socket(site_name: str) -> UnixAddress:
    """Where the server listens for Debian's HAProxy."""
    return UnixAddress(f"{CHROOT}/{site_name}.sock")
