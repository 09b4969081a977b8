"""HAProxy, which keeps connections and can send many requests at once on each."""

from __future__ import annotations

from typing import Final

from vsgi_fcgi.addresses import InetAddress, UnixAddress
from vsgi_fcgi.front_ends.base import (
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
from vsgi_fcgi.front_ends.site import File, Site, fill, steps

TITLE: Final = "HAProxy"

TESTED: Final = "2.6.12 and 3.0"

CHROOT: Final = "/var/lib/haproxy"
"""The root folder of Debian's HAProxy, which cannot open files outside of it."""

_STANDALONE: Final = """\
{{heading}}

global
    log stdout format raw local0 info
    # Each thread of HAProxy has its own connections. By default there is one thread per core.
    nbthread 1

defaults
    mode http
    log global
    option httplog
    timeout connect 5s
    # Time after which a client is disconnected that does not read its response. It must be shorter
    # than vsgi-fcgi's --send-timeout (60 s).
    timeout client 30s
    # Time to wait for the app.
    timeout server 60s
    timeout http-request 10s
    timeout http-keep-alive 10s

{{site}}
"""

_PART: Final = """\
{{heading}}

{{site}}
"""

_PATH_AT_ROOT: Final = "path-info ^()(.*)$"
_PATH_BELOW: Final = "path-info ^({{pattern}})(/.*)?$"

_PASSWORD: Final = "pass-header Authorization"

_KEEP: Final = "option keep-conn"
_REUSE: Final = "http-reuse always"

_ALONE: Final = """\
no option mpxs-conns
no option get-values
"""

_SHARES_SINCE: Final = (3, 2)
"""The first release that answers all of many requests that start at the same time on a shared
connection. Of 5,120 uploads of 100 KB from 64 clients, 3.0.11 answered 33 with a 500 of its own,
and 2.6.12 a quarter; of 25,600 with 3.2.26 there was none."""

_SHARE: Final = """\
option mpxs-conns
option get-values
option max-reqs 100
"""

_SITE: Final = """\
fcgi-app {{name}}
    # HAProxy logs the text that the app writes to wsgi.errors, from 2.6.14 on. Older versions crash
    # if they receive it, so vsgi-fcgi does not send it to them.
    log-stderr global
    # HAProxy requires this line. It has no meaning for a WSGI app.
    docroot /
    # The first group is SCRIPT_NAME, the mount point, and the second PATH_INFO.
    {{path_info}}
    # HAProxy's default contains the port.
    set-param SERVER_NAME %[req.hdr(host),host_only]
    # Without this line the app gets no Authorization.
    {{password}}
    {{keep}}
    # From HAProxy {{shares_since}} on, requests share connections. If many requests start at the
    # same time on a shared connection, an older HAProxy answers some of them with a 500 of its own.
    # A client that does not read a large response delays the other requests of its connection, and
    # the app does not learn that a client has left. If that matters more to you, keep only the
    # lines below .else.
    .if version_atleast({{shares_since}})
    {{share}}
    .else
    {{alone}}
    .endif

frontend {{name}}
    mode http
    {{bind}}
    {{deny}}
    default_backend {{name}}

backend {{name}}
    mode http
    use-fcgi-app {{name}}
    # Without this line the first request of each client opens a connection.
    {{reuse}}
    {{chroot}}
    server app {{server}} proto fcgi
"""

_CHROOTED: Final = f"# In {CHROOT}, which is the root for HAProxy: see chroot, above.\n"
_OUTSIDE: Final = f"""\
# Remove chroot from the section global, if it is there: HAProxy cannot open a socket outside of
# that folder. Or use --socket {CHROOT}/{{{{name}}}}.sock instead.
"""


def files(site: Site) -> list[File]:
    """Return the configuration files of a site.

    Raises:
        UsageError: a value of the site cannot be configured.
    """
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
        path_info=HAPROXY.lines(_PATH_BELOW if site.mount else _PATH_AT_ROOT, site),
        password=_PASSWORD,
        keep=_KEEP,
        alone=_ALONE,
        share=_SHARE,
        shares_since=".".join(map(str, _SHARES_SINCE)),
        reuse=_REUSE,
        bind="".join(f"bind {item}\n" for item in http) or "bind :80\n",
        deny=deny,
        chroot=chroot,
        server=server,
    )
    if site.folder is not None:
        path = f"{site.folder}/haproxy.cfg"
        run = steps("Start it without root:", f"haproxy -db -f {path}")
        heading = site.heading(TITLE, TESTED, run)
        return [File(path, fill(_STANDALONE, heading=heading, site=text))]
    path = "/etc/haproxy/haproxy.cfg"
    install = steps(f"Add it to the end of {path}, then run", "systemctl reload haproxy")
    heading = site.heading(TITLE, TESTED, install)
    return [File(path, fill(_PART, heading=heading, site=text))]


