"""The lines that put a web server right, as the tests apply them to real ones."""

from __future__ import annotations

import re
import shlex
from typing import Final

from vsgi_fcgi.doctor.finding import Remedy
from vsgi_fcgi.doctor.values import MOST_CHARACTERS

_SOME_ADDRESS: Final = "unix:/run/app.sock"
_WORD: Final = re.compile("MOUNT|ADDRESS|BACKEND|PLACE")
_PLAIN: Final = re.compile(r"[\w./~+@-]*", re.ASCII)
_QUOTABLE: Final = re.compile(r"(?!unix:@)[\w./~+@:\[\] -]+", re.ASCII)
"""Addresses that the configuration of a web server can have, between quotes at most."""
_WITH_PATTERNS: Final = ("nginx", "haproxy")
"""Web servers whose lines have the mount point in a regular expression."""

_NGINX_LOCATION: Final = "nginx, in the location of the app"
_NGINX_MOUNT: Final = r"""location ~ "(?s)^(?<mount>MOUNT)(?<rest>/.*)?\z" {
    include fastcgi_params;
    fastcgi_param SCRIPT_NAME $mount;
    fastcgi_param PATH_INFO $rest;
    fastcgi_pass ADDRESS;
}"""
_NGINX_KEEP: Final = """upstream app {
    server ADDRESS;
    keepalive 16;
}

fastcgi_pass app;
fastcgi_keep_conn on;"""
_HAPROXY_APP: Final = "HAProxy, in the section fcgi-app"
_HAPROXY_KEEP: Final = """fcgi-app APP
    option keep-conn

backend NAME
    use-fcgi-app APP
    http-reuse always"""
_HAPROXY_ALONE: Final = "no option mpxs-conns\nno option get-values"
_HAPROXY_SHARE: Final = """fcgi-app APP
    option keep-conn
    option mpxs-conns
    option get-values
    option max-reqs 100

backend NAME
    use-fcgi-app APP
    http-reuse always"""
_APACHE_AUTHORIZATION: Final = Remedy(
    "Apache, for the place of the app (in .htaccess, the middle line alone)",
    '<Location "/">\n    CGIPassAuth On\n</Location>',
)
_APACHE_PASS: Final = 'ProxyPass "PLACE" "BACKEND" enablereuse=on flushpackets=on'
_APACHE_WHOLE: Final = Remedy(
    "Apache, in place of the ProxyPass or SetHandler that there is", _APACHE_PASS
)
_APACHE_END: Final = Remedy(
    "Apache, at the end of the line of ProxyPass, which can do this, and SetHandler cannot",
    "enablereuse=on flushpackets=on",
)

_LINES: Final[dict[tuple[str, str], Remedy]] = {
    ("nginx", "path"): Remedy(
        _NGINX_LOCATION,
        'include fastcgi_params;\nfastcgi_param SCRIPT_NAME "";\nfastcgi_param PATH_INFO $uri;',
    ),
    ("nginx", "path-mount"): Remedy("nginx, in place of the location of the app", _NGINX_MOUNT),
    ("nginx", "params"): Remedy(
        _NGINX_LOCATION,
        'include fastcgi_params;\nfastcgi_param SCRIPT_NAME "";\nfastcgi_param PATH_INFO $uri;',
    ),
    ("nginx", "host"): Remedy(
        "nginx, in the location of the app, below the include of fastcgi_params",
        "fastcgi_param HTTP_HOST $host:$server_port;",
    ),
    ("nginx", "authorization"): Remedy(
        _NGINX_LOCATION, "fastcgi_param HTTP_AUTHORIZATION $http_authorization if_not_empty;"
    ),
    ("nginx", "upload"): Remedy(_NGINX_LOCATION, "fastcgi_request_buffering off;"),
    ("nginx", "stream"): Remedy(_NGINX_LOCATION, "fastcgi_buffering off;"),
    ("nginx", "keep"): Remedy(
        "nginx, beside the server, and in the location of the app in place of its fastcgi_pass",
        _NGINX_KEEP,
    ),
    ("lighttpd", "path"): Remedy(
        'lighttpd, in fastcgi.server, beside "check-local"',
        '"fix-root-scriptname" => "enable",',
    ),
    ("lighttpd", "path-mount"): Remedy(
        "lighttpd, in fastcgi.server: without a slash at the end", '"MOUNT" => (('
    ),
    ("lighttpd", "stream"): Remedy("lighttpd", "server.stream-response-body = 1"),
    ("apache-proxy", "path"): _APACHE_WHOLE,
    ("apache-proxy", "path-mount"): _APACHE_WHOLE,
    ("apache-proxy", "authorization"): _APACHE_AUTHORIZATION,
    ("apache-proxy", "stream"): _APACHE_WHOLE,
    ("apache-proxy", "keep"): _APACHE_WHOLE,
    ("apache-fcgid", "authorization"): _APACHE_AUTHORIZATION,
    ("apache-fcgid", "stream"): Remedy("Apache", "FcgidOutputBufferSize 0"),
    ("haproxy", "path"): Remedy(_HAPROXY_APP, "path-info ^()(.*)$"),
    ("haproxy", "path-mount"): Remedy(_HAPROXY_APP, "path-info ^(MOUNT)(/.*)?$"),
    ("haproxy", "authorization"): Remedy(_HAPROXY_APP, "pass-header Authorization"),
    ("haproxy", "keep"): Remedy("HAProxy, in the two sections", _HAPROXY_KEEP),
    ("haproxy", "multiplexing"): Remedy("HAProxy, in the two sections", _HAPROXY_SHARE),
    ("haproxy", "alone"): Remedy(
        f"{_HAPROXY_APP}, in place of option mpxs-conns and option get-values", _HAPROXY_ALONE
    ),
    ("caddy", "stream"): Remedy("Caddy, in the block of reverse_proxy", "flush_interval -1"),
}


def remedy(
    key: str, subject: str, *, mount: str | None = "", address: str = ""
) -> tuple[Remedy, ...]:
    """The lines for a web server.

    Args:
        key: its kind.
        subject: what they are about.
        mount: where the app is mounted; empty at the root, None if that is not known.
        address: where this server listens, as ``--bind`` takes it.

    Returns:
        One remedy, or none if there is none.
    """
    if subject == "path" and mount:
        subject = "path-mount"
    found = _LINES.get((key, subject))
    if found is None:
        return ()
    if found is _APACHE_WHOLE and mount is None:
        return (_APACHE_END,)
    mount = mount or ""
    if not _PLAIN.fullmatch(mount) and ("MOUNT" in found.lines or "PLACE" in found.lines):
        # It would have to be quoted as each web server has it.
        return ()
    if not _QUOTABLE.fullmatch(address):
        address = _SOME_ADDRESS
    words = {
        "MOUNT": re.escape(mount) if key in _WITH_PATTERNS else mount,
        "ADDRESS": f'"{address}"' if " " in address else address,
        "PLACE": mount or "/",
        # With a slash behind the one, there has to be one behind the other.
        "BACKEND": apache_backend(address) + ("" if mount else "/"),
    }
    lines = _WORD.sub(lambda match: words[match[0]], found.lines)
    return (Remedy(found.where, lines),)


def named_mount(mount: str, *, alone: bool = False) -> tuple[Remedy, ...]:
    """Say to the server where the app is; nothing if that cannot be typed.

    Args:
        mount: as an environ has it, a byte a character.
        alone: nothing else helps.
    """
    try:
        typed = mount.encode("latin-1").decode()
    except UnicodeError:
        return ()
    if not typed.isprintable() or len(typed) > MOST_CHARACTERS:
        return ()
    value = shlex.quote(typed) if typed else '""'
    where = "start vsgi-fcgi with" if alone else "or start vsgi-fcgi with"
    return (Remedy(where, f"--script-name {value}"),)


def relay(address: str) -> Remedy:
    """Put a relay between a web server and the server of the app."""
    upstream = shlex.quote(address or _SOME_ADDRESS)
    return Remedy(
        "a relay between the two, to whose socket the web server is sent",
        f"vsgi-fcgi relay --bind unix:/run/relay.sock --upstream {upstream}",
    )


def apache_backend(address: str) -> str:
    """An address as Apache's ProxyPass has it, without a path."""
    if address.startswith("unix:"):
        return f"{address}|fcgi://app"
    return f"fcgi://{address}"