def _server(site: Site) -> tuple[str, str]:
    """Return the address of the app's server, and the comment above it."""
    server = site.server
    if isinstance(server, InetAddress):
        return str(server), ""
    if site.folder is not None:
        return f"unix@{server.path}", ""
    if server.path.startswith(f"{CHROOT}/"):
        return f"unix@{server.path.removeprefix(CHROOT)}", _CHROOTED
    return f"unix@{server.path}", fill(_OUTSIDE, name=site.name)


def default_socket(site_name: str) -> UnixAddress:
    """Return the default socket, which Debian's HAProxy can open."""
    return UnixAddress(f"{CHROOT}/{site_name}.sock")


def quirks(version: Version) -> Quirks:
    """Return what this version of HAProxy does that no specification says."""
    return Quirks(
        repeats_headers=True,
        # HAProxy's issue 2150. It depends on where one of HAProxy's reads ends. Neither the order
        # nor the size of the records avoids it.
        crashes_on_stderr=() < version < (2, 6, 14) or version[:2] == (2, 7),
        # Some of many requests that start at the same time get a 500 (HAProxy's issue 2568). It was
        # seen with 2.6.12 and 3.0.11.
        fails_when_shared=() < version < _SHARES_SINCE,
        # If the client sends an empty body in chunks, or over HTTP/2 without a length (HAProxy's
        # issue 2499). No version is known that ends STDIN then.
        omits_end_of_stdin=True,
    )


def split_path(script: str, params: Params) -> PathSplit | None:
    """Split a path that came without PATH_INFO.

    HAProxy leaves out empty params. PATH_INFO is empty for the app's own address, and for every
    address if no path-info is configured.
    """
    if not script:
        return None
    if script[-1] == "/":
        return "", script, PathCorrection.WHOLE
    return script, "", PathCorrection.UNCLEAR


_IN_APP: Final = "HAProxy, in the section fcgi-app"
_SECTIONS: Final = "HAProxy, in the two sections"
_IN_BACKEND: Final = f"""
backend {{{{name}}}}
    use-fcgi-app {{{{name}}}}
    {_REUSE}
"""


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


REMEDIES: Final = {
    "path": Remedy(_IN_APP, _PATH_AT_ROOT),
    "path-mount": Remedy(_IN_APP, _PATH_BELOW),
    "authorization": Remedy(_IN_APP, _PASSWORD),
    "header": Remedy(
        "HAProxy, in the backend of the app, instead of set-param in the section fcgi-app",
        "http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]",
    ),
    "keep": Remedy(_SECTIONS, f"fcgi-app {{{{name}}}}\n{_indented(_KEEP)}{_IN_BACKEND}"),
    "multiplexing": Remedy(
        _SECTIONS, f"fcgi-app {{{{name}}}}\n{_indented(_KEEP)}{_indented(_SHARE)}{_IN_BACKEND}"
    ),
    "alone": Remedy(f"{_IN_APP}, instead of option mpxs-conns and option get-values", _ALONE),
}

NOTES: Final = Notes(
    header_joined=(
        "If set-param in the fcgi-app sets this header, a client can add a value in front of it,"
        " and the app must not trust the header: use http-request set-header instead, as in the"
        " line for X-Forwarded-Proto. If the client has sent the header more than once, nothing is"
        " wrong."
    ),
    authorization="The client has sent it: HAProxy sends AUTH_TYPE.",
    upload_held=(
        " HAProxy waits for the whole of a body without a length. It has to fit HAProxy's buffer of"
        " 16 KiB (tune.bufsize)."
    ),
    not_shared=(
        " Each thread of HAProxy has its own connections: if it has as many threads as there were"
        " requests, this trial shows nothing."
    ),
    sharing_fails=(
        "If many requests start at the same time on one connection, this version of HAProxy answers"
        " some with a 500 of its own, above all uploads (its issue 2568); its log has IH. HAProxy"
        f" {'.'.join(map(str, _SHARES_SINCE))} does not."
    ),
    sharing_costs=(
        "a client that does not read a large response delays the other requests of a shared"
        " connection, and the app does not learn that a client has left."
    ),
)

HAPROXY: Final = FrontEnd(
    key="haproxy",
    name="HAProxy",
    software="haproxy",
    keeps=True,
    multiplexes=True,
    quirks=quirks,
    split_path=split_path,
    remedies=REMEDIES,
    notes=NOTES,
    printed=Printed(
        program="haproxy",
        title=TITLE,
        tested=TESTED,
        files=files,
        group="haproxy",
        default_socket=default_socket,
    ),
)

FRONT_ENDS: Final = (HAPROXY,)
